"""A base's tokenizer pads and cuts as its model can read."""

import json
from pathlib import Path

import pytest

from learning.tiny_model import END, write_base
from transfer_learning.blocks.base_model import load_base
from transfer_learning.blocks.base_tokenizer import length_within
from transfer_learning.errors import BadInput

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


@pytest.mark.parametrize(
    ("kind", "pairs", "asked", "line"),
    [
        ("bert", False, 49, "max_length is 49, and the base model takes 48 tokens — at most 48"),
        ("bert", False, 2, "max_length is 2, and 2 tokens are the tokenizer's own — at least 3"),
        ("bert", True, 4, "max_length is 4, and 3 tokens are the tokenizer's own — at least 5"),
        ("gpt2", True, 1, "max_length is 1, and 0 tokens are the tokenizer's own — at least 2"),
    ],
)
def test_a_length_that_leaves_nothing_of_a_text_or_is_too_much_is_one_line(
    tmp_path: Path, kind: str, pairs: bool, asked: int, line: str
) -> None:
    tokenizer = load_base(write_base(tmp_path / "base", kind), LABELS, "mean", seed=0).tokenizer

    with pytest.raises(BadInput, match=f"^BAD_SETTING {line}$"):
        length_within(asked, 48, tokenizer, pairs=pairs)


@pytest.mark.parametrize(("asked", "length"), [(None, 48), (48, 48), (3, 3)])
def test_a_length_within_the_bounds_is_kept(tmp_path: Path, asked: int | None, length: int) -> None:
    tokenizer = load_base(write_base(tmp_path / "base"), LABELS, "mean", seed=0).tokenizer

    assert length_within(asked, 48, tokenizer, pairs=False) == length
