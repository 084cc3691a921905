"""The digest of a snapshot's texts: what changes it and what does not."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transfer_learning.hashes import texts_digest

ROWS = [
    {"key": 1, "text": "one", "label": "a"},
    {"key": 2, "text": "two", "label": None},
    {"key": 3, "text": "three", "label": "b"},
]


def digest(folder: Path, *parts: list[dict], columns: tuple[str, ...] = ("text",)) -> str:
    folder.mkdir()
    for number, rows in enumerate(parts):
        keyed = [{"_row_key": bytes([row["key"]]) * 32, "text": row["text"], "label": row["label"]} for row in rows]
        schema = pa.schema({"_row_key": pa.binary(32), "text": pa.string(), "label": pa.string()})
        pq.write_table(pa.Table.from_pylist(keyed, schema), folder / f"{number}.parquet")
    return texts_digest(folder.glob("*.parquet"), columns)


def test_parts_order_and_labels_do_not_change_it(tmp_path: Path) -> None:
    labelled = [row | {"label": "b"} for row in ROWS]

    assert digest(tmp_path / "a", ROWS) == digest(tmp_path / "b", ROWS[2:], ROWS[:2]) == digest(tmp_path / "c", labelled)


@pytest.mark.parametrize("change", [{"text": "one "}, {"text": None}, {"key": 4}])
def test_a_changed_text_or_key_changes_it(tmp_path: Path, change: dict) -> None:
    assert digest(tmp_path / "a", ROWS) != digest(tmp_path / "b", [ROWS[0] | change, *ROWS[1:]])


def test_texts_in_other_columns_are_other_texts(tmp_path: Path) -> None:
    assert digest(tmp_path / "a", ROWS, columns=("text", "label")) != digest(tmp_path / "b", ROWS, columns=("label", "text"))


def test_a_column_that_is_missing_is_left_to_the_stage(tmp_path: Path) -> None:
    assert digest(tmp_path / "a", ROWS, columns=("text", "body")) != digest(tmp_path / "b", ROWS)
