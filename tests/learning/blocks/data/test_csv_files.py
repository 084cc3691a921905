from __future__ import annotations

import codecs
import csv

import pytest

from learning.reading import refusal, rows_of, written

pytestmark = pytest.mark.promise(27)


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

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    def test_utf_16_without_a_mark_is_read_with_the_encoding_that_its_refusal_names(self, tmp_path, encoding):
        path = written(tmp_path / "a.csv", "id,text,label\n1,a,x\n".encode(encoding))

        assert f"set encoding='{encoding}'" in refusal(path, "csv")
        assert f"set encoding='{encoding}'" in refusal(path, "csv", encoding="utf-16")
        assert rows_of(path, "csv", encoding=encoding)[0]["text"] == "a"

    def test_a_quoted_cell_may_span_batches_of_lines(self, tmp_path, monkeypatch):
        monkeypatch.setattr("transfer_learning.blocks.data.csv_files.BATCH_ROWS", 2)
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
                " — set encoding='utf-16-le', or convert it to UTF-8",
            ),
        ],
    )
    def test_bad_input_is_one_line(self, tmp_path, content, line):
        assert refusal(written(tmp_path / "a.csv", content), "csv") == line

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
    def test_an_encoding_with_a_mark_refuses_a_file_without_one(self, tmp_path, encoding):
        path = written(tmp_path / "a.csv", b"id,text,label\n1,a,x\n")

        assert refusal(path, "csv", encoding=encoding) == (
            f"WRONG_ENCODING a.csv not {encoding}: the file does not begin with a byte order mark"
            f" — leave encoding out for UTF-8, or set '{encoding}-le' or '{encoding}-be'"
        )

    def test_an_encoding_that_names_no_byte_is_refused_in_one_line(self, tmp_path):
        path = written(tmp_path / "a.csv", b"id,text,label\n1,a-b.c,x\n")

        assert refusal(path, "csv", encoding="punycode").startswith("WRONG_ENCODING a.csv not punycode: ")

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


def test_a_csv_written_by_the_standard_library_comes_back_whole(tmp_path):
    cells = [["1", 'say "hi"', "a,b"], ["2", "", " \t"], ["3", "\r\nx", "'"]]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["id", "text", "label"], *cells])

    assert [list(row.values()) for row in rows_of(tmp_path / "a.csv", "csv")] == cells
