"""Loading a base model's tokenizer: no code, no network, and none that does not fit its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from transfer_learning.errors import BadInput, one_line


def load_tokenizer(folder: Path, model: Any, *, pads_with_end: bool = False) -> Any:
    """Return the folder's tokenizer.

    Args:
        folder: of the model.
        model: whose tokenizer it is.
        pads_with_end: a tokenizer without a padding token pads with its end-of-text token, as GPT-2's does.

    Raises:
        BadInput: it cannot be loaded, knows no word, or has more tokens than the model embeds.
    """
    tokenizer = read_tokenizer(folder, model.config, pads_with_end=pads_with_end)
    if tokenizer.pad_token_id is None:
        raise _unusable(folder)
    embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embeddings:
        raise BadInput(
            "TOKENIZER",
            f"the tokenizer has {len(tokenizer)} tokens and the model embeds {embeddings}",
            "use the tokenizer the model was trained with",
            file=folder,
        )
    return tokenizer


def read_tokenizer(folder: Path, config: Any, *, pads_with_end: bool) -> Any:
    """Return the folder's tokenizer, whatever model it is for.

    Args:
        folder: of a model.
        config: that model's.
        pads_with_end: as of ``load_tokenizer``.

    Raises:
        BadInput: it cannot be loaded, or knows no word.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
        if pads_with_end and tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
            tokenizer.pad_token = tokenizer.eos_token
        knows_words = len(tokenizer) > len(tokenizer.all_special_tokens)
    except Exception as error:  # the library raises whatever the file made it stumble over
        raise BadInput(
            "TOKENIZER", f"cannot be loaded: {one_line(str(error))[:200]}", "add the model's tokenizer files", file=folder
        ) from None
    if not knows_words:
        raise _unusable(folder)
    return tokenizer


def _unusable(folder: Path) -> BadInput:
    return BadInput("TOKENIZER", "has no vocabulary or no padding token", "add the model's tokenizer files", file=folder)


def length_within(asked: int | None, limit: int, tokenizer: Any, *, pairs: bool) -> int:
    """Return how many tokens inputs are cut to: as many as asked for, or as the model takes.

    Args:
        asked: number of tokens, or None.
        limit: what the model takes.
        tokenizer: of the model; adds tokens of its own to each input.
        pairs: whether an input is two texts.

    Raises:
        BadInput: more than the model takes, or too few for a token of each text.
    """
    if asked is None:
        return limit
    if asked > limit:
        raise BadInput("BAD_SETTING", f"max_length is {asked}, and the base model takes {limit} tokens", f"at most {limit}")
    own = tokenizer.num_special_tokens_to_add(pair=pairs)
    if asked < (least := own + 1 + pairs):
        raise BadInput("BAD_SETTING", f"max_length is {asked}, and {own} tokens are the tokenizer's own", f"at least {least}")
    return asked


def longest_input(model: Any, tokenizer: Any, reserved: int) -> int:
    """Return the longest input in tokens that model and tokenizer can, a multiple of 8; ``reserved`` positions are no token's."""
    positions = int(model.config.max_position_embeddings) - reserved
    return int(min(positions, tokenizer.model_max_length)) // 8 * 8
