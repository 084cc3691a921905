"""Language models: what packed documents see of each other, exact sizes, heads that a base has or lacks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertForMaskedLM

from learning.real_news import BASE
from learning.tiny_language import KINDS, MASKED, blocks_for, load
from learning.tiny_model import write_base, write_tokenizer
from transfer_learning.blocks.language.model import LOADERS, LanguageModel, from_base, scratch_config
from transfer_learning.blocks.language.objectives import batch_of
from transfer_learning.blocks.language.packing import Blocks
from transfer_learning.errors import BadInput
from transfer_learning.specs import PretrainSpec
from transfer_learning.specs.architectures import FAMILIES, OBJECTIVES

PARAMETERS = {
    ("bert", "base"): 109_514_298,
    ("bert", "large"): 335_174_458,
    ("roberta", "base"): 124_697_433,
    ("roberta", "large"): 355_412_057,
    ("distilbert", "base"): 66_985_530,
    ("electra", "small"): 13_546_682,
    ("electra", "base"): 109_514_298,
    ("albert", "base"): 11_221_680,
    ("albert", "large"): 16_795_824,
    ("albert", "xlarge"): 54_821_040,
    ("albert", "xxlarge"): 206_368_944,
    ("gpt2", "small"): 124_439_808,
    ("gpt2", "medium"): 354_823_168,
    ("gpt2", "large"): 774_030_080,
    ("gpt2", "xl"): 1_557_611_200,
}
"""Weights with the language-model head, each tied one counted once."""


def objective_of(kind: str) -> str:
    return next(objective for objective, kinds in OBJECTIVES.items() if kind in kinds)


@pytest.mark.parametrize(("kind", "size"), PARAMETERS)
def test_a_named_size_has_the_papers_number_of_weights(kind: str, size: str) -> None:
    spec = PretrainSpec(objective=objective_of(kind), architecture=kind, size=size)

    with torch.device("meta"):
        model = LOADERS[spec.objective].from_config(scratch_config(spec, FAMILIES[kind].vocab_size))

    assert model.num_parameters() == PARAMETERS[kind, size]


def states_of(language: LanguageModel, blocks: Blocks, ids: np.ndarray, attention: str) -> torch.Tensor:
    language.model.set_attn_implementation(attention)
    with torch.no_grad():
        return language.states(batch_of(blocks, [0], ids, language, "cpu"))[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_document_sees_nothing_of_the_others_in_its_block(tmp_path: Path, kind: str, attention: str) -> None:
    language = load(tmp_path, kind)
    blocks = blocks_for(language, longest=12)
    numbers = blocks.pieces[0]
    assert numbers.max() > 2
    before = states_of(language, blocks, blocks.ids[:1], attention)

    for changed in range(1, numbers.max() + 1):
        ids = blocks.ids[:1].copy()
        ids[0, numbers == changed] = np.roll(ids[0, numbers == changed], 1)
        after = states_of(language, blocks, ids, attention)

        others = torch.from_numpy(numbers != changed)
        assert torch.equal(after[others], before[others])
        assert not torch.allclose(after[~others], before[~others])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_the_mask_positions_alone_would_leak(tmp_path: Path, attention: str) -> None:
    language = load(tmp_path, "bert")
    blocks = blocks_for(language)
    numbers = blocks.pieces[0]
    ids = blocks.ids[:1].copy()
    ids[0, numbers == 1] = np.roll(ids[0, numbers == 1], 1)
    language.model.set_attn_implementation(attention)

    def unmasked(tokens: np.ndarray) -> torch.Tensor:
        batch = batch_of(blocks, [0], tokens, language, "cpu")
        return language.model.base_model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).last_hidden_state[0]

    others = torch.from_numpy(numbers != 1)
    assert not torch.allclose(unmasked(ids)[others], unmasked(blocks.ids[:1])[others])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_causal_model_sees_nothing_of_the_future(tmp_path: Path, attention: str) -> None:
    language = load(tmp_path, "gpt2")
    blocks = blocks_for(language)
    before = states_of(language, blocks, blocks.ids[:1], attention)

    for place in (3, 17, blocks.length - 1):
        ids = blocks.ids[:1].copy()
        ids[0, place] = 5 if ids[0, place] != 5 else 6
        after = states_of(language, blocks, ids, attention)

        assert torch.equal(after[:place], before[:place])
        assert not torch.allclose(after[place], before[place])


@pytest.mark.parametrize("kind", MASKED)
def test_a_masked_model_sees_both_sides(tmp_path: Path, kind: str) -> None:
    language = load(tmp_path, kind)
    blocks = blocks_for(language)
    length = int((blocks.pieces[0] == 1).sum())
    ids = blocks.ids[:1].copy()
    ids[0, length - 2] = 5 if ids[0, length - 2] != 5 else 6

    before, after = (states_of(language, blocks, tokens, "sdpa") for tokens in (blocks.ids[:1], ids))

    assert not torch.allclose(after[1], before[1])


@pytest.mark.parametrize("kind", MASKED)
def test_a_base_without_a_head_gets_one_whose_decoder_is_tied(tmp_path: Path, kind: str) -> None:
    language = load(tmp_path, kind)

    decoder = language.model.get_output_embeddings()
    assert language.new_head
    assert decoder.weight is language.model.get_input_embeddings().weight
    assert language.head_parameters()
    assert not any("decoder.weight" in name for name in language.head_parameters())
    for name, parameter in language.head_parameters().items():
        if parameter.ndim == 1:
            assert set(parameter.tolist()) == ({1.0} if "norm" in name.lower() and name.endswith("weight") else {0.0})


def test_minilm_as_shipped_gets_a_head() -> None:
    language = from_base(BASE, "masked_lm", seed=0)

    assert language.new_head
    assert language.max_length == 512
    assert {name.rpartition(".")[0] for name in language.head_parameters()} == {
        "cls.predictions",
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
    }
    assert language.model.get_output_embeddings().weight is language.model.get_input_embeddings().weight


def test_gpt2_needs_no_new_head(tmp_path: Path) -> None:
    language = load(tmp_path, "gpt2")

    assert not language.new_head
    assert language.head_parameters() == {}


def test_a_head_starts_from_the_seed_and_the_base_stays_its_own(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base", "bert")

    first, second, other = (from_base(folder, "masked_lm", seed).model.state_dict() for seed in (0, 0, 1))

    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert differing == {"cls.predictions.transform.dense.weight"}


def test_a_base_with_a_head_keeps_it(tmp_path: Path) -> None:
    language = load(tmp_path, "bert")
    language.model.save_pretrained(tmp_path / "whole")
    language.tokenizer.save_pretrained(tmp_path / "whole")

    again = from_base(tmp_path / "whole", "masked_lm", seed=5)

    ours, theirs = again.model.state_dict(), BertForMaskedLM.from_pretrained(tmp_path / "whole").state_dict()
    assert not again.new_head
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("kind", "loader"), [("bert", AutoModelForMaskedLM), ("gpt2", AutoModelForCausalLM)])
def test_it_is_the_model_of_transformers(tmp_path: Path, kind: str, loader: type) -> None:
    language = load(tmp_path, kind)

    assert type(language.model) is type(loader.from_config(language.model.config))


@pytest.mark.parametrize(("kind", "second"), [("bert", "cls.seq_relationship"), ("albert", "sop_classifier.classifier")])
def test_a_base_without_a_head_for_pairs_gets_one_and_keeps_what_it_has(tmp_path: Path, kind: str, second: str) -> None:
    language = load(tmp_path, kind)
    language.model.save_pretrained(tmp_path / "whole")
    language.tokenizer.save_pretrained(tmp_path / "whole")

    paired = from_base(tmp_path / "whole", "masked_lm", seed=5, sentences="sentence_order")

    ours, theirs = language.model.state_dict(), paired.model.state_dict()
    fresh = {name for name in paired.head_parameters() if name not in ours}
    assert paired.new_head
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert fresh == {f"{second}.weight", f"{second}.bias", *(name for name in theirs if "pooler" in name)}


@pytest.mark.promise(27)
def test_an_architecture_without_a_head_for_pairs_is_refused_with_those_that_have_one(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base", "electra")

    with pytest.raises(
        BadInput, match="^ARCHITECTURE .*'electra' does not support 'next_sentence' — it is learned by bert, albert"
    ):
        from_base(folder, "masked_lm", seed=0, sentences="next_sentence")


@pytest.mark.promise(27)
@pytest.mark.parametrize(("kind", "objective"), [("bert", "causal_lm"), ("gpt2", "masked_lm")])
def test_an_architecture_that_does_not_learn_the_objective_is_refused_with_those_that_do(
    tmp_path: Path, kind: str, objective: str
) -> None:
    folder = write_base(tmp_path / "base", kind)

    with pytest.raises(BadInput) as refusal:
        from_base(folder, objective, seed=0)

    assert str(refusal.value).startswith("ARCHITECTURE ")
    assert f"a model of type {kind!r} does not support the objective {objective!r}" in str(refusal.value)
    assert f"{objective} is learned by {', '.join(OBJECTIVES[objective])}" in str(refusal.value)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base", "bert")
    write_tokenizer(folder, extra=3)

    with pytest.raises(BadInput, match=r"^TOKENIZER .* the tokenizer has 28 tokens and the model embeds 25"):
        from_base(folder, "masked_lm", seed=0)


def test_weights_in_several_files_are_one_base(tmp_path: Path) -> None:
    language = load(tmp_path, "bert")
    language.model.save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    language.tokenizer.save_pretrained(tmp_path / "sharded")

    again = from_base(tmp_path / "sharded", "masked_lm", seed=5)

    ours, theirs = again.model.state_dict(), language.model.state_dict()
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
