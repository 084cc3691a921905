"""How many processors a process may use where its control groups give it a share of them, as a container's CPU limit does.

Libraries count the processors that they see and start a thread for each. On a large machine that is many threads for the time of
a few processors: the kernel stops all of them once that time is spent, mostly while they wait for one another. Already with two
threads for the time of one processor a training takes half as long again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

OWN_GROUPS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")


def cpu_limit(own_groups: Path = OWN_GROUPS, mounted: Path = MOUNTED) -> int | None:
    """Return how many processors' time the kernel allows this process, rounded up; None where nothing limits it.

    Args:
        own_groups: names the groups of the process, a line for each hierarchy (cgroups(7)).
        mounted: where the hierarchies are; version 2 is one of its own, of version 1 there is one for ``cpu``.
    """
    shares = [share for folder in _folders(own_groups, mounted) if (share := _share(folder)) is not None]
    return max(1, math.ceil(min(shares))) if shares else None


def _folders(own_groups: Path, mounted: Path) -> Iterator[Path]:
    """Yield the groups of this process and all that they are in: the least of their limits holds.

    A container sees its own group as the topmost one, whatever it is called outside.
    """
    try:
        lines = own_groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(name.lstrip("/"))
        for place in (group, *group.parents):
            yield mounted / ("cpu" if controllers else "") / place


def _share(folder: Path) -> float | None:
    """Return the processor time of a group as a share of time; None without a limit."""
    try:
        if (both := folder / "cpu.max").exists():
            quota, period = both.read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / name).read_text(encoding="utf-8").strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None
