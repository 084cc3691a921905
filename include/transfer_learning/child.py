"""What a child process does to itself before it runs a stage: die with its parent, stay offline, keep to its limits."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer_learning.cpu_limit import cpu_limit

PARENT = "TRANSFER_LEARNING_PARENT"
"""Environment variable with the process id that a child must not outlive."""

PR_SET_PDEATHSIG = 1
MIB = 1024 * 1024

KEPT = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
KEPT_PREFIXES = (
    "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_", "OMP_", "GOMP_", "MKL_", "TORCH_", "PYTORCH_", "PYTHON", "MALLOC_"
)  # fmt: skip

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

DEFAULTS = {"GOMP_SPINCOUNT": "6000"}
"""How often a thread looks for work before it sleeps; ``blocks.waiting`` says why, and makes it less on a busy machine. The
parent's own setting goes before this."""

KEEP_FREED = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * MIB), "MALLOC_TRIM_THRESHOLD_": str(1024 * MIB), "MALLOC_ARENA_MAX": "1"
}  # fmt: skip
"""glibc gives the memory of a large tensor back when it is freed, and the kernel clears every page of the next one: the features
of 1,700 texts took 2.2 million page faults, and take 0.2 million and a tenth less time where up to 1 GiB stays. A thread's own
arena gives it back all the same. Older releases refuse a first threshold above 32 MiB. The parent's settings go before these."""


def environment(parent: Mapping[str, str], threads: int | None = None, limits: Mapping[str, int] | None = None) -> dict[str, str]:
    """Return what a child inherits: an allow-list, so that no credential of the parent is in it, and the hub switched off.

    Args:
        parent: the environment of this process.
        threads: of the child's arithmetic; None leaves it to ``OMP_NUM_THREADS``, then to the CPU limit, then to torch.
        limits: as of ``keep_to_limits``; a limit on memory counts what was freed and is kept.
    """
    defaults = DEFAULTS if (limits or {}).get("memory_mb") else DEFAULTS | KEEP_FREED
    kept = defaults | {name: value for name, value in parent.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    kept |= OFFLINE | {PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    if threads is not None:
        kept |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    elif (allowed := cpu_limit()) is not None and allowed < len(os.sched_getaffinity(0)):
        kept.setdefault("OMP_NUM_THREADS", str(allowed))
    return kept


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends; end at once if that has already happened.

    The kernel does not hand this on: every grandchild, such as a rank in a session of its own, calls it for itself.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = os.environ.get(PARENT)
    if expected is not None and os.getppid() != int(expected):
        os._exit(75)
    os.environ[PARENT] = str(os.getpid())


def stay_offline() -> None:
    """Refuse every connection, datagram and look-up but loopback that Python code asks for, in whatever library."""
    sys.addaudithook(_refuse_network)


def keep_to_limits(limits: Mapping[str, int]) -> None:
    """Apply ``memory_mb`` (private writable memory, MiB) and ``cpu_seconds``; a lower limit of the machine's own stays."""
    if memory := limits.get("memory_mb"):
        _lower(resource.RLIMIT_DATA, memory * MIB, memory * MIB)
    if seconds := limits.get("cpu_seconds"):
        _lower(resource.RLIMIT_CPU, seconds, seconds + 5)


def peak_memory() -> int:
    """Return the most memory this process has held, bytes; ``ru_maxrss`` would begin with what its parent held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _lower(kind: int, soft: int, hard: int) -> None:
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not _is_loopback(host):
        raise PermissionError(f"a stage runs without network: connection to {host!r} refused")


def _is_loopback(host: Any) -> bool:
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False
