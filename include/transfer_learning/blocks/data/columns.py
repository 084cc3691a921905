"""From the columns of several files to one schema: by name, without guessing, without losing a digit."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from transfer_learning.blocks.data.source_file import CELL_BYTES, SourceFile, cell_too_large
from transfer_learning.errors import BadInput
from transfer_learning.specs import PullSpec, TaskSpec


def kept_columns(spec: PullSpec) -> tuple[str, ...]:
    """Return the columns that a snapshot holds: the roles, then what else the user keeps."""
    names = tuple(dict.fromkeys((*spec.task.columns(), *spec.keep)))
    if hidden := [name for name in names if name.startswith("_")]:
        raise BadInput("BAD_SETTING", f"column {hidden[0]!r} begins with '_'", "rename it: such names belong to the snapshot")
    return names


def read_columns(spec: PullSpec) -> tuple[str, ...]:
    """Return the columns that a pull reads: the kept ones, and the one that names the split."""
    return tuple(dict.fromkeys((*kept_columns(spec), *([spec.split.column] if spec.split.column else []))))


def common_schema(files: Sequence[SourceFile], schemas: Sequence[pa.Schema], spec: PullSpec) -> pa.Schema:
    """Return one schema for all files: for roles the one type that all have, for other columns the widest.

    Raises:
        BadInput: two types in one column, or a type that its role cannot have.
    """
    fields = []
    for name in read_columns(spec):
        kinds = [plain_type(schema.field(name).type) for schema in schemas]
        kind = _common_type(files, kinds, name, strict=name in _strict(spec))
        check_role(files[kinds.index(kind) if kind in kinds else 0], name, kind, spec)
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type behind a way of storing it: dictionaries, run lengths, long offsets."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or kind == pa.string_view():
        return pa.string()
    return kind


def check_role(file: SourceFile, name: str, kind: pa.DataType, spec: PullSpec) -> None:
    """Check that a column can be what it is used for.

    Raises:
        BadInput: whole numbers lost in floats, numbers for texts, or a kind that cannot be kept at all.
    """
    types, task = pa.types, spec.task
    whole = types.is_string(kind) or types.is_integer(kind)
    if name in (task.text, task.text_pair) and not types.is_string(kind):
        raise BadInput("WRONG_TYPE", f"texts must be text, found {kind}", "write it as text", file=file.name, column=name)
    if name in (task.label, task.id, task.group) and types.is_floating(kind):
        what = f"whole numbers were lost in floats: the column is {kind}"
        fix = "write it as integers or text; empty cells turn integers to floats in pandas: use dtype 'Int64'"
        raise BadInput("INTEGERS_IN_FLOATS", what, fix, file=file.name, column=name)
    if (name == task.label and not (whole or types.is_boolean(kind))) or (name in (task.id, task.group) and not whole):
        fix = "write it as text or whole numbers"
        raise BadInput("WRONG_TYPE", f"the column is {kind}", fix, file=file.name, column=name)
    if name == task.time and not (types.is_string(kind) or types.is_timestamp(kind) or types.is_date(kind)):
        fix = "write ISO 8601 text, timestamps or dates"
        raise BadInput("WRONG_TYPE", f"times cannot be {kind}", fix, file=file.name, column=name)
    if name == spec.split.column and not types.is_string(kind):
        raise BadInput("WRONG_TYPE", f"splits must be text, found {kind}", "write 'train', 'test'", file=file.name, column=name)
    if not (types.is_primitive(kind) or types.is_string(kind) or types.is_decimal(kind)) or types.is_interval(kind):
        raise BadInput(
            "UNSUPPORTED_TYPE", f"values of type {kind} cannot be kept", "keep other columns", file=file.name, column=name
        )


def aligned(file: SourceFile, batch: pa.RecordBatch, first_row: int, schema: pa.Schema) -> pa.RecordBatch:
    """Return ``batch`` with exactly the types of ``schema``.

    Args:
        file: for messages.
        batch: as read.
        first_row: number of its first row in the file, counted from 1.
        schema: what ``common_schema`` returned.

    Raises:
        BadInput: a cell above 10 MB, or a value that its column's type would change.
    """
    columns = []
    for field in schema:
        column = batch.column(field.name)
        try:
            column = column if column.type == field.type else _plain(column).cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            what = f"a value does not fit {field.type}: {error}"[:200]
            fix = "write one type in a column"
            raise BadInput("BAD_VALUE", what, fix, file=file.name, row=first_row, column=field.name) from None
        if pa.types.is_string(field.type):
            lengths = pc.binary_length(column)
            if (pc.max(lengths).as_py() or 0) > CELL_BYTES:
                place = pc.index(pc.greater(lengths, CELL_BYTES), True).as_py()
                raise cell_too_large(file, first_row + place, field.name)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def refuse_changed_roles(name: str, schema: dict[str, str], task: TaskSpec, previous: dict[str, str]) -> list[str]:
    """Compare with the schema of the snapshot before, and return a sentence for each harmless change.

    Raises:
        BadInput: a role's column has another type than before.
    """
    changed = {column: (previous[column], kind) for column, kind in schema.items() if previous.get(column, kind) != kind}
    if roles := [column for column in task.columns() if column in changed]:
        difference = ", ".join(f"{column}: {changed[column][0]} -> {changed[column][1]}" for column in roles)
        fix = "keep the type as it was, pull under a new dataset name, or set reset_split to a reason"
        raise BadInput("SCHEMA_CHANGED", f"the last snapshot had other types: {difference}", fix, file=name, column=roles[0])
    notes = [f"Column {column!r} changed its type from {old} to {new}." for column, (old, new) in changed.items()]
    notes += [f"Column {column!r} is new." for column in schema if column not in previous]
    return notes + [f"Column {column!r} is no longer kept." for column in previous if column not in schema]


def _strict(spec: PullSpec) -> tuple[str | None, ...]:
    task = spec.task
    return (task.text, task.text_pair, task.label, task.id, task.group, spec.split.column)


def _common_type(files: Sequence[SourceFile], kinds: Sequence[pa.DataType], name: str, *, strict: bool) -> pa.DataType:
    known = [kind for kind in dict.fromkeys(kinds) if not pa.types.is_null(kind)]
    if not known:
        return pa.string()
    if len(known) == 1:
        return known[0]
    try:
        if not strict:
            fields = [pa.schema([pa.field(name, kind)]) for kind in known]
            return pa.unify_schemas(fields, promote_options="permissive").field(name).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    first, other = (files[kinds.index(kind)].name for kind in known[:2])
    what = f"the column is {known[1]}, and {known[0]} in {first}"
    raise BadInput("MIXED_TYPES", what, "write one type in all files", file=other, column=name)


def _plain(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        return _plain(column.dictionary_decode())
    if pa.types.is_run_end_encoded(column.type):
        return _plain(pc.run_end_decode(column))
    return column
