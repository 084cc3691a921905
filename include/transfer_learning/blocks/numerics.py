"""What depends on the machine: device, threads, arithmetic. Chosen once, recorded, repeated by a resumed run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from transfer_learning.errors import Stopped
from transfer_learning.stage import Run

if TYPE_CHECKING:
    from transfer_learning.blocks.checkpoint import Snapshot

DRIVER = Path("/dev/nvidiactl")
"""Where a machine has a GPU and its driver."""


def choose(precision: str, run: Run) -> dict[str, Any]:
    """Set up arithmetic for a repeatable run and return every choice.

    Args:
        precision: ``auto``, ``fp32`` or ``bf16``; ``auto`` is bf16 where the processor multiplies it natively.
        run: names the threads; its device is used unless an accelerator is there.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; without it cuBLAS is not repeatable
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    torch.use_deterministic_algorithms(True)
    # Else every tensor is written twice, as an aid for finding faults.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_flush_denormal(True)  # processors take many times as long over the tiny gradients of rows that are learned
    device = "cuda" if torch.cuda.is_available() else run.device
    if device == "cuda":
        # The processor only tokenises then, and one thread is slower than the model.
        os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(torch.get_num_threads())}
    elif DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        run.progress(phase="device", device=device, reason=f"there is a GPU, and torch {torch.__version__} cannot use it")
    native = has_native_bf16(device)
    return {
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precision": ("bf16" if native else "fp32") if precision == "auto" else precision,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


MACHINE = ("device", "device_name", "instructions", "threads", "precision", "torch", "transformers")
"""Choices and facts on which the last bits depend."""


def has_native_bf16(device: str) -> bool:
    """Return whether the device multiplies bf16 itself; emulated bf16 is slower than fp32 and less exact."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def repeat(snapshot: Snapshot | None, run: Run, elsewhere: str = "mark") -> None:
    """Make the choices of a checkpoint again: threads and precision; the machine's own facts stay as they are.

    Args:
        snapshot: what the run goes on from, if anything.
        run: its numerics become those of the resumed run, and carry on what differed at earlier resumes.
        elsewhere: what to do on another kind of machine; see ``mark``.

    Raises:
        Stopped: as ``mark``.
    """
    if snapshot is None:
        return
    stored = snapshot.facts["numerics"]
    torch.set_num_threads(int(stored["threads"]))
    run.numerics |= {"threads": torch.get_num_threads(), "precision": stored["precision"]}
    if "resumed" in stored:
        run.numerics["resumed"] = list(stored["resumed"])
    mark(MACHINE, stored, run, elsewhere)


def mark(names: Sequence[str], stored: Mapping[str, Any], run: Run, elsewhere: str) -> None:
    """Say in the run's numerics which of these choices differ from a checkpoint's: the result may then not be bit-identical.

    Args:
        names: of the choices; those that the checkpoint does not know are left out.
        stored: the numerics of the checkpoint.
        run: gets one sentence for each that differs; see ``notes``.
        elsewhere: what to do then: ``mark`` the model, or ``refuse``.

    Raises:
        Stopped: something differs, and it shall be refused. Neither data nor settings are wrong and the checkpoint stays, so a
            retry that lands on a machine like the first goes on as if nothing had happened.
    """
    found = [
        f"resumed with {name} {run.numerics[name]!r} after {stored[name]!r}"
        for name in names
        if name in stored and stored[name] != run.numerics.get(name)
    ]
    if found and elsewhere == "refuse":
        fix = "retry on a machine like the first, or set resume_elsewhere to 'mark'"
        raise Stopped(f"ELSEWHERE the training would be {', '.join(found)} — {fix}")
    if found:
        run.numerics["resumed"] = [*notes(run), *found]


def notes(run: Run) -> list[str]:
    """Return a sentence for each choice that differed from the checkpoint's, here or at an earlier resume."""
    return list(run.numerics.get("resumed", ()))
