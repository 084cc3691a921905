"""Language models: an architecture with its head, from scratch by name and size, or from a base model that may lack the head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForPreTraining

from transfer_learning.blocks.base_model import check_weights, load_weights, quiet_library
from transfer_learning.blocks.base_model import read_any_config as read_config
from transfer_learning.blocks.base_tokenizer import load_tokenizer, longest_input
from transfer_learning.blocks.language.generator import GENERATOR, add_generator
from transfer_learning.blocks.safe_loading import check_files
from transfer_learning.errors import BadInput
from transfer_learning.specs import PretrainSpec
from transfer_learning.specs.architectures import FAMILIES, OBJECTIVES, PAIRED, Size, who_learns

LOADERS = {"masked_lm": AutoModelForMaskedLM, "causal_lm": AutoModelForCausalLM, "replaced_token": AutoModelForPreTraining}
PAIR_LOADER = AutoModelForPreTraining
"""With a second head, which tells how two segments stand to each other."""


@dataclasses.dataclass(frozen=True, slots=True)
class LanguageHead:
    """Where the language-model head of one architecture lies, and how it decodes."""

    keys: tuple[str, ...]
    """First part of its weights' names in the whole model."""
    decode: Callable[[Any, torch.Tensor], torch.Tensor]
    """(model, states (any, width)) -> logits (any, vocabulary)."""
    compare: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
    """(model, first tokens' states behind the pooler (rows, width)) -> logits (rows, 2), where it has such a head."""


def _distilbert(model: Any, states: torch.Tensor) -> torch.Tensor:
    return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(states))))  # type: ignore[no-any-return]


HEADS: dict[str, LanguageHead] = {
    "bert": LanguageHead(
        ("cls.",), lambda model, states: model.cls.predictions(states), lambda model, pooled: model.cls.seq_relationship(pooled)
    ),
    "roberta": LanguageHead(("lm_head.",), lambda model, states: model.lm_head(states)),
    "distilbert": LanguageHead(("vocab_transform.", "vocab_layer_norm.", "vocab_projector."), _distilbert),
    "electra": LanguageHead(
        ("generator_predictions.", "generator_lm_head.", "discriminator_predictions.", f"{GENERATOR}."),
        lambda model, states: model.generator_lm_head(model.generator_predictions(states)),
    ),
    "albert": LanguageHead(
        ("predictions.", "sop_classifier."),
        lambda model, states: model.predictions(states),
        lambda model, pooled: model.sop_classifier(pooled),
    ),
    "gpt2": LanguageHead(("lm_head.",), lambda model, states: model.lm_head(states)),
}
"""By ``model_type``. Each decoder is tied to the token embeddings."""


@dataclasses.dataclass(frozen=True, slots=True)
class LanguageModel:
    """A model with its head and its tokenizer."""

    model: Any
    tokenizer: Any
    objective: str
    max_length: int
    """The longest input in tokens that model and tokenizer can."""
    new_head: bool
    """The base brought no head of this kind, so one starts from the seed."""
    sentences: str | None = None
    """``next_sentence`` or ``sentence_order``, where the model also learns from pairs."""

    @property
    def kind(self) -> str:
        """The architecture's ``model_type``."""
        return str(self.model.config.model_type)

    @property
    def causal(self) -> bool:
        """Whether a token sees nothing to its right."""
        return self.objective == "causal_lm"

    @property
    def tokens_alone(self) -> bool:
        """Whether the loss is the cross-entropy of predicted tokens and nothing else, so that it has a perplexity."""
        return self.sentences is None and self.objective != "replaced_token"

    @property
    def parts(self) -> list[Any]:
        """The model, and its generator where it has one."""
        return [self.model, *([getattr(self.model, GENERATOR)] if self.objective == "replaced_token" else [])]

    def published_parameters(self) -> dict[str, nn.Parameter]:
        """Return the weights by name, each tied one once, without a generator's own."""
        named = self.model.named_parameters()
        return {name: parameter for name, parameter in named if not name.startswith(f"{GENERATOR}.")}

    @property
    def first_position(self) -> int:
        """Number of the position of a text's first token; RoBERTa counts from behind its padding."""
        return int(self.model.config.pad_token_id) + 1 if self.kind == "roberta" else 0

    def states(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the last layer's states, (rows, length, width).

        Args:
            batch: ``input_ids`` and ``position_ids``, int64 (rows, length), and a float ``attention_mask``, (rows, 1, length,
                length), that is added to the scores.
        """
        kept = {"use_cache": False} if self.causal else {}
        return self.model.base_model(**batch, **kept).last_hidden_state  # type: ignore[no-any-return]

    def states_and_pooled(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last layer's states, and what the pooler makes of the first token's, (rows, width)."""
        found = self.model.base_model(**batch)
        return found.last_hidden_state, found.pooler_output

    def compare(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits of a true pair and of a spoilt one, (rows, 2)."""
        compare = HEADS[self.kind].compare
        assert compare is not None
        return compare(self.model, pooled)

    def decode(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of some states: (any, width) -> (any, vocabulary)."""
        return HEADS[self.kind].decode(self.model, states)

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Return the head's own weights, a pooler's included; the decoder's are the token embeddings and not among them."""
        keys = (*HEADS[self.kind].keys, f"{self.model.base_model_prefix}.pooler.")
        return {name: parameter for name, parameter in self.model.named_parameters() if name.startswith(keys)}


def from_base(folder: Path, objective: str, seed: int, sentences: str | None = None) -> LanguageModel:
    """Load a base model in fp32 on the CPU, with a head that predicts tokens.

    Order of initialisation:
    1. a checkpoint of this very job, loaded over what this function returns (``checkpoint.py``);
    2. the base model: every weight it has, those of its language-model head included;
    3. from scratch, from ``seed``: a head that the base lacks, its decoder tied to the token embeddings, and nothing else.

    Args:
        folder: with config.json, safetensors weights and tokenizer files.
        objective: ``masked_lm`` or ``causal_lm``.
        seed: of a fresh head.
        sentences: ``next_sentence`` or ``sentence_order``, for a head on pairs too.

    Raises:
        BadInput: an architecture that does not learn this objective, or as ``base_model.load_base``.
    """
    config = read_config(folder)
    _refuse_unfit(str(config.model_type), objective, sentences, folder)
    if objective == "masked_lm" and getattr(config, "is_decoder", False):
        raise BadInput("ARCHITECTURE", "the model is set up as a decoder", "use an encoder", file=folder / "config.json")
    check_files(folder)
    check_weights(folder)
    quiet_library()
    loader = PAIR_LOADER if sentences else LOADERS[objective]
    model, report = load_weights(loader, folder, config, seed, _is_head)
    lacking = {*report["missing_keys"], *(str(key) for key, *_ in report["mismatched_keys"])}
    tokenizer = load_tokenizer(folder, model, pads_with_end=objective == "causal_lm")
    found = LanguageModel(model, tokenizer, objective, 0, new_head=False, sentences=sentences)
    if new_head := any(name in lacking for name in found.head_parameters()):
        _start_head(found, lacking, seed)
    if objective == "replaced_token":
        new_head = add_generator(model, folder, seed) or new_head
    longest = longest_input(model, tokenizer, found.first_position)
    return dataclasses.replace(found, max_length=longest, new_head=new_head)


def from_scratch(spec: PretrainSpec, tokenizer: Any, max_length: int) -> LanguageModel:
    """Build an architecture with random weights in fp32 on the CPU.

    Args:
        spec: names architecture, size and seed.
        tokenizer: with the special tokens of this architecture.
        max_length: longest input in tokens.
    """
    quiet_library()
    config = scratch_config(spec, len(tokenizer), tokenizer)
    torch.manual_seed(spec.seed)
    loader = PAIR_LOADER if spec.sentences else LOADERS[spec.objective]
    model = loader.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    if spec.objective == "replaced_token":
        add_generator(model, None, spec.seed)
    return LanguageModel(model, tokenizer, spec.objective, max_length, new_head=False, sentences=spec.sentences)


def scratch_config(spec: PretrainSpec, vocab_size: int, tokenizer: Any | None = None) -> Any:
    """Return the configuration of an architecture by size.

    Args:
        spec: names architecture and size.
        vocab_size: tokens to embed.
        tokenizer: whose special tokens the configuration names; None leaves the architecture's own.
    """
    kind = str(spec.architecture)
    family = FAMILIES[kind]
    size = family.sizes[spec.size or "tiny"]
    width = spec.hidden_size or size.hidden_size
    embeddings = min(size.embedding_size, width) if size.embedding_size else None
    size = Size(spec.layers or size.layers, width, spec.heads or size.heads, embeddings)
    positions = max(family.positions, spec.max_length or 0)
    values = _names(kind, size, positions) | {"vocab_size": vocab_size}
    if tokenizer is not None:
        values |= {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "bos", "eos")}
        if kind == "roberta":  # its positions start behind the number of the padding token
            values["max_position_embeddings"] = positions + tokenizer.pad_token_id + 1
    return CONFIG_MAPPING[kind](**values)


def _names(kind: str, size: Size, positions: int) -> dict[str, Any]:
    """Return a size by the names of one architecture's configuration."""
    wide = 4 * size.hidden_size
    if kind == "gpt2":
        return {"n_layer": size.layers, "n_embd": size.hidden_size, "n_head": size.heads, "n_positions": positions}
    if kind == "distilbert":
        shape = {"n_layers": size.layers, "dim": size.hidden_size, "n_heads": size.heads, "hidden_dim": wide}
        return shape | {"max_position_embeddings": positions}
    values = {
        "num_hidden_layers": size.layers,
        "hidden_size": size.hidden_size,
        "num_attention_heads": size.heads,
        "intermediate_size": wide,
        "max_position_embeddings": positions,
    }
    if kind == "roberta":  # the number of its own padding token is 1
        return values | {"max_position_embeddings": positions + 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return values | ({"embedding_size": size.embedding_size} if size.embedding_size else {})


def _refuse_unfit(kind: str, objective: str, sentences: str | None, folder: Path) -> None:
    if kind not in OBJECTIVES[objective]:
        what = f"a model of type {kind!r} does not support the objective {objective!r}"
        raise BadInput("ARCHITECTURE", what, who_learns(objective), file=folder / "config.json")
    if sentences is not None and kind not in PAIRED:
        what = f"a model of type {kind!r} does not support {sentences!r}"
        raise BadInput("ARCHITECTURE", what, f"it is learned by {', '.join(PAIRED)}", file=folder / "config.json")


def _is_head(key: str, model: Any) -> bool:
    """Whether a key belongs to the language-model head, or to a pooler, which stands above the last layer."""
    kind = str(model.config.model_type)
    return key.startswith(HEADS[kind].keys) or key.removeprefix(f"{model.base_model_prefix}.").startswith("pooler.")


def _start_head(language: LanguageModel, lacking: set[str], seed: int) -> None:
    """Initialise what a base lacks of the head from scratch; its decoder stays tied to the token embeddings."""
    generator = torch.Generator().manual_seed(seed)
    scale = float(getattr(language.model.config, "initializer_range", 0.02))
    norms = {id(module.weight) for module in language.model.modules() if isinstance(module, nn.LayerNorm)}
    for name, parameter in language.head_parameters().items():
        if name not in lacking:
            continue
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=scale, generator=generator)
        else:
            nn.init.ones_(parameter) if id(parameter) in norms else nn.init.zeros_(parameter)
