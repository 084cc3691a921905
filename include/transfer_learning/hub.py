"""The Hugging Face hub, as far as base models and datasets share it: the module itself, and what its errors mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfer_learning.disk import disk_full, is_disk_full
from transfer_learning.errors import BadInput, StoreUnreachable, TransferLearningError

PASSING = (408, 425, 429)
"""Statuses below 500 that a retry may cure."""

NOT_REACHED = ("Connect", "Timeout", "Offline", "LocalEntryNotFound")
"""Parts of the names of errors that come without an answer."""


def open_hub(uri: str) -> Any:
    """Return the module ``huggingface_hub``.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        fix = "install the extra [torch] where this task runs"
        raise BadInput("NO_HUB", "hf:// needs the package huggingface_hub", fix, file=uri) from None
    return huggingface_hub


def moving_revision(uri: str, pinned: str) -> str | None:
    """Return a sentence where an ``hf://`` URI names something that may be another commit tomorrow: a branch, a tag, or nothing.

    Args:
        uri: as it was asked for.
        pinned: the same with the commit that it names now.
    """
    repository, _, asked = uri.partition("@")
    commit = pinned.partition("@")[2]
    if not uri.startswith("hf://") or asked == commit:
        return None
    names = f"names the revision {asked!r}" if asked else "names no revision"
    return f"Base {uri} {names}, which can move: this run is pinned to commit {commit}; write {repository}@{commit} to keep it."


def hub_error(error: Exception, uri: str, mirror: str) -> TransferLearningError:
    """Tell a hub that cannot be reached, which a retry may cure, from one that refuses.

    Args:
        error: what the library raised.
        uri: what was asked for.
        mirror: what to do where the hub is out of reach for good.
    """
    if isinstance(error, TransferLearningError):
        return error
    if is_disk_full(error):
        return disk_full(Path(getattr(error, "filename", None) or uri))
    if _is_refusal(error):
        return BadInput(
            "HUB", f"the hub refused it ({type(error).__name__})", "check name and revision, and that it is public", file=uri
        )
    return StoreUnreachable(f"HUB {uri} the hub cannot be reached from here ({type(error).__name__}) — {mirror}")


def _is_refusal(error: Exception) -> bool:
    # Not by type: the library's own "there is no such repository" is an OSError, like a connection that breaks.
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in PASSING
    return not isinstance(error, OSError) and not any(word in type(error).__name__ for word in NOT_REACHED)
