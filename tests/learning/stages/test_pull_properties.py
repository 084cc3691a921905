from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learning.pulling import TOPICS, Puller, make_spec, write_csv

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=12).filter(
    lambda text: text.strip()
)


ROWS = st.lists(
    st.tuples(st.integers(0, 60), TEXTS, st.sampled_from(["a", "b", ""])), min_size=1, max_size=25, unique_by=lambda row: row[0]
)


COPIES = st.lists(
    st.tuples(
        st.sampled_from(["one", "One", "two", " two", "three"]),
        st.sampled_from(["a", "b", ""]),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from(["train", "test", ""]),
    ),
    min_size=2,
    max_size=15,
)


SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class TestProperties:
    @SLOW
    @given(rows=ROWS, order=st.randoms(use_true_random=False), cut=st.integers(0, 25), key=st.sampled_from(["content", "id"]))
    def test_any_order_of_rows_and_files_is_one_manifest(self, tmp_path_factory, rows, order, cut, key):
        folder = tmp_path_factory.mktemp("order")
        puller = Puller(folder / "pulls")
        options = {"unlabelled": "keep", "split": {"key": key, "test": 0.4, "validation": 0.3}}
        first = puller.pull(make_spec(write_csv(folder / "one" / "a.csv", rows), **options))
        order.shuffle(rows)
        for number, part in enumerate((rows[:cut], rows[cut:])):
            if part:
                write_csv(folder / "two" / f"{number}.csv", part)

        puller.pull(make_spec(folder / "two" / "*.csv", **options))

        assert json.loads((puller.out / "manifest.json").read_text(encoding="utf-8")) == first

    @SLOW
    @given(rows=COPIES, order=st.randoms(use_true_random=False), given_splits=st.booleans())
    def test_any_order_of_copies_without_ids_is_one_manifest(self, tmp_path_factory, rows, order, given_splits):
        folder = tmp_path_factory.mktemp("copies")
        puller = Puller(folder / "pulls")
        split = {"key": "given", "column": "part", "test": 0.4} if given_splits else {"test": 0.4}
        options = {"unlabelled": "keep", "task": {}, "keep": ["author"], "split": split}
        header = ("text", "label", "author", "part")
        first = puller.pull(make_spec(write_csv(folder / "a.csv", rows, header), **options))
        order.shuffle(rows)

        puller.pull(make_spec(write_csv(folder / "b.csv", rows, header), **options))

        assert json.loads((puller.out / "manifest.json").read_text(encoding="utf-8")) == first

    @SLOW
    @given(rows=ROWS, days=st.integers(1, 24), key=st.sampled_from(["content", "id"]))
    def test_new_rows_move_no_old_row_and_no_text_stands_in_two_splits(self, tmp_path_factory, rows, days, key):
        folder = tmp_path_factory.mktemp("days")
        puller = Puller(folder / "pulls")
        options = {"unlabelled": "keep", "split": {"key": key, "test": 0.4, "validation": 0.3}}
        seen: dict[str, str] = {}
        contents: dict[bytes, str] = {}
        for end in range(days, len(rows) + days, days):
            manifest = puller.pull(make_spec(write_csv(folder / "a.csv", rows[:end]), **options))
            today = puller.rows(manifest)
            for row in today:
                assert seen.setdefault(row["id"], row["split"]) == row["split"]
            contents = {}
            for row in today:
                assert contents.setdefault(row["_content_key"], row["split"]) == row["split"]
            assert len(today) == manifest["rows"] == len({row["_row_key"] for row in today})


class TestSize:
    """A pull of many short rows, in a process of its own so that its memory can be read."""

    CODE = """
import json, sys, time
from pathlib import Path
from transfer_learning.child import peak_memory
from transfer_learning.sources import stage_sources
from transfer_learning.specs import PullSpec
from transfer_learning.stage import Run
from transfer_learning.stages.pull_dataset import pull_dataset
source, work = sys.argv[1], Path(sys.argv[2])
spec = PullSpec.from_dict({"name": "news", "source": source, "task": {"id": "id"}})
stage_sources(spec, work / "source")
(work / "out").mkdir()
begun = time.monotonic()
metrics = pull_dataset(spec, {"source": [work / "source"]}, work / "out", Run(facts={}))
peak = peak_memory()
print(json.dumps({**metrics, "peak": peak, "seconds": time.monotonic() - begun}))
"""

    @pytest.mark.parametrize(("rows", "peak"), [(100_000, 400 * 2**20), pytest.param(1_000_000, 2**30, marks=pytest.mark.full)])
    def test_memory_stays_bounded(self, tmp_path, rows, peak, record_property):
        import os
        import subprocess
        import sys

        write_csv(
            tmp_path / "a.csv",
            ((i, f"Headline number {i} about {TOPICS[i % 3]} and more words", TOPICS[i % 3]) for i in range(rows)),
        )
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "include")}

        ended = subprocess.run(
            [sys.executable, "-c", self.CODE, str(tmp_path / "a.csv"), str(tmp_path / "work")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=True,
        )

        found = json.loads(ended.stdout)
        record_property("seconds", found["seconds"])
        record_property("peak_mib", found["peak"] / 2**20)
        print(found)
        assert found["rows"] == rows
        assert found["peak"] < peak
