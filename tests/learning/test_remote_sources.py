from __future__ import annotations

import os
import re
import sqlite3
import types
from decimal import Decimal
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from learning.pulling import Puller, make_spec, write_csv
from learning.staging import ROWS, refusal, staged
from transfer_learning.errors import BadInput, StoreUnreachable
from transfer_learning.remote_sources import fixed_folder, matches
from transfer_learning.sources import check_sources


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("news/a.csv", "news/*.csv", True),
        ("news/deep/a.csv", "news/*.csv", False),
        ("news/deep/er/a.csv", "news/**/*.csv", True),
        ("news/a.csv", "news/**/*.csv", True),
        ("news/a.csv", "news/[ab].csv", True),
        ("news/A.csv", "news/a.csv", False),
        ("news/2026-03-01.csv", "news/2026-0?-*.csv", True),
    ],
)
def test_a_star_stays_in_its_folder(path, pattern, expected):
    assert matches(path, pattern) is expected


def test_the_prefix_ends_at_the_last_folder_before_a_wildcard():
    assert fixed_folder("news/day/a*.csv") == "news/day/"
    assert fixed_folder("*.csv") == ""


@pytest.mark.integration
class TestS3:
    @pytest.fixture
    def bucket(self, seaweedfs):
        """A prefix of its own in a real server, with three files below it."""
        client, prefix = seaweedfs.client(), f"sources-{os.urandom(4).hex()}"
        for key in ("day/a.csv", "day/b.csv", "day/deep/c.csv", "texts/sport/1.txt", "texts/tech/2.txt"):
            body = "a text" if key.endswith("txt") else f"id,text,label\n{key},text of {key},x\n"
            client.put_object(Bucket="tests", Key=f"{prefix}/{key}", Body=body.encode())
        return client, f"s3://tests/{prefix}"

    def test_a_pattern_brings_the_objects_it_matches(self, tmp_path, bucket):
        client, root = bucket

        entries = staged(tmp_path, f"{root}/day/*.csv", s3_client=client)

        assert [entry["uri"] for entry in entries] == [f"{root}/day/a.csv", f"{root}/day/b.csv"]
        assert (tmp_path / "staged" / entries[0]["files"][0]).read_text().startswith("id,text,label\n")

    def test_a_prefix_brings_everything_below_it_and_a_key_itself(self, tmp_path, bucket):
        client, root = bucket

        assert len(staged(tmp_path / "1", f"{root}/day", s3_client=client)) == 3
        assert len(staged(tmp_path / "2", f"{root}/day/a.csv", s3_client=client)) == 1

    def test_class_folders_come_from_a_prefix(self, tmp_path, bucket):
        client, root = bucket

        (entry,) = staged(tmp_path, f"{root}/texts/", s3_client=client, format="class_folders")

        assert entry["members"] == ["sport/1.txt", "tech/2.txt"]

    def test_a_pattern_that_matches_nothing_names_its_prefix_and_what_is_near(self, tmp_path, bucket):
        client, root = bucket
        key = root.removeprefix("s3://tests/")

        assert refusal(tmp_path, f"{root}/days/*.csv", s3_client=client) == (
            f"NO_SOURCE {root}/days/*.csv nothing matches below the prefix {root}/days/;"
            f" near: {key}/day/b.csv, {key}/day/a.csv, {key}/day/deep/c.csv — check bucket, prefix and pattern"
        )

    @pytest.mark.parametrize("source", ["day/a.csv", "day", "day/", "day/*.csv"])
    def test_the_check_of_a_source_ends_at_its_first_object(self, bucket, source):
        client, root = bucket
        pages = []

        class Paged:
            meta = client.meta

            def list_objects_v2(self, **where):
                pages.append(where)
                return client.list_objects_v2(**where, MaxKeys=1)

        check_sources(make_spec(f"{root}/{source}"), local=False, s3_client=Paged())

        assert len(pages) == 1

    @pytest.mark.parametrize("source", ["da", "days/*.csv", "day/d.csv"])
    def test_the_check_of_a_source_without_an_object_is_one_line(self, bucket, source):
        client, root = bucket

        with pytest.raises(
            BadInput, match=rf"^NO_SOURCE {re.escape(root)}/\S+ nothing matches below the prefix .* — check bucket"
        ):
            check_sources(make_spec(f"{root}/{source}"), local=False, s3_client=client)

    def test_a_missing_bucket_is_one_line(self, tmp_path, bucket):
        client, _ = bucket

        assert refusal(tmp_path, "s3://no-such-bucket/a.csv", s3_client=client).startswith("NO_BUCKET s3://no-such-bucket")

    def test_messages_name_the_object(self, tmp_path, bucket):
        client, root = bucket
        client.put_object(Bucket="tests", Key=f"{root.removeprefix('s3://tests/')}/bad.csv", Body=b"id,text,label\n1,a\n")
        puller = Puller(tmp_path / "pulls")

        with pytest.raises(BadInput, match=rf"^RAGGED_ROW {root}/bad\.csv:1 the row has 2 cells"):
            puller.pull(make_spec(f"{root}/bad.csv"), s3_client=client)


def test_s3_without_a_connection_says_so(tmp_path):
    assert refusal(tmp_path, "s3://bucket/a.csv") == (
        "NO_S3 s3://bucket/a.csv an s3:// source needs an AWS connection — name one in the store's connection"
    )


class TestSql:
    @pytest.fixture
    def database(self, tmp_path):
        """Streams a real database in batches of two rows, as tuples of columns would come from any driver."""
        connection = sqlite3.connect(tmp_path / "news.db")
        connection.row_factory = sqlite3.Row
        connection.execute("CREATE TABLE news (id, text, label)")
        connection.executemany(
            "INSERT INTO news VALUES (?, ?, ?)", [(i, f"text {i}", None if i == 1 else "ab"[i % 2]) for i in range(7)]
        )

        def stream(name, query):
            assert name == "warehouse"
            cursor = connection.execute(query)
            while rows := cursor.fetchmany(2):
                yield rows

        yield stream
        connection.close()

    def test_rows_are_streamed_into_a_snapshot(self, tmp_path, database):
        puller = Puller(tmp_path / "pulls")

        manifest = puller.pull(make_spec("sql://warehouse", query="SELECT * FROM news", unlabelled="keep"), sql=database)

        assert manifest["schema"] == {"id": "int64", "text": "string", "label": "string"}
        assert (manifest["rows"], manifest["splits"]["unlabelled"]) == (7, 1)

    def test_a_batch_with_other_types_begins_a_file_and_the_pull_settles_them(self, tmp_path, database):
        query = "SELECT id, text, label, CASE WHEN id < 4 THEN NULL ELSE id END AS score FROM news ORDER BY id"

        entries = staged(tmp_path, "sql://warehouse", query=query, sql=database)

        assert [entry["format"] for entry in entries] == ["arrow"] * len(entries)
        assert len(entries) > 1
        manifest = Puller(tmp_path / "pulls").pull(
            make_spec("sql://warehouse", query=query, unlabelled="keep", keep=["score"]), sql=database
        )
        assert manifest["schema"]["score"] == "int64"

    def test_cells_that_are_empty_throughout_a_batch_begin_no_further_file(self, tmp_path):
        scores = [[1, 2], [None, None], [3, None], [None, None]]
        batches = [
            [{"id": i, "text": f"t{i}{score}", "label": "x", "score": score} for score in part] for i, part in enumerate(scores)
        ]

        (entry,) = staged(tmp_path, "sql://warehouse", query="SELECT 1", sql=lambda name, query: iter(batches))

        with pa.ipc.open_file(tmp_path / "staged" / entry["files"][0]) as file:
            assert file.read_all()["score"].to_pylist() == [1, 2, None, None, 3, None, None, None]

    def test_a_label_that_is_empty_throughout_the_first_batch_takes_the_type_of_the_next(self, tmp_path):
        batches = [
            [{"id": i, "text": f"t{i}", "label": label} for i in range(3 * n, 3 * n + 3)] for n, label in enumerate((None, 7))
        ]
        spec = make_spec("sql://warehouse", query="SELECT 1", unlabelled="keep")

        manifest = Puller(tmp_path).pull(spec, sql=lambda name, query: iter(batches))

        assert (manifest["schema"]["label"], manifest["splits"]["unlabelled"]) == ("int64", 3)

    def test_decimals_widen_and_lose_no_digit(self, tmp_path):
        prices = ["1.5", "123.25", "1.125", "2", "9999.5", "0.0625"]
        batches = [[{"id": i, "text": f"t{i}", "label": "x", "price": Decimal(price)}] for i, price in enumerate(prices * 3)]
        spec = make_spec("sql://warehouse", query="SELECT 1", keep=["price"])

        entries = staged(tmp_path, "sql://warehouse", query="SELECT 1", sql=lambda name, query: iter(batches))
        puller = Puller(tmp_path / "pulls")
        manifest = puller.pull(spec, sql=lambda name, query: iter(batches))

        assert len(entries) <= len(prices)
        assert manifest["schema"]["price"] == "decimal128(8, 4)"
        assert sorted(row["price"] for row in puller.rows(manifest)) == sorted(map(Decimal, prices * 3))

    def test_record_batches_are_cut_and_written_as_they_come(self, tmp_path):
        def stream(name, query):
            for start in range(0, 100_000, 50_000):
                ids = list(range(start, start + 50_000))
                yield pa.record_batch({"id": ids, "text": [f"t{i}" for i in ids], "label": ["x"] * 50_000})

        (entry,) = staged(tmp_path, "sql://warehouse", query="SELECT 1", sql=stream)

        with pa.ipc.open_file(tmp_path / "staged" / entry["files"][0]) as file:
            sizes = [file.get_batch(i).num_rows for i in range(file.num_record_batches)]
        assert sum(sizes) == 100_000
        assert max(sizes) <= 16_384

    def test_two_types_in_a_column_are_one_line(self, tmp_path):
        rows = [{"id": 1, "text": "a", "label": 1}, {"id": 2, "text": "b", "label": "1"}]

        line = refusal(tmp_path, "sql://warehouse", query="SELECT 1", sql=lambda name, query: iter([rows]))

        assert line.startswith("MIXED_TYPES sql://warehouse ")
        assert line.endswith(" — CAST each column to one type in the query")

    def test_two_types_over_batches_are_one_line(self, tmp_path):
        batches = [[{"id": 1, "text": "a", "label": 1}], [{"id": 2, "text": "b", "label": "1"}]]

        with pytest.raises(BadInput, match=r"^MIXED_TYPES sql://warehouse \[label\] the column is string, and int64 in "):
            Puller(tmp_path).pull(make_spec("sql://warehouse", query="SELECT 1"), sql=lambda name, query: iter(batches))

    def test_no_rows_and_no_connection_are_one_line(self, tmp_path):
        assert refusal(tmp_path / "1", "sql://warehouse", query="SELECT 1", sql=lambda name, query: iter([[]])) == (
            "NO_ROWS sql://warehouse the query returns no rows — check the query"
        )
        assert refusal(tmp_path / "2", "sql://warehouse", query="SELECT 1").startswith(
            "NO_SQL sql://warehouse a sql:// source needs"
        )


class LocalHub:
    """Stands in for the module huggingface_hub: one dataset repository in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.downloads: list[tuple[str, str]] = []
        self.HfApi = lambda: self

    def dataset_info(self, repository, revision=None, timeout=None):
        if repository != "org/news":
            request = httpx.Request("GET", "https://huggingface.co/api/datasets/org/other")
            raise RepositoryNotFoundError("404", response=httpx.Response(404, request=request))
        files = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        return types.SimpleNamespace(
            sha={"main": "c0ffee", None: "c0ffee", "refs/convert/parquet": "beef"}[revision],
            siblings=[types.SimpleNamespace(rfilename=name) for name in files],
        )

    def hf_hub_download(self, repository, name, *, repo_type, revision, local_dir):
        assert repo_type == "dataset"
        self.downloads.append((name, revision))
        target = Path(local_dir) / name
        target.parent.mkdir(parents=True)
        target.write_bytes((self.folder / name).read_bytes())
        return str(target)


class TestHub:
    @pytest.fixture
    def hub(self, tmp_path):
        for name in ("data/train-0.csv", "data/train-1.csv", "data/test.csv", "news.py", "README.md"):
            write_csv(tmp_path / "repository" / name, ROWS)
        return LocalHub(tmp_path / "repository")

    def test_a_branch_is_pinned_to_its_commit_and_scripts_stay_there(self, tmp_path, hub):
        entries = staged(tmp_path, "hf://org/news@main", hub=hub)

        assert sorted(hub.downloads) == [(f"data/{name}.csv", "c0ffee") for name in ("test", "train-0", "train-1")]
        assert entries[0]["uri"] == "hf://org/news@c0ffee/data/test.csv"
        assert entries[0]["revision"] == "c0ffee"
        assert sorted(p.name for p in (tmp_path / "staged" / "00000").iterdir()) == [f"00000{i}.csv" for i in range(3)]

    @pytest.mark.parametrize(
        ("uri", "count"),
        [
            ("hf://org/news/data", 3),
            ("hf://org/news@main/data/train-*.csv", 2),
            ("hf://datasets/org/news/data/test.csv", 1),
            ("hf://org/news@refs/convert/parquet/data/test.csv", 1),
        ],
    )
    def test_a_folder_a_pattern_or_a_file_narrows_it(self, tmp_path, hub, uri, count):
        assert len(staged(tmp_path, uri, hub=hub)) == count

    def test_a_pattern_without_data_files_is_one_line(self, tmp_path, hub):
        assert refusal(tmp_path, "hf://org/news@main/news.py", hub=hub) == (
            "NO_SOURCE hf://org/news@main/news.py no .parquet, .csv, .jsonl, .ndjson file there at commit c0ffee;"
            " near: data/test.csv"
            " — name a folder or pattern that has some; scripts are never run"
        )

    def test_a_dataset_that_is_not_there_is_one_line(self, tmp_path, hub):
        assert refusal(tmp_path, "hf://org/other", hub=hub) == (
            "HUB hf://org/other the hub refused it (RepositoryNotFoundError) — check name and revision, and that it is public"
        )

    def test_offline_one_line_says_what_to_do(self, tmp_path):
        def offline(*arguments, **options):
            raise type("OfflineModeIsEnabled", (ConnectionError,), {})("offline")

        hub = types.SimpleNamespace(HfApi=lambda: types.SimpleNamespace(dataset_info=offline))

        with pytest.raises(StoreUnreachable) as caught:
            staged(tmp_path, "hf://org/news", hub=hub)

        assert str(caught.value) == (
            "HUB hf://org/news the hub cannot be reached from here (OfflineModeIsEnabled)"
            " — copy the dataset's files to s3:// or file:// where the hub can be reached, and name them as the source"
        )

    def test_the_real_library_has_what_is_called(self):
        import inspect

        import huggingface_hub

        assert {"revision", "timeout"} <= set(inspect.signature(huggingface_hub.HfApi().dataset_info).parameters)
        assert {"repo_type", "revision", "local_dir"} <= set(inspect.signature(huggingface_hub.hf_hub_download).parameters)
