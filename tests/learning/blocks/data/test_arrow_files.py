from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learning.reading import COLUMNS, refusal, rows_of, written
from transfer_learning.blocks.data.readers import batches, header
from transfer_learning.blocks.data.source_file import Reading, SourceFile
from transfer_learning.errors import BadInput

pytestmark = pytest.mark.promise(27)


def parquet(path: Path, rows: int = 100, **columns) -> Path:
    table = {"id": list(range(rows)), "text": [f"text {i}" for i in range(rows)], "label": ["a", "b"] * (rows // 2)}
    pq.write_table(pa.table(table | columns), path)
    return path


class TestParquet:
    def test_wanted_columns_come_with_their_types(self, tmp_path):
        found = rows_of(parquet(tmp_path / "a.parquet", other=[0.5] * 100), "parquet", ("label", "id"))

        assert found[1] == {"label": "b", "id": 1}
        assert len(found) == 100

    def test_batches_stay_small_when_rows_are_large(self, tmp_path):
        path = parquet(tmp_path / "a.parquet", text=[f"{i} " * 100_000 for i in range(100)])
        file, reading = SourceFile("a", "parquet", (path,)), Reading(COLUMNS)

        sizes = [batch.num_rows for batch in batches(file, reading, header(file, reading))]

        assert sum(sizes) == 100
        assert max(sizes) <= 64

    @pytest.mark.parametrize("kept", [0, 3, 4, 100, -4])
    def test_a_truncated_file_is_one_line(self, tmp_path, kept):
        path = parquet(tmp_path / "a.parquet")
        written(path, path.read_bytes()[:kept])

        code = {0: "EMPTY_FILE", 3: "BAD_PARQUET"}.get(kept, "TRUNCATED_PARQUET")
        # Four bytes are both the whole head and the whole tail.
        assert refusal(path, "parquet").startswith(f"{'BAD_PARQUET' if kept == 4 else code} a.parquet ")

    def test_a_hole_in_the_middle_is_found_from_the_footer(self, tmp_path):
        path = parquet(tmp_path / "a.parquet", rows=50_000)
        data = path.read_bytes()
        written(path, data[:1000] + data[-3000:])

        assert refusal(path, "parquet").startswith(("LYING_PARQUET a.parquet ", "BAD_PARQUET a.parquet "))

    def test_a_footer_that_states_more_rows_is_a_lie(self, tmp_path):
        path = parquet(tmp_path / "a.parquet")
        data = path.read_bytes()
        # 100 rows are the zigzag varint C8 01; the first one in the footer is the file's own count.
        count = data.index(b"\x16\xc8\x01\x19", len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
        written(path, data[: count + 1] + b"\xca\x01" + data[count + 3 :])

        assert refusal(path, "parquet") == (
            "LYING_PARQUET a.parquet the footer states 101 rows, its row groups 100 — write the file again"
        )

    def test_no_damage_to_the_footer_ends_the_process(self, tmp_path):
        """pyarrow itself aborts on some of these when asked for the metadata of a column chunk."""
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": [f"text {i}" for i in range(50)]}), path)
        data = path.read_bytes()
        footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        refused = 0
        for place in range(footer, len(data) - 8):
            for value in (0x00, 0x7F, 0xFF):
                written(path, data[:place] + bytes([value]) + data[place + 1 :])
                try:
                    rows_of(path, "parquet", ("text",))
                except BadInput as error:
                    refused += 1
                    assert "\n" not in str(error)
        assert refused > 300

    def test_damage_to_the_pages_is_refused_or_harmless(self, tmp_path):
        path = parquet(tmp_path / "a.parquet")
        data = path.read_bytes()
        codes = set()
        for place in range(4, 1500, 5):
            written(path, data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
            try:
                rows_of(path, "parquet")
            except BadInput as error:
                codes.add(error.code)
        assert {"BAD_PARQUET", "WRONG_ENCODING"} <= codes

    def test_text_that_is_not_utf_8_is_named_by_row(self, tmp_path):
        raw = pa.array([b"fine", b"caf\xe9"]).cast(pa.binary())
        text = pa.StringArray.from_buffers(2, *raw.buffers()[1:])
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": text}), path)

        assert refusal(path, "parquet", ("text",)) == "WRONG_ENCODING a.parquet:2 [text] not UTF-8 — write the text as UTF-8"

    def test_no_rows_and_other_formats_are_named(self, tmp_path):
        empty = tmp_path / "a.parquet"
        pq.write_table(pa.table({"id": [1], "text": ["a"], "label": ["x"]}).slice(0, 0), empty)
        other = written(tmp_path / "b.parquet", "id,text,label\n1,a,x\n")

        assert refusal(empty, "parquet").startswith("NO_ROWS a.parquet ")
        assert refusal(other, "parquet").startswith("BAD_PARQUET b.parquet it does not begin as Parquet does")

    def test_a_duplicate_column_is_named(self, tmp_path):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)

        assert refusal(path, "parquet").startswith("DUPLICATE_COLUMN a.parquet [text] the column stands 2 times")


def test_arrow_files_are_cut_into_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("transfer_learning.blocks.data.arrow_files.BATCH_ROWS", 3)
    table = pa.table({"id": list(range(10)), "text": ["t"] * 10, "label": ["x"] * 10})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    file, reading = SourceFile("sql://news", "arrow", (tmp_path / "a.arrow",)), Reading(("id",))

    sizes = [batch.num_rows for batch in batches(file, reading, header(file, reading))]

    assert sizes == [3, 3, 3, 1]
