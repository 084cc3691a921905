"""Text files read strictly: an encoding is kept to, or the first byte that breaks it is named."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from transfer_learning.blocks.data.source_file import CELL_BYTES, SourceFile, cell_too_large
from transfer_learning.errors import BadInput

LINE_CHARACTERS = 4 * CELL_BYTES
"""A physical line beyond this is not read to its end."""

HEAD_BYTES = 4096
"""Of a file, read to tell its encoding."""

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Position:
    """The row that is being read, for messages from below the parser."""

    def __init__(self) -> None:
        self.row = 0


def lines(file: SourceFile, encoding: str, position: Position) -> Iterator[str]:
    """Yield the physical lines with their ends; a byte order mark is dropped.

    Raises:
        BadInput: empty, UTF-16 without being told, without the mark that the encoding needs, not in this encoding (byte
            offset), a NUL, or an endless line.
    """
    path = file.paths[0]
    check_encoding(file, path, encoding)
    with path.open(encoding=_codec(encoding), errors="strict", newline="") as text:
        try:
            while line := text.readline(LINE_CHARACTERS):
                if "\0" in line:
                    raise _nul(file, position.row + 1)
                if len(line) >= LINE_CHARACTERS:
                    raise cell_too_large(file, position.row + 1)
                yield line
        except UnicodeError:
            raise not_in_encoding(file.name, path, encoding) from None


def whole_text(file: SourceFile, row: int, encoding: str) -> str:
    """Return the text of one file of a class folder.

    Raises:
        BadInput: as ``lines``.
    """
    path, name = file.paths[row - 1], file.where(row)
    if path.stat().st_size > CELL_BYTES:
        raise BadInput("CELL_TOO_LARGE", f"the text is larger than {CELL_BYTES // 10**6} MB", "cut or leave out", file=name)
    data = path.read_bytes()
    _check_head(name, data[:HEAD_BYTES], encoding)
    try:
        text = data.decode(_codec(encoding))
    except UnicodeDecodeError as error:
        raise _undecodable(name, error.start, data[error.start], encoding) from None
    except UnicodeError as error:
        raise _wrong(name, f"not {encoding}: {error}") from None
    if "\0" in text:
        raise BadInput("NUL_BYTE", f"a NUL at character {text.index(chr(0))}: this is no text", "write it again", file=name)
    return text


def check_encoding(file: SourceFile, path: Path, encoding: str) -> None:
    """Check the head of a file before anything is read.

    Raises:
        BadInput: an empty file, one that begins like UTF-16 or UTF-32 and is not said to be, or one that is said to be and lacks
            the mark that tells the order of its bytes.
    """
    with path.open("rb") as raw:
        head = raw.read(HEAD_BYTES)
    if not head.removeprefix(codecs.BOM_UTF8).strip() and path.stat().st_size <= HEAD_BYTES:
        raise BadInput("EMPTY_FILE", "the file is empty", "leave it out, or write it again", file=file.name)
    _check_head(file.name, head, encoding)


def known_encoding(encoding: str) -> None:
    """Check the setting.

    Raises:
        BadInput: no such encoding.
    """
    try:
        "".encode(encoding)
    except (LookupError, UnicodeError):
        raise BadInput(
            "BAD_SETTING", f"PullSpec.encoding {encoding[:40]!r} is no text encoding", "write 'utf-8', 'utf-16' or 'latin-1'"
        ) from None


def not_in_encoding(name: str, path: Path, encoding: str) -> BadInput:
    """Return the error that names the first byte of ``path`` that breaks the encoding."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    base = pending = 0
    with path.open("rb") as raw:
        while True:
            chunk = raw.read(1 << 20)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return _undecodable(name, base - pending + error.start, error.object[error.start], encoding)
            except UnicodeError as error:  # such as that of 'punycode', which names no byte
                return _wrong(name, f"not {encoding}: {error}")
            if not chunk:  # its pieces were others than these, and 'punycode' breaks by the piece
                return _wrong(name, f"not {encoding}")
            base += len(chunk)
            pending = len(decoder.getstate()[0])


def _codec(encoding: str) -> str:
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def _check_head(name: str, head: bytes, encoding: str) -> None:
    codec = codecs.lookup(encoding).name
    marked = next((wide for mark, wide in MARKS.items() if head.startswith(mark)), None)
    if marked:
        if codec != marked:
            raise _wide(name, marked.upper(), marked)
        return
    if codec.startswith(("utf-16-", "utf-32-")):
        return
    for offset, order in ((1, "little"), (0, "big")):
        # Western text in UTF-16 has a NUL in every second byte.
        half = head[offset::2][:64]
        if len(half) >= 2 and not any(half):
            raise _wide(name, f"UTF-16 ({order}-endian, without a mark)", f"utf-16-{order[0]}e")
    if head and codec in MARKS.values():
        what = f"not {encoding}: the file does not begin with a byte order mark"
        raise BadInput("WRONG_ENCODING", what, f"leave encoding out for UTF-8, or set '{codec}-le' or '{codec}-be'", file=name)


def _wide(name: str, found: str, codec: str) -> BadInput:
    return BadInput("WRONG_ENCODING", f"the file is {found}", f"set encoding='{codec}', or convert it to UTF-8", file=name)


def _undecodable(name: str, offset: int, byte: int, encoding: str) -> BadInput:
    return _wrong(name, f"not {encoding}: byte {offset} is 0x{byte:02x}")


def _wrong(name: str, what: str) -> BadInput:
    return BadInput("WRONG_ENCODING", what, "set encoding, such as 'latin-1', or convert the file to UTF-8", file=name)


def _nul(file: SourceFile, row: int) -> BadInput:
    return BadInput("NUL_BYTE", "a NUL byte: this is no text", "write the file again", file=file.name, row=row)
