from __future__ import annotations

import os
from pathlib import Path

import pytest

from learning.pulling import Puller, make_spec, write_csv
from learning.staging import ROWS, refusal, staged
from transfer_learning.errors import BadInput
from transfer_learning.sources import check_sources


class TestLocal:
    def test_a_file_is_linked_under_a_name_of_its_own_and_keeps_its_own_in_messages(self, tmp_path):
        path = write_csv(tmp_path / "in" / "day 1.csv", ROWS)

        (entry,) = staged(tmp_path, path)

        assert entry == {
            "split": None,
            "uri": str(path),
            "format": "csv",
            "bytes": path.stat().st_size,
            "files": ["00000/000000.csv"],
        }
        assert (tmp_path / "staged" / "00000" / "000000.csv").read_bytes() == path.read_bytes()

    def test_a_file_uri_with_a_wildcard_finds_files_sorted_by_name(self, tmp_path):
        for name in ("b.csv", "a.csv", "deep/c.csv", ".hidden.csv"):
            write_csv(tmp_path / "my data" / name, ROWS)

        entries = staged(tmp_path, f"file://{tmp_path}/my%20data/*.csv")

        assert [Path(entry["uri"]).name for entry in entries] == ["a.csv", "b.csv"]

    def test_a_file_uri_may_hold_any_wildcard_and_a_number_sign(self, tmp_path):
        for name in ("part-1#a.csv", "part-2#a.csv", "part-10#a.csv"):
            write_csv(tmp_path / "in" / name, ROWS)

        entries = staged(tmp_path, f"file://{tmp_path}/in/part-?#a.csv")

        assert [Path(entry["uri"]).name for entry in entries] == ["part-1#a.csv", "part-2#a.csv"]

    def test_a_file_uri_without_its_third_slash_is_refused(self, tmp_path):
        assert refusal(tmp_path, "file://data/news.csv") == (
            "BAD_SOURCE file://data/news.csv a file:// source is an absolute path — write file:///folder/*.csv"
        )

    def test_two_stars_go_down_any_number_of_folders(self, tmp_path):
        for name in ("a.csv", "deep/b.csv", "deep/er/c.csv"):
            write_csv(tmp_path / "in" / name, ROWS)

        assert len(staged(tmp_path, f"{tmp_path}/in/**/*.csv")) == 3

    def test_a_folder_gives_every_file_whose_name_tells_a_format(self, tmp_path):
        for name in ("a.csv", "b.jsonl", "deep/c.parquet", "README.md", ".hidden.csv", ".cache/d.csv"):
            write_csv(tmp_path / "in" / name, ROWS)

        assert [entry["format"] for entry in staged(tmp_path, tmp_path / "in")] == ["csv", "jsonl", "parquet"]

    def test_class_folders_are_one_table(self, tmp_path):
        for name in ("sport/1.txt", "tech/2.txt", "README.txt", "tech/notes.md"):
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text")

        (entry,) = staged(tmp_path, tmp_path / "in", format="class_folders")

        assert entry["members"] == ["sport/1.txt", "tech/2.txt"]
        assert entry["files"] == ["00000/000000.txt", "00000/000001.txt"]

    def test_sources_of_splits_carry_their_split(self, tmp_path):
        train, test = write_csv(tmp_path / "train.csv", ROWS), write_csv(tmp_path / "test.csv", ROWS)

        entries = staged(tmp_path, None, split_sources={"train": [str(train)], "test": str(test)}, split={"key": "given"})

        assert [entry["split"] for entry in entries] == ["train", "test"]

    def test_split_folders_of_one_corpus_may_use_the_same_names(self, tmp_path):
        for name in ("train/x/1.txt", "train/y/1.txt", "test/x/1.txt", "test/y/1.txt"):
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"text of {name}")
        sources = {split: str(tmp_path / "in" / split) for split in ("train", "test")}
        puller = Puller(tmp_path / "pulls")

        manifest = puller.pull(make_spec(None, split_sources=sources, split={"key": "given"}, format="class_folders"))

        assert puller.splits(manifest) == {
            "train/x/1.txt": "train",
            "train/y/1.txt": "train",
            "test/x/1.txt": "test",
            "test/y/1.txt": "test",
        }

    def test_a_link_out_of_the_folder_is_refused(self, tmp_path):
        secret = write_csv(tmp_path / "secret.csv", ROWS)
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.csv").symlink_to(secret)

        for source in (tmp_path / "in", f"{tmp_path}/in/*.csv"):
            line = refusal(tmp_path, source)
            assert line.startswith(f"LINK_LEAVES_FOLDER {source} the link 'a.csv' leaves the folder {tmp_path}/in")
            assert line.endswith("copy the file into the folder, or name it by itself")
            (tmp_path / "staged" / "00000").rmdir()

    def test_a_linked_folder_is_refused_too(self, tmp_path):
        write_csv(tmp_path / "outside" / "a.csv", ROWS)
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "day").symlink_to(tmp_path / "outside")

        assert refusal(tmp_path, f"{tmp_path}/in/*/*.csv").startswith("LINK_LEAVES_FOLDER ")

    def test_a_link_inside_the_folder_and_one_named_by_itself_are_followed(self, tmp_path):
        real = write_csv(tmp_path / "in" / "a.csv", ROWS)
        (tmp_path / "in" / "b.csv").symlink_to(real)
        (tmp_path / "link.csv").symlink_to(real)

        assert len(staged(tmp_path, f"{tmp_path}/in/*.csv")) == 2
        assert len(staged(tmp_path / "other", tmp_path / "link.csv")) == 1

    def test_a_pipe_is_no_file(self, tmp_path):
        (tmp_path / "in").mkdir()
        os.mkfifo(tmp_path / "in" / "a.csv")

        assert refusal(tmp_path, tmp_path / "in") == f"NO_SOURCE {tmp_path}/in 'a.csv' is no file — leave it out"

    def test_a_name_that_is_not_there_comes_with_what_is_near(self, tmp_path):
        write_csv(tmp_path / "in" / "headlines.csv", ROWS)

        assert refusal(tmp_path, tmp_path / "in" / "headline.csv") == (
            f"NO_SOURCE {tmp_path}/in/headline.csv nothing is there below {tmp_path}/in; near: headlines.csv"
            " — check the path on this worker"
        )

    def test_a_name_that_tells_no_format_is_named(self, tmp_path):
        path = write_csv(tmp_path / "data.dat", ROWS)

        assert refusal(tmp_path, path) == (
            f"UNKNOWN_FORMAT {path} the name tells no format — known: .parquet, .csv, .jsonl, .ndjson; or set format"
        )
        assert staged(tmp_path / "told", path, format="csv")[0]["format"] == "csv"

    def test_a_folder_of_texts_says_what_to_set(self, tmp_path):
        (tmp_path / "in" / "sport").mkdir(parents=True)
        (tmp_path / "in" / "sport" / "1.txt").write_text("text")

        assert refusal(tmp_path, tmp_path / "in").endswith("1.txt the name tells no format — set format='class_folders'")

    def test_an_unknown_scheme_is_named(self, tmp_path):
        assert refusal(tmp_path, "gs://bucket/a.csv") == (
            "BAD_SOURCE gs://bucket/a.csv scheme 'gs' is not known — known: a path, file://, s3://, hf://, sql://"
        )

    def test_the_log_says_what_came_and_what_the_window_leaves_out(self, tmp_path):
        path, lines = write_csv(tmp_path / "a.csv", ROWS), []

        staged(tmp_path, path, log=lines.append, window={"start": "2026-01-01", "end": "2026-02-01"})

        assert lines == [
            f"{path}: 1 files, {path.stat().st_size} bytes",
            "Rows from 2026-01-01 up to 2026-02-01 are kept when they are parsed",
        ]


class TestCheck:
    @pytest.mark.parametrize("source", ["in/a.csv", "in", "in/*.csv", "in/**/*.csv", "file://in"])
    def test_a_source_with_a_file_passes(self, tmp_path, source):
        write_csv(tmp_path / "in" / "a.csv", ROWS)
        uri = f"file://{tmp_path}/in" if source == "file://in" else f"{tmp_path}/{source}"

        check_sources(make_spec(uri), local=True)

    @pytest.mark.parametrize("source", ["b.csv", "in", "*.parquet", "**/*.parquet"])
    def test_a_source_without_a_file_is_one_line(self, tmp_path, source):
        (tmp_path / "in").mkdir()
        write_csv(tmp_path / "a.csv", ROWS)

        with pytest.raises(BadInput, match=r"^NO_SOURCE \S+ nothing is there below "):
            check_sources(make_spec(tmp_path / source), local=True)

    def test_every_source_of_every_split_is_looked_for(self, tmp_path):
        there = str(write_csv(tmp_path / "a.csv", ROWS))
        sources = {"train": [there, f"{tmp_path}/b.csv"], "test": there}

        with pytest.raises(BadInput, match=rf"^NO_SOURCE {tmp_path}/b\.csv nothing is there"):
            check_sources(make_spec(None, split_sources=sources, split={"key": "given"}), local=True)

    @pytest.mark.parametrize("source", ["hf://org/name", "sql://warehouse", "/elsewhere/a.csv"])
    def test_what_is_dear_to_ask_or_lies_elsewhere_is_not_asked(self, source):
        query = {"query": "SELECT 1"} if source.startswith("sql") else {}

        check_sources(make_spec(source, **query), local=False)
