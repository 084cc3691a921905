"""Tell files that could run code when loaded, whatever they are called. Nothing here ever loads one."""

from __future__ import annotations

import json
import pickletools
from pathlib import Path
from typing import BinaryIO

from transfer_learning.errors import BadInput

SUFFIXES = frozenset(
    (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".hdf5", ".keras", ".npy", ".npz", ".msgpack", ".dill")
) | frozenset((".py", ".pyc", ".so"))
"""Formats that are, or may hold, pickles; and code."""

MAGIC = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file",
    b"\x1f\x8b": "a gzip archive",
    b"\x7fELF": "a program",
    **{b"\x80" + bytes([protocol]): "a pickle" for protocol in range(1, 6)},
}

MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library allows."""

ADVICE = "save it with save_pretrained, which writes safetensors"


def refuse_pickle_name(path: str) -> None:
    """Refuse a file by its suffix.

    Raises:
        BadInput: the suffix is that of a pickle or of code.
    """
    if Path(path).suffix.lower() in SUFFIXES:
        raise BadInput("PICKLE", "a file of this kind can run code when it is loaded", ADVICE, file=path)


def refuse_pickle(path: Path) -> None:
    """Refuse a file by its suffix and by its bytes.

    Raises:
        BadInput: it is a pickle, an archive that may hold one, code, or a ``.safetensors`` or ``.json`` file that is none.
    """
    refuse_pickle_name(path.name)
    with path.open("rb") as file:
        start = file.read(9)
        if path.suffix == ".safetensors":  # its first bytes are a number, and may look like anything
            length = int.from_bytes(start[:8], "little")
            if start[8:] != b"{" or length > min(MAX_HEADER_BYTES, path.stat().st_size - 8):
                raise BadInput("BAD_SAFETENSORS", "is no safetensors file", ADVICE, file=path)
            return
        for magic, kind in MAGIC.items():
            if start.startswith(magic):
                raise BadInput("PICKLE", f"is {kind}, and can run code when it is loaded", ADVICE, file=path)
        file.seek(0)
        if path.suffix == ".json":
            _refuse_other_than_json(file, path)
        elif _is_old_pickle(file):
            raise BadInput("PICKLE", "is a pickle, and can run code when it is loaded", ADVICE, file=path)


def _refuse_other_than_json(file: BinaryIO, path: Path) -> None:
    try:
        json.load(file)
    except (ValueError, RecursionError):
        raise BadInput("BAD_JSON", "is no JSON file", "check what wrote it", file=path) from None


def _is_old_pickle(file: BinaryIO) -> bool:
    """Return whether the bytes are a whole pickle of the text protocol 0, which has no magic number, that imports something."""
    imports = False
    try:
        for opcode, _, _ in pickletools.genops(file):
            imports |= opcode.name in ("GLOBAL", "INST")
    except (ValueError, UnicodeDecodeError, OverflowError):  # some byte is no opcode: text
        return False
    return imports
