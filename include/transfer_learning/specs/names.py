"""Names, durations and seeds as they stand in settings."""

from __future__ import annotations

import re
from datetime import timedelta

from transfer_learning.errors import BadInput

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
"""What names of models, datasets and aliases look like; checked before any of them joins a path."""

DURATION = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?"
)


LARGEST_SEED = 2**32 - 1

LONGEST_DURATION = timedelta(days=36525)
"""A hundred years: before any run's own time there is room for it in the calendar."""


def check_name(name: str, what: str = "name") -> str:
    """Return ``name`` if it is safe as one path segment.

    Raises:
        BadInput: it does not match ``[a-z0-9][a-z0-9._-]{0,62}``, or holds two dots in a row.
    """
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name) or ".." in name:
        raise BadInput(
            "BAD_NAME", f"{what} {str(name)[:80]!r} is not allowed", "use [a-z0-9][a-z0-9._-]{0,62}, such as 'bbc-headlines'"
        )
    return name


def check_seed(seed: int, where: str) -> None:
    """Check that every library here takes this seed.

    Raises:
        BadInput: it lies outside 0 to 2**32 - 1.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise BadInput("BAD_SETTING", f"{where} must lie between 0 and {LARGEST_SEED}, found {seed}")


def duration(text: str, where: str = "duration") -> timedelta:
    """Return an ISO 8601 duration such as ``P30D`` or ``PT12H``.

    Raises:
        BadInput: months and years (their length varies), zero, more than a hundred years, or anything else.
    """
    match = DURATION.fullmatch(text)
    try:
        span = timedelta(**{unit: int(number) for unit, number in match.groupdict().items() if number}) if match else timedelta(0)
    except (OverflowError, ValueError):
        span = timedelta.max
    if span > LONGEST_DURATION:
        raise BadInput("BAD_SETTING", f"{where} is longer than a hundred years: {text[:80]!r}", "write 'P30D' or 'PT12H'")
    if not span:
        raise BadInput(
            "BAD_SETTING",
            f"{where} must be an ISO 8601 duration in weeks, days, hours, minutes or seconds, found {text[:80]!r}",
            "write 'P30D' or 'PT12H'",
        )
    return span
