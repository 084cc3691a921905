"""A base's tokenizer pads and cuts as its model can read."""

import json
from pathlib import Path

from learning.tiny_model import END, write_base
from transfer_learning.blocks.base_model import load_base

LABELS = ["no", "yes"]


def test_a_tokenizer_without_padding_pads_behind_the_text_with_its_end_token(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base", "gpt2")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left"}))

    base = load_base(folder, LABELS, "architecture", seed=0)

    assert (base.tokenizer.pad_token, base.tokenizer.padding_side) == (END, "right")
    assert base.model.config.pad_token_id == base.tokenizer.eos_token_id
    assert len(base.tokenizer) == base.model.config.vocab_size


def test_the_longest_input_is_a_multiple_of_eight_that_positions_allow(tmp_path: Path) -> None:
    lengths = [load_base(write_base(tmp_path / kind, kind), LABELS, "mean", seed=0).max_length for kind in ("bert", "roberta")]

    assert lengths == [48, 48]
