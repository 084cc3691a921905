from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learning.pulling import headlines, make_spec, refusal, write_csv
from transfer_learning.errors import BadInput, Stopped
from transfer_learning.jobs import run_job
from transfer_learning.sources import stage_sources
from transfer_learning.stage import Run
from transfer_learning.stages.pull_dataset import pull_dataset

SAMPLES = Path(__file__).parents[3] / "include" / "samples"


class TestSnapshot:
    def test_it_holds_the_kept_columns_the_hashes_and_one_split_a_part(self, puller, tmp_path):
        rows = [(*row, "ann", "x") for row in headlines(60)]
        source = write_csv(tmp_path / "a.csv", rows, ("id", "text", "label", "author", "unused"))

        manifest = puller.pull(make_spec(source, keep=["author"]))

        assert manifest["schema"] == {"id": "string", "text": "string", "label": "string", "author": "string"}
        assert manifest["rows"] == 60 == sum(manifest["splits"].values()) == puller.metrics["new_rows"]
        assert manifest["splits"]["unlabelled"] == 0
        assert {split: sum(labels.values()) for split, labels in manifest["labels"].items()} == {
            split: manifest["splits"][split] for split in ("train", "validation", "test")
        }
        first = min(puller.rows(manifest), key=lambda row: int(row["id"]))
        assert {k: v for k, v in first.items() if not k.startswith("_")} == {
            "id": "0",
            "text": "Headline number 0 of the day",
            "label": "sport",
            "author": "ann",
            "split": first["split"],
            "labelled": True,
        }
        assert all(len(first[name]) == 32 for name in ("_row_key", "_row_hash", "_input_hash", "_content_key"))

    def test_parts_are_sorted_by_row_key_and_nothing_but_the_result_is_left_in_out(self, puller, tmp_path):
        manifest = puller.pull(make_spec(write_csv(tmp_path / "a.csv", headlines(50))))

        assert sorted(path.name for path in puller.out.iterdir()) == ["manifest.json", "parts"]
        for part in manifest["parts"]:
            table = pq.read_table(puller.out / "parts" / f"{part['sha256']}.parquet")
            keys = table.column("_row_key").to_pylist()
            assert keys == sorted(keys)

    @pytest.mark.parametrize("name", ["headlines.csv", "headlines.jsonl"])
    def test_the_samples_make_one_snapshot_whatever_their_format(self, puller, name):
        task = {"id": "id", "text": "headline", "label": "topic"}

        manifest = puller.pull(make_spec(SAMPLES / name, task=task, unlabelled="keep"))

        assert manifest["rows"] == 8
        assert manifest["splits"]["unlabelled"] == 1
        assert manifest["digest"] == "7a5b48dad724e47ab1532f4c3b045a01ece1ef62df01b20a99e308a2c8fe63ec"

    def test_class_folders_take_their_column_names_from_the_task(self, puller):
        task = {"id": "path", "text": "headline", "label": "topic"}

        manifest = puller.pull(make_spec(SAMPLES / "class_folders", format="class_folders", task=task))

        found = {row["path"]: (row["headline"], row["topic"]) for row in puller.rows(manifest)}
        assert found["business/7.txt"] == ("Café chain to float in Paris", "business")
        assert len(found) == 7

    def test_labels_keep_their_type_and_have_their_text_as_name(self, puller, tmp_path):
        path = tmp_path / "a.parquet"
        pq.write_table(
            pa.table({"text": [f"t{i}" for i in range(40)], "label": pa.array([i % 2 for i in range(40)], pa.int8())}), path
        )

        manifest = puller.pull(make_spec(path, task={}))

        assert manifest["schema"]["label"] == "int8"
        assert set(manifest["labels"]["train"]) == {"0", "1"}
        assert {type(row["label"]) for row in puller.rows(manifest)} == {int}

    def test_dictionaries_and_long_strings_are_plain_text(self, puller, tmp_path):
        path = tmp_path / "a.parquet"
        label = pa.array(["a", "b"] * 20).dictionary_encode()
        pq.write_table(pa.table({"text": pa.array([f"t{i}" for i in range(40)], pa.large_string()), "label": label}), path)

        manifest = puller.pull(make_spec(path, task={}))

        assert manifest["schema"] == {"text": "string", "label": "string"}

    def test_column_order_and_other_columns_do_not_matter(self, puller, tmp_path):
        one = puller.pull(make_spec(write_csv(tmp_path / "a.csv", headlines(30))))
        turned = [(label, "more", text, id) for id, text, label in headlines(30)]

        two = puller.pull(make_spec(write_csv(tmp_path / "b.csv", turned, ("label", "new", "text", "id"))))

        assert one == two
        assert puller.metrics["new_parts"] == 0

    def test_a_pull_that_is_stopped_leaves_nothing(self, tmp_path):
        spec = make_spec(write_csv(tmp_path / "a.csv", headlines(3)))
        stage_sources(spec, tmp_path / "source")
        (tmp_path / "out").mkdir()
        run = Run(facts={})
        run._on_signal(15, None)

        with pytest.raises(Stopped):
            pull_dataset(spec, {"source": [tmp_path / "source"]}, tmp_path / "out", run)

        assert list((tmp_path / "out").iterdir()) == []


class TestNextDay:
    def test_the_same_data_in_any_order_and_any_files_write_nothing(self, puller, tmp_path):
        rows = headlines(200)
        first = puller.pull(make_spec(write_csv(tmp_path / "one" / "a.csv", rows)))
        random.Random(0).shuffle(rows)
        write_csv(tmp_path / "two" / "b.csv", rows[:30])
        write_csv(tmp_path / "two" / "c.csv", rows[30:])

        second = puller.pull(make_spec(tmp_path / "two" / "*.csv"))

        assert second == first
        assert json.loads((puller.out / "manifest.json").read_text()) == first
        assert puller.uploaded == 0
        assert (puller.metrics["new_parts"], puller.metrics["bytes_written"]) == (0, 0)

    def test_new_rows_move_no_old_row_and_write_only_themselves(self, puller, tmp_path):
        old = puller.splits(puller.pull(make_spec(write_csv(tmp_path / "a.csv", headlines(2000)))))
        all_bytes = puller.uploaded
        write_csv(tmp_path / "a.csv", headlines(2100))

        manifest = puller.pull(make_spec(tmp_path / "a.csv"))

        new = puller.splits(manifest)
        assert {key: new[key] for key in old} == old
        assert puller.metrics["new_rows"] == 100
        assert puller.uploaded < 0.1 * all_bytes
        assert len(new) == 2100

    def test_a_changed_row_rewrites_only_the_part_it_was_in(self, puller, tmp_path):
        rows = headlines(300)
        before = puller.pull(make_spec(write_csv(tmp_path / "a.csv", rows)))
        place = next(int(row["id"]) for row in puller.rows(before) if row["split"] == "test")
        rows[place] = (rows[place][0], rows[place][1], "tech" if rows[place][2] != "tech" else "sport")

        after = puller.pull(make_spec(write_csv(tmp_path / "a.csv", rows)))

        assert after["digest"] != before["digest"]
        assert puller.metrics["new_rows"] == before["splits"]["test"]
        assert after["split_digests"]["train"] == before["split_digests"]["train"]
        assert after["split_digests"]["test"] != before["split_digests"]["test"]

    def test_rows_that_are_gone_leave_no_trace(self, puller, tmp_path):
        puller.pull(make_spec(write_csv(tmp_path / "a.csv", headlines(90))))

        after = puller.pull(make_spec(write_csv(tmp_path / "a.csv", headlines(60))))

        assert sorted(int(key) for key in puller.splits(after)) == list(range(60))

    def test_a_row_that_gets_its_label_later_stays_in_its_split(self, puller, tmp_path):
        unlabelled = [(i, text, "") for i, text, _ in headlines(100)]
        before = puller.splits(puller.pull(make_spec(write_csv(tmp_path / "a.csv", unlabelled), unlabelled="keep")))

        after = puller.pull(make_spec(write_csv(tmp_path / "a.csv", headlines(100)), unlabelled="keep"))

        assert puller.splits(after) == before
        assert after["splits"]["unlabelled"] == 0

    def test_a_changed_rule_is_refused_and_a_reset_takes_it(self, puller, tmp_path):
        source = write_csv(tmp_path / "a.csv", headlines(90))
        puller.pull(make_spec(source))
        changed = make_spec(source, split={"test": 0.4})

        assert refusal(puller, changed).startswith("SPLIT_RULE_CHANGED the split rule of dataset 'news' was fixed")
        assert puller.pull(changed, reset=True)["rule"]["test"] == 0.4
        assert puller.pull(changed)["rule"]["test"] == 0.4

    @pytest.mark.parametrize(
        ("task", "difference"),
        [({"text": "title"}, "texts text -> title"), ({"text_pair": "title"}, "texts text -> text + title")],
    )
    def test_other_texts_would_cut_other_splits_and_need_a_reset(self, puller, tmp_path, task, difference):
        rows = [(*row, f"title {row[0]}") for row in headlines(90)]
        source = write_csv(tmp_path / "a.csv", rows, ("id", "text", "label", "title"))
        puller.pull(make_spec(source, keep=["title"]))
        changed = make_spec(source, keep=["text", "title"], task={"id": "id"} | task)

        assert f"fixed at its first snapshot: {difference} — set it back" in refusal(puller, changed)
        assert puller.pull(changed, reset=True)["rule"]["texts"] == difference.rpartition("> ")[2].split(" + ")

    def test_validation_stays_as_the_first_snapshot_decided(self, puller, tmp_path):
        small = puller.pull(make_spec(write_csv(tmp_path / "a.csv", headlines(499))))

        large = puller.pull(make_spec(write_csv(tmp_path / "a.csv", headlines(900))))
        fresh = puller.pull(make_spec(tmp_path / "a.csv", name="other"))

        assert (small["rule"]["validation"], large["rule"]["validation"], fresh["rule"]["validation"]) == (0.0, 0.0, 0.1)
        assert large["splits"]["validation"] == 0 < fresh["splits"]["validation"]

    def test_another_type_of_a_role_is_one_line_with_the_difference(self, puller, tmp_path):
        puller.pull(make_spec(write_csv(tmp_path / "a.csv", headlines(30))))
        path = tmp_path / "b.parquet"
        pq.write_table(pa.table({"id": list(range(30)), "text": ["t"] * 30, "label": ["a"] * 30}), path)

        assert refusal(puller, make_spec(path)) == (
            "SCHEMA_CHANGED news [id] the last snapshot had other types: id: string -> int64"
            " — keep the type as it was, pull under a new dataset name, or set reset_split to a reason"
        )

    def test_a_new_column_is_said_and_every_part_gets_it(self, puller, tmp_path):
        rows = [(*row, "ann") for row in headlines(30)]
        source = write_csv(tmp_path / "a.csv", rows, ("id", "text", "label", "author"))
        before = puller.splits(puller.pull(make_spec(source)))

        manifest = puller.pull(make_spec(source, keep=["author"]))

        assert "Column 'author' is new." in manifest["notes"]
        assert {row["author"] for row in puller.rows(manifest)} == {"ann"}
        assert puller.splits(manifest) == before


class TestJob:
    """The stage as the operator runs it: in a child under limits."""

    def run(self, folder: Path, source: Path, **settings):
        spec = make_spec(source, **settings)
        stage_sources(spec, folder / "source")
        limits = {"memory_mb": 1024, "cpu_seconds": 60}
        return run_job("pull_dataset", spec, {"source": [folder / "source"]}, work=folder / "job", limits=limits)

    def test_it_ends_with_a_snapshot(self, tmp_path):
        result = self.run(tmp_path, write_csv(tmp_path / "a.csv", headlines(30)))

        assert result.metrics["rows"] == 30
        assert json.loads((result.out / "manifest.json").read_text())["rows"] == 30

    def test_its_one_line_reaches_the_parent(self, tmp_path):
        source = write_csv(tmp_path / "a.csv", [*headlines(3), ("x", "y")])

        with pytest.raises(BadInput) as caught:
            self.run(tmp_path, source)

        assert str(caught.value).startswith(f"RAGGED_ROW {source}:4 the row has 2 cells, the header 3 — ")
        assert list((tmp_path / "job").rglob("*.parquet")) == []
