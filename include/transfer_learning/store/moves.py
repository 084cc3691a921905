"""Moves of an alias: what each says of itself, and which of them the rules allow."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from transfer_learning.errors import BadInput, Refused


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Alias:
    """One generation of an alias."""

    version: int
    generation: int
    """Counts the moves, from 1."""
    nonce: str
    """Of the write that made this generation."""
    promote_id: str
    """Of the task or command that asked for it; the same in every retry."""
    actor: str
    reason: str
    previous: int | None
    """The version before this move."""
    as_of: str | None
    """Time of the run whose data the version was judged on."""
    at: str
    """When it moved, ISO 8601."""
    kind: Literal["promote", "rollback"] = "promote"
    override_reason: str | None = None
    """Why it may move against the rules; given by whoever asked."""
    overridden: tuple[str, ...] = ()
    """Codes of the rules of this store that the override set aside."""

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Alias:
        """Build from the alias's document, or from its copy in the history."""
        values = {field.name: body[field.name] for field in dataclasses.fields(cls) if field.name in body}
        return cls(**{**values, "nonce": body.get("alias_nonce", body["nonce"]), "overridden": tuple(body.get("overridden", ()))})

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**dataclasses.asdict(self), "overridden": list(self.overridden)}


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """The outcome of asking an alias to move."""

    alias: Alias
    """As it stands now."""
    moved: bool
    """Whether the alias stands where this promote id moved it, now or in an earlier try."""
    duplicate: Literal["", "current", "late"] = ""
    """``current``: it stood there already; ``late``: this promote id moved it once, and others have moved it on since."""


def broken_rules(
    name: str, version: int, alias: str, current: Alias | None, past: list[Alias], expected: int | None, as_of: str | None
) -> list[Refused]:
    """Return every rule that the promotion breaks, each as one line."""
    broken, advice = [], "give an override reason to promote it all the same"
    if expected != (current.generation if current else None):
        broken.append(has_moved(name, alias, current, expected))
    if current and as_of and current.as_of and _time(as_of) < _time(current.as_of):
        what = f"the run of version {version} of {name} is as of {as_of}, and that of {alias} as of {current.as_of}"
        broken.append(Refused("OLDER_DATA", what, advice))
    if version in _rolled_back(past):
        broken.append(Refused("ROLLED_BACK", f"version {version} of {name} was once rolled back from as {alias}", advice))
    return broken


def has_moved(name: str, alias: str, current: Alias | None, expected: int | None) -> Refused:
    """Return the refusal of a move whose caller saw another generation; ``expected`` None: there was no alias."""
    now = f"version {current.version} in generation {current.generation}, moved by {current.actor}" if current else "not set"
    then = "it was not set" if expected is None else f"generation {expected}"
    return Refused(
        "ALIAS_MOVED",
        f"{alias} of {name} has moved since: expected {then}, found {now}",
        "evaluate against the present one, or give an override reason",
    )


def ways_back(past: list[Alias]) -> Iterator[Alias]:
    """Yield the earlier generations that a rollback may go to, newest first.

    Left out is what was rolled back from later on; a version that came back by override counts again.
    """
    left, current = _rolled_back(past), past[-1]
    for earlier in reversed(past[:-1]):
        if earlier.version != current.version and left.get(earlier.version, 0) <= earlier.generation:
            yield earlier


def _rolled_back(past: list[Alias]) -> dict[int, int]:
    """Return the versions that were rolled back from, each with the newest generation that did it."""
    return {before.version: after.generation for before, after in itertools.pairwise(past) if after.kind == "rollback"}


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput("BAD_TIME", f"as_of {text[:40]!r} is not an ISO 8601 time") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
