from __future__ import annotations

import json

import pyarrow as pa
import pytest

from learning.reading import COLUMNS, refusal, rows_of, written
from transfer_learning.blocks.data.readers import header
from transfer_learning.blocks.data.source_file import Reading, SourceFile

pytestmark = pytest.mark.promise(27)


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
