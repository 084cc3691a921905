from __future__ import annotations

import json
from pathlib import Path

import pytest

from learning.reading import COLUMNS, written
from transfer_learning.blocks.data import source_file
from transfer_learning.blocks.data.readers import batches, header, staged_files
from transfer_learning.blocks.data.source_file import Reading, SourceFile
from transfer_learning.errors import BadInput

pytestmark = pytest.mark.promise(27)


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

    def test_a_text_without_the_mark_of_its_encoding_names_its_file(self, tmp_path):
        file = self.folder(tmp_path, {"tech/2.txt": b"a fine text"})

        with pytest.raises(BadInput, match=r"^WRONG_ENCODING news/tech/2.txt not utf-16: the file does not begin with a byte"):
            self.read(file, encoding="utf-16")

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


def test_limits_are_what_the_documentation_says():
    assert source_file.CELL_BYTES == 10_000_000
