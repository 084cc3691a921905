"""The rows of a dataset's parts as a stage needs them: texts, pairs, labels, keys and slices, in an order of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from transfer_learning.blocks.data.hashing import content_key
from transfer_learning.errors import BadInput
from transfer_learning.hashes import Hashes, fixed_binary, from_fixed_binary, joined
from transfer_learning.parquet_files import readable, require_columns
from transfer_learning.specs import TaskSpec

T = TypeVar("T")

KEYS = ("_row_key", "_row_hash", "_content_key")
"""Columns that every part carries beside the user's own."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Labelled rows, sorted by row key, so that neither part files nor their order can change a result."""

    texts: list[str]
    pairs: list[str] | None
    """Second texts, or None for a task with one text."""
    labels: list[str]
    """Names: ``str`` of the label's value. Empty when read without labels."""
    label_values: tuple[object, ...]
    """The distinct labels as stored, in their own order: numbers by value, text by code point."""
    row_keys: list[bytes]
    content_keys: list[bytes]
    slices: dict[str, list[str]]
    """Values by slice column, as text; a missing value is the empty text."""
    input_hashes: Hashes | None = None
    """Of the exact texts: what features are found by; only where asked for."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def label_names(self) -> list[str]:
        """The distinct labels by name, in their own order."""
        return [str(value) for value in self.label_values]

    def select(self, places: NDArray[np.int64]) -> Rows:
        """Return some of the rows, in the order of ``places``; the distinct labels stay those of all."""

        def pick(values: list[T]) -> list[T]:
            return [values[place] for place in places]

        return dataclasses.replace(
            self,
            texts=pick(self.texts),
            pairs=None if self.pairs is None else pick(self.pairs),
            labels=pick(self.labels),
            row_keys=pick(self.row_keys),
            content_keys=pick(self.content_keys),
            slices={name: pick(values) for name, values in self.slices.items()},
            input_hashes=None if self.input_hashes is None else self.input_hashes[places],
        )

    def input_keys(self) -> list[bytes]:
        """Return the content keys of the texts as they were read: the dataset's own, unless a task names other text columns."""
        pairs = None if self.pairs is None else pa.array(self.pairs, pa.string())
        return list(fixed_binary(content_key(pa.array(self.texts, pa.string()), pairs)).to_pylist())


def read_rows(
    folders: Sequence[Path],
    task: TaskSpec,
    *,
    role: str = "train",
    slices: Sequence[str] = (),
    labelled: bool = True,
    hashed: bool = False,
    blank: Literal["refuse", "drop"] = "refuse",
) -> Rows:
    """Read every part below ``folders``.

    Args:
        folders: each holds ``*.parquet``.
        task: the column roles.
        role: named in messages, such as ``train``.
        slices: further columns to return beside ``task.slices``.
        labelled: False reads rows without their labels.
        hashed: also return each row's input hash.
        blank: what becomes of rows whose first text is missing or white space alone; there may then be no row left.

    Raises:
        BadInput: no part, no row, a part that cannot be read, a missing column, a text or label of a wrong type, or an empty one;
            or labels are wanted of plain text.
    """
    sliced = tuple(dict.fromkeys((*task.slices, *slices)))
    if labelled and task.label is None:
        raise BadInput("NO_LABEL", f"{role} is plain text: its task names no column of labels", "name one as task.label")
    wanted = [*task.texts(), *([task.label] if labelled and task.label else []), *sliced]
    table = _read_parts(folders, list(dict.fromkeys([*wanted, *KEYS, *(["_input_hash"] if hashed else [])])), role)
    if not table.num_rows:
        raise BadInput("NO_ROWS", f"{role} has no row", "pull data that has some", file=folders[0] if folders else role)
    table = table.sort_by([("_row_key", "ascending"), ("_row_hash", "ascending")])
    if blank == "drop":
        table = table.filter(pc.invert(_is_blank(_text_column(table, task.text, role))))
    values, names = _labels(table, task.label, role) if labelled and task.label else ((), [])
    return Rows(
        texts=_texts(table, task.text, role),
        pairs=_texts(table, task.text_pair, role) if task.text_pair else None,
        labels=names,
        label_values=values,
        row_keys=table["_row_key"].to_pylist(),
        content_keys=table["_content_key"].to_pylist(),
        slices={name: ["" if v is None else str(v) for v in table[name].to_pylist()] for name in sliced},
        input_hashes=from_fixed_binary(table["_input_hash"]) if hashed else None,
    )


def refuse_one_class(rows: Rows, task: TaskSpec) -> None:
    """Check that there is something to tell apart.

    Raises:
        BadInput: one class, or fewer than two rows.
    """
    if len(rows) < 2 or len(rows.label_values) < 2:
        raise BadInput(
            "ONE_CLASS",
            f"train has {len(rows)} rows, all {rows.label_names[0]!r}, and learning needs two classes",
            "add rows of another class",
            column=task.label,
        )


def concat(first: Rows, second: Rows) -> Rows:
    """Return the rows of both, read for the same task, the first ones first.

    Raises:
        BadInput: labels of two types.
    """
    try:
        values = tuple(sorted({*first.label_values, *second.label_values}))  # type: ignore[type-var]
    except TypeError:
        kinds = " and ".join(sorted({type(value).__name__ for value in (*first.label_values, *second.label_values)}))
        raise BadInput("SCHEMA", f"labels of two types are to be joined: {kinds}", "store them alike in both datasets") from None
    hashed = first.input_hashes is not None and second.input_hashes is not None
    return Rows(
        texts=[*first.texts, *second.texts],
        pairs=None if first.pairs is None else [*first.pairs, *(second.pairs or ())],
        labels=[*first.labels, *second.labels],
        label_values=values,
        row_keys=[*first.row_keys, *second.row_keys],
        content_keys=[*first.content_keys, *second.content_keys],
        slices={name: [*found, *second.slices[name]] for name, found in first.slices.items()},
        input_hashes=joined((first.input_hashes, second.input_hashes)) if hashed else None,  # type: ignore[arg-type]
    )


def part_files(folders: Sequence[Path]) -> list[Path]:
    """Return the parts below ``folders``, by name."""
    return sorted((path for folder in folders for path in folder.glob("*.parquet")), key=lambda path: path.name)


def read_texts(path: Path, task: TaskSpec, rows: int) -> Iterator[tuple[Hashes, list[str], list[str] | None]]:
    """Yield input hashes, texts and second texts of one part, some rows at a time, labelled or not.

    Args:
        path: of the part.
        task: the column roles.
        rows: most rows to hold in memory.

    Raises:
        BadInput: a part that cannot be read, a missing column, or a text that is missing or of a wrong type.
    """
    columns = [*task.texts(), "_input_hash"]
    with readable(path):
        require_columns(columns, pq.read_schema(path).names, path)
        for batch in pq.ParquetFile(path).iter_batches(batch_size=rows, columns=columns):
            table = pa.Table.from_batches([batch])
            pairs = _texts(table, task.text_pair, path.parent.name) if task.text_pair else None
            yield from_fixed_binary(table["_input_hash"]), _texts(table, task.text, path.parent.name), pairs


def _read_parts(folders: Sequence[Path], columns: list[str], role: str) -> pa.Table:
    parts = part_files(folders)
    if not parts:
        found = f"no Parquet part in {', '.join(map(str, folders)) or 'no folder'}"
        raise BadInput("NO_ROWS", f"{role}: {found}", "pull the dataset first")
    tables = []
    for path in parts:
        with readable(path):
            require_columns(columns, pq.read_schema(path).names, path)
            tables.append(pq.ParquetFile(path).read(columns=columns))
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise BadInput("SCHEMA", f"{role}: the parts disagree: {error}", "pull the dataset again", file=folders[0]) from None


def _texts(table: pa.Table, column: str, role: str) -> list[str]:
    texts = _text_column(table, column, role)
    _refuse_missing(_is_blank(texts), column, role, "text")
    return list(texts.to_pylist())


def _text_column(table: pa.Table, column: str, role: str) -> pa.ChunkedArray:
    texts = table[column]
    if pa.types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type) or pa.types.is_string_view(texts.type)):
        raise BadInput("WRONG_TYPE", f"{role}: expected text, found {texts.type}", "name the text column", column=column)
    return texts


def _is_blank(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts.cast(pa.large_string())), ""), True)


def _labels(table: pa.Table, column: str, role: str) -> tuple[tuple[object, ...], list[str]]:
    """Return the distinct values in order, and each row's label by name."""
    labels = table[column]
    if pa.types.is_dictionary(labels.type):
        labels = labels.cast(labels.type.value_type)
    kind = labels.type
    textual = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (textual or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise BadInput(
            "WRONG_TYPE",
            f"{role}: expected labels as text or whole numbers, found {kind}",
            "name the label column",
            column=column,
        )
    _refuse_missing(pc.is_null(labels), column, role, "label")
    values = labels.to_pylist()
    return tuple(sorted(set(values))), [str(value) for value in values]


def _refuse_missing(missing: pa.ChunkedArray, column: str, role: str, what: str) -> None:
    if count := pc.sum(missing).as_py():
        raise BadInput(
            f"MISSING_{what.upper()}", f"{role}: {count} of {len(missing)} rows have no {what}", "pull them out", column=column
        )
