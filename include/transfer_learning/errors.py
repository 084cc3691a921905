"""Every error a user can meet.

TransferLearningError
├── BadInput             exit 65   data, settings or a model that cannot work; retrying cannot help
│   └── Refused          exit 65   a promotion or an alias move that needs an explicit override
├── Crashed              exit 70   the child died without saying why; retry
├── OutOfMemory          exit 71   after all halvings of the micro-batch
│   ├── HostOutOfMemory
│   └── DeviceOutOfMemory
├── Diverged             exit 72   NaN or infinity in loss, gradient or weights
├── Stopped              exit 75   asked to stop; a retry resumes
└── StoreError           exit 74   object storage failed; retry
    ├── StoreUnreachable
    ├── OutcomeUnknown             a write whose answer was lost and could not be read back
    ├── ObjectMissing
    └── PreconditionFailed         somebody else wrote first
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self

NO_MEMORY = (
    "out of memory",  # torch, on an accelerator
    "not enough memory",  # torch, on the host
    "allocate memory",  # the kernel
    "bad_alloc",  # C++
    "alloc_failed",  # cuBLAS and cuDNN
    "could not create a primitive",  # oneDNN, which says no more than that
    "failed to launch worker thread",  # Arrow, with no room for its stack
    "failed to map segment",  # the loader of a library
)
"""What libraries say when memory runs out and the error has no type of its own."""


class TransferLearningError(Exception):
    """Base of all errors of this project; ``exit_code`` is what a process ends with."""

    exit_code = 70
    retryable = True


class BadInput(TransferLearningError):
    """One line: ``CODE file[:row] [column] what — what to do``. Nothing was written.

    Args:
        code: a short upper-case word that stays the same across releases, such as ``MISSING_COLUMN``.
        what: what was found and what was expected.
        fix: what the user can do about it.
        file: the file, URI or setting that is wrong.
        row: the row, counted from 1 without the header.
        column: the column's name.
    """

    exit_code = 65
    retryable = False

    def __init__(
        self, code: str, what: str, fix: str = "", *, file: object = None, row: int | None = None, column: str | None = None
    ) -> None:
        where = "" if file is None else f" {file}"
        where += "" if row is None else f":{row}"
        where += "" if column is None else f" [{column}]"
        advice = f" — {fix}" if fix else ""
        super().__init__(one_line(f"{code}{where} {what}{advice}"))
        self.code = code

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Rebuild the error from its one line, as it comes back from a child process."""
        code, _, rest = line.partition(" ")
        return cls(code, rest)


class Refused(BadInput):
    """A promotion or alias move against the rules; overridable with a recorded reason."""


class Crashed(TransferLearningError):
    """The child process died without a result."""


class OutOfMemory(TransferLearningError):
    """Memory ran out even at the smallest micro-batch."""

    exit_code = 71
    retryable = False


class HostOutOfMemory(OutOfMemory):
    """The machine's memory ran out; retried at half the micro-batch."""

    retryable = True


class DeviceOutOfMemory(OutOfMemory):
    """The accelerator's memory ran out."""


class Diverged(TransferLearningError):
    """Training produced NaN or infinity; such a model cannot be published."""

    exit_code = 72
    retryable = False


class Stopped(TransferLearningError):
    """The job was asked to stop; a retry resumes from its last checkpoint."""

    exit_code = 75


class StoreError(TransferLearningError):
    """Object storage did not do what was asked."""

    exit_code = 74


class StoreUnreachable(StoreError):
    """No usable answer within the time allowed."""


class OutcomeUnknown(StoreError):
    """A write may or may not have happened, and reading back failed: nothing is deleted, a retry settles it."""


class ObjectMissing(StoreError):
    """No object under this key."""

    retryable = False


class PreconditionFailed(StoreError):
    """The object was written by somebody else first."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on an accelerator or on the host; torch's own type is known by name, to stay torch-free."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(text in str(error).lower() for text in NO_MEMORY)


def is_of_accelerator(error: BaseException) -> bool:
    """Return whether it was an accelerator's memory that ran out."""
    return type(error).__name__ == "OutOfMemoryError" or any(word in str(error) for word in ("CUDA", "CUBLAS", "CUDNN"))


def one_line(text: str) -> str:
    """Return ``text`` on one line, with runs of white space and control characters as one space."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known word, or an empty string."""
    matches = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""
