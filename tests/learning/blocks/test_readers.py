from __future__ import annotations

import codecs
import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transfer_learning.blocks import source_file
from transfer_learning.blocks.readers import batches, header, staged_files
from transfer_learning.blocks.source_file import Reading, SourceFile
from transfer_learning.errors import BadInput

COLUMNS = ("id", "text", "label")


def rows_of(path: Path, format: str, columns=COLUMNS, **settings) -> list[dict]:
    """Read a whole file as the stage does: header first, then batches."""
    file = SourceFile(path.name, format, (path,))
    reading = Reading(columns, **settings)
    schema = header(file, reading)
    return [row for batch in batches(file, reading, schema) for row in batch.to_pylist()]


def refusal(path: Path, format: str, columns=COLUMNS, **settings) -> str:
    with pytest.raises(BadInput) as caught:
        rows_of(path, format, columns, **settings)
    line = str(caught.value)
    assert "\n" not in line
    return line


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


class TestCsv:
    def test_every_cell_is_text_and_columns_are_found_by_name(self, tmp_path):
        path = written(tmp_path / "a.csv", 'label,extra,id,text\n1,x,007,"two\nlines, one cell"\n,y,8,NA\n')

        assert rows_of(path, "csv") == [
            {"id": "007", "text": "two\nlines, one cell", "label": "1"},
            {"id": "8", "text": "NA", "label": ""},
        ]

    def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_fine(self, tmp_path):
        path = written(tmp_path / "a.csv", codecs.BOM_UTF8 + b"id,text,label\r\n\r\n1,a,x\r\n2,b,y\r\n\r\n")

        assert [row["id"] for row in rows_of(path, "csv")] == ["1", "2"]

    def test_delimiter_and_encoding_are_settings(self, tmp_path):
        path = written(tmp_path / "a.csv", "id;text;label\n1;café, noir;x\n".encode("latin-1"))

        assert rows_of(path, "csv", delimiter=";", encoding="latin-1")[0]["text"] == "café, noir"

    def test_utf_16_is_read_when_it_is_said(self, tmp_path):
        path = written(tmp_path / "a.csv", "id,text,label\n1,é,x\n".encode("utf-16"))

        assert rows_of(path, "csv", encoding="utf-16")[0]["text"] == "é"

    def test_a_quoted_cell_may_span_batches_of_lines(self, tmp_path, monkeypatch):
        monkeypatch.setattr("transfer_learning.blocks.csv_files.BATCH_ROWS", 2)
        path = written(tmp_path / "a.csv", "id,text,label\n" + "".join(f'{i},"t\n{i}",x\n' for i in range(5)))

        assert [row["text"] for row in rows_of(path, "csv")] == [f"t\n{i}" for i in range(5)]

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            (b"", "EMPTY_FILE a.csv the file is empty — leave it out, or write it again"),
            (b"\n\n", "EMPTY_FILE a.csv the file is empty — leave it out, or write it again"),
            (b"id,text,label\n", "NO_ROWS a.csv the file has columns but no rows — leave it out, or write it again"),
            (
                b"id,txet,label\n1,a,x\n",
                "MISSING_COLUMN a.csv [text] there is no such column; did you mean 'txet'?"
                " — found: id, txet, label; name the columns in task",
            ),
            (b"id,text,label,text\n1,a,x,b\n", "DUPLICATE_COLUMN a.csv [text] the column stands 2 times — rename one"),
            (
                b"id,text,label\n1,a,x\n2,b\n",
                "RAGGED_ROW a.csv:2 the row has 2 cells, the header 3 — quote cells that hold the delimiter, or set delimiter",
            ),
            (
                b'id,text,label\n1,a,x\n2,"b,x\n3,c,y\n4,d,y\n',
                "UNCLOSED_QUOTE a.csv:2 a quoted cell that begins in this row is not closed"
                ' — close it, and double quotes inside cells ("")',
            ),
            (
                b'id,text,label\n1,a,x\n2,"b,x\n3,"c",y\n4,d,y\n',
                "UNCLOSED_QUOTE a.csv:2 a quoted cell that begins in this row is not closed"
                ' — close it, and double quotes inside cells ("")',
            ),
            (
                b'id,text,label\n1,"a" b,x\n',
                "BAD_CSV a.csv:1 cannot be read: ',' expected after '\"' — double quotes inside quoted cells (\"\")",
            ),
            (b"id,text,label\n1,a,x\n2,b\0,x\n", "NUL_BYTE a.csv:2 a NUL byte: this is no text — write the file again"),
            (
                b"id,text,label\n1,caf\xe9,x\n",
                "WRONG_ENCODING a.csv not utf-8: byte 19 is 0xe9 — set encoding, such as 'latin-1', or convert the file to UTF-8",
            ),
            (
                "id,text,label\n1,a,x\n".encode("utf-16"),
                "WRONG_ENCODING a.csv the file is UTF-16 — set encoding='utf-16', or convert it to UTF-8",
            ),
            (
                "id,text,label\n1,a,x\n".encode("utf-16-le"),
                "WRONG_ENCODING a.csv the file is UTF-16 (little-endian, without a mark)"
                " — set encoding='utf-16', or convert it to UTF-8",
            ),
        ],
    )
    def test_bad_input_is_one_line(self, tmp_path, content, line):
        assert refusal(written(tmp_path / "a.csv", content), "csv") == line

    def test_the_byte_offset_counts_from_the_start_of_a_large_file(self, tmp_path):
        head = b"id,text,label\n" + b"1,some text,x\n" * 200_000
        path = written(tmp_path / "a.csv", head + b"2,\xc3\x28,x\n")

        assert f"byte {len(head) + 2} is 0xc3" in refusal(path, "csv")

    def test_a_file_that_ends_inside_a_character_is_named_by_its_byte(self, tmp_path):
        path = written(tmp_path / "a.csv", b"id,text,label\n1,a,\xe2\x82")

        assert "byte 18 is 0xe2" in refusal(path, "csv")

    def test_a_cell_of_100_mb_is_refused_before_it_is_kept(self, tmp_path):
        path = written(tmp_path / "a.csv", b"id,text,label\n1,a,x\n2," + b"a" * 100_000_000 + b",x\n")

        assert refusal(path, "csv") == (
            "CELL_TOO_LARGE a.csv:2 a cell is larger than 10 MB — look for an unclosed quote, or cut the text"
        )

    def test_a_large_cell_over_many_lines_is_refused_too(self, tmp_path):
        path = written(tmp_path / "a.csv", b'id,text,label\n1,"' + b"a line\n" * 2_000_000 + b'",x\n')

        assert refusal(path, "csv").startswith("CELL_TOO_LARGE a.csv:1 ")

    def test_a_delimiter_of_two_characters_is_a_bad_setting(self, tmp_path):
        path = written(tmp_path / "a.csv", "id,text,label\n1,a,x\n")

        assert refusal(path, "csv", delimiter="||").startswith("BAD_SETTING PullSpec.delimiter must be one character, found '||'")


class TestJsonLines:
    def test_types_are_kept_and_absent_keys_are_null(self, tmp_path):
        lines = [{"id": 1, "text": "a", "label": "x", "other": [1]}, {"text": "b", "id": 2}]
        path = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")

        assert rows_of(path, "jsonl") == [{"id": 1, "text": "a", "label": "x"}, {"id": 2, "text": "b", "label": None}]

    def test_a_column_that_is_null_everywhere_has_no_type_yet(self, tmp_path):
        path = written(tmp_path / "a.jsonl", '{"id": 1, "text": "a", "label": null}\n')

        schema = header(SourceFile("a.jsonl", "jsonl", (path,)), Reading(COLUMNS))

        assert schema.field("label").type == pa.null()

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            (b"", "EMPTY_FILE a.jsonl the file is empty — leave it out, or write it again"),
            (b"\n", "EMPTY_FILE a.jsonl the file is empty — leave it out, or write it again"),
            (
                b'{"id": 1, "text": "a", "label": 1}\n{"id": 2, "text": "b", "label": "1"}\n',
                "MIXED_TYPES a.jsonl:2 [label] '1' is text, and row 1 holds a whole number — write one type in a column",
            ),
            (
                b'{"id": 1, "text": "a", "label": 1}\n{"id": 2, "text": "b", "label": 1.0}\n',
                "MIXED_TYPES a.jsonl:2 [label] 1.0 is a number with a point, and row 1 holds a whole number"
                " — write one type in a column",
            ),
            (
                b'{"id": 1, "text": "a", "label": 1}\n{"id": 2, "text": "b", "label": true}\n',
                "MIXED_TYPES a.jsonl:2 [label] True is true or false, and row 1 holds a whole number — write one type in a column",
            ),
            (
                b'{"id": 1, "headline": "a", "label": 1}\n',
                "MISSING_COLUMN a.jsonl [text] there is no such column — found: id, headline, label; name the columns in task",
            ),
            (
                b'{"id": 1, "text": "a", "text": "b", "label": 1}\n',
                "BAD_JSON a.jsonl:1 not one JSON object a line: key 'text' stands there twice — write JSON Lines, or set format",
            ),
            (b"[1, 2]\n", "BAD_JSON a.jsonl:1 the line is a list, not an object — write one JSON object a line"),
            (
                b'{"id": 1, "text": ["a"], "label": 1}\n',
                "UNSUPPORTED_TYPE a.jsonl:1 [text] the value is a list — keep text, numbers and booleans only",
            ),
            (
                b'{"id": 99999999999999999999, "text": "a", "label": 1}\n',
                "BAD_VALUE a.jsonl:1 [id] the number needs more than 64 bits — write it as text",
            ),
            (
                b'{"id": 1, "text": "\\ud800", "label": 1}\n',
                "WRONG_ENCODING a.jsonl:1 [text] half a surrogate pair — write the text again",
            ),
            (
                b'{"id": 1, "text": "a", "label": NaN}\n',
                "BAD_JSON a.jsonl:1 not one JSON object a line: NaN is not JSON; write null — write JSON Lines, or set format",
            ),
        ],
    )
    def test_bad_input_is_one_line(self, tmp_path, content, line):
        assert refusal(written(tmp_path / "a.jsonl", content), "jsonl") == line

    def test_a_pretty_printed_file_says_its_first_row(self, tmp_path):
        path = written(tmp_path / "a.jsonl", json.dumps([{"id": 1}], indent=1))

        assert refusal(path, "jsonl").startswith("BAD_JSON a.jsonl:1 not one JSON object a line: Expecting value")


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


class TestClassFolders:
    def folder(self, root: Path, texts: dict[str, bytes]) -> SourceFile:
        for member, content in texts.items():
            (root / member).parent.mkdir(parents=True, exist_ok=True)
            (root / member).write_bytes(content)
        return SourceFile("news", "class_folders", tuple(root / member for member in texts), None, tuple(texts))

    def read(self, file: SourceFile, columns=COLUMNS, **settings) -> list[dict]:
        reading = Reading(columns, id="id", **settings)
        return [row for batch in batches(file, reading, header(file, reading)) for row in batch.to_pylist()]

    def test_a_folder_is_a_label_and_a_file_is_a_row(self, tmp_path):
        file = self.folder(tmp_path, {"sport/1.txt": b"A goal", "tech/deep/2.txt": "Un café".encode("latin-1")})

        assert self.read(file, encoding="latin-1") == [
            {"id": "sport/1.txt", "text": "A goal", "label": "sport"},
            {"id": "tech/deep/2.txt", "text": "Un café", "label": "tech"},
        ]

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            (b"caf\xe9", "WRONG_ENCODING news/tech/2.txt not utf-8: byte 3 is 0xe9 — set encoding, such as 'latin-1',"),
            (b"a\0b", "NUL_BYTE news/tech/2.txt a NUL at character 1"),
            (b"a" * 10_000_001, "CELL_TOO_LARGE news/tech/2.txt the text is larger than 10 MB"),
            ("a".encode("utf-16"), "WRONG_ENCODING news/tech/2.txt the file is UTF-16"),
        ],
    )
    def test_bad_text_names_its_file(self, tmp_path, content, line):
        file = self.folder(tmp_path, {"sport/1.txt": b"fine", "tech/2.txt": content})

        with pytest.raises(BadInput) as caught:
            self.read(file)

        assert str(caught.value).startswith(line)

    def test_a_column_that_folders_do_not_have_is_missing(self, tmp_path):
        file = self.folder(tmp_path, {"sport/1.txt": b"fine"})

        with pytest.raises(BadInput, match=r"^MISSING_COLUMN news \[published\] there is no such column"):
            self.read(file, (*COLUMNS, "published"))


class TestStagedFiles:
    def staged(self, folder: Path, relative: str) -> Path:
        folder.mkdir()
        entry = {"uri": "s3://news/a.csv", "split": "train", "format": "csv", "files": [relative]}
        written(folder / "sources.json", json.dumps([entry]))
        return folder

    def test_files_carry_the_names_that_users_know(self, tmp_path):
        folder = self.staged(tmp_path / "staged", "0.csv")
        written(folder / "0.csv", "x")

        (file,) = staged_files(folder)

        assert (file.name, file.split, file.where(3)) == ("s3://news/a.csv", "train", "s3://news/a.csv:3")

    @pytest.mark.parametrize("relative", ["../secret.csv", "/etc/hostname", "missing.csv"])
    def test_a_path_that_leaves_the_folder_is_refused(self, tmp_path, relative):
        written(tmp_path / "secret.csv", "x")
        folder = self.staged(tmp_path / "staged", relative)

        with pytest.raises(BadInput, match=r"^BAD_SOURCE .* is not a file of this folder"):
            staged_files(folder)


def test_arrow_files_are_cut_into_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("transfer_learning.blocks.arrow_files.BATCH_ROWS", 3)
    table = pa.table({"id": list(range(10)), "text": ["t"] * 10, "label": ["x"] * 10})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    file, reading = SourceFile("sql://news", "arrow", (tmp_path / "a.arrow",)), Reading(("id",))

    sizes = [batch.num_rows for batch in batches(file, reading, header(file, reading))]

    assert sizes == [3, 3, 3, 1]


def test_a_csv_written_by_the_standard_library_comes_back_whole(tmp_path):
    cells = [["1", 'say "hi"', "a,b"], ["2", "", " \t"], ["3", "\r\nx", "'"]]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["id", "text", "label"], *cells])

    assert [list(row.values()) for row in rows_of(tmp_path / "a.csv", "csv")] == cells


def test_limits_are_what_the_documentation_says():
    assert source_file.CELL_BYTES == 10_000_000
