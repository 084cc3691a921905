from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learning.pulling import Puller, make_spec, write_csv
from transfer_learning.errors import BadInput, Stopped
from transfer_learning.sources import stage_sources
from transfer_learning.specs import PullSpec
from transfer_learning.stage import Run
from transfer_learning.stages.pull_dataset import pull_dataset

SAMPLES = Path(__file__).parents[3] / "include" / "samples"
TOPICS = ("sport", "tech", "world")


@pytest.fixture
def puller(tmp_path):
    return Puller(tmp_path / "pulls")


def headlines(count: int, start: int = 0) -> list[tuple[str, str, str]]:
    return [(str(i), f"Headline number {i} of the day", TOPICS[i % 3]) for i in range(start, start + count)]


def refusal(puller: Puller, spec: PullSpec, **options) -> str:
    """Return the one line, after seeing that nothing was written."""
    with pytest.raises(BadInput) as caught:
        puller.pull(spec, **options)
    assert list(puller.out.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
        assert manifest["digest"] == "39ebd12d0e00abca99a1659276f458c845e5a44d60cdc43f13dcde5208c9cef9"

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


class TestCopies:
    def test_exact_copies_become_one_and_are_counted(self, puller, tmp_path):
        source = write_csv(tmp_path / "a.csv", headlines(30) + headlines(12))

        manifest = puller.pull(make_spec(source))

        assert (manifest["rows"], manifest["dropped"]["duplicates"]) == (30, 12)

    def test_without_ids_equal_texts_are_one_row(self, puller, tmp_path):
        rows = [(text, label) for _, text, label in headlines(30)]
        source = write_csv(tmp_path / "a.csv", rows + rows[:5], ("text", "label"))

        manifest = puller.pull(make_spec(source, task={}))

        assert (manifest["rows"], manifest["dropped"]["duplicates"]) == (30, 5)

    def test_a_labelled_copy_wins_over_one_without(self, puller, tmp_path):
        rows = headlines(30)
        bare = [(id, text, "") for id, text, _ in rows]

        manifest = puller.pull(make_spec(write_csv(tmp_path / "a.csv", bare + rows + bare), unlabelled="keep"))

        assert manifest["splits"]["unlabelled"] == 0
        assert (manifest["rows"], manifest["dropped"]["unlabelled_copies"]) == (30, 60)

    def test_a_labelled_text_wins_over_the_same_text_under_another_id(self, puller, tmp_path):
        rows = [*headlines(30), ("x", "HEADLINE number 3  of the day", ""), ("y", "Never labelled", "")]

        manifest = puller.pull(make_spec(write_csv(tmp_path / "a.csv", rows), unlabelled="keep"))

        assert (manifest["splits"]["unlabelled"], manifest["dropped"]["unlabelled_copies"]) == (1, 1)

    def test_contradictory_labels_are_counted_and_the_first_five_shown(self, puller, tmp_path):
        rows = headlines(30) + [(f"x{i}", text.upper(), TOPICS[(int(i) + 1) % 3]) for i, text, _ in headlines(7)]

        notes = puller.pull(make_spec(write_csv(tmp_path / "a.csv", rows)))["notes"]

        (note,) = [note for note in notes if "contradictory" in note]
        assert note.startswith("7 texts are found under contradictory labels (all of these rows are kept): ")
        assert note.count(" is ") == 5
        assert note.endswith(" ….")

    def test_one_contradiction_reads_well(self, puller, tmp_path):
        rows = [(text, label) for _, text, label in headlines(30)]
        source = write_csv(tmp_path / "a.csv", [*rows, ("Headline number 0 of the day", "tech")], ("text", "label"))

        manifest = puller.pull(make_spec(source, task={}))

        assert (
            "1 text is found under contradictory labels (of equal texts one is kept): 'Headline number 0 of the day' is sport, tech."
            in manifest["notes"]
        )

    def test_one_id_with_two_contents_is_refused_with_both_places(self, puller, tmp_path):
        source = write_csv(tmp_path / "a.csv", [*headlines(3), ("1", "Something else", "tech")])

        assert refusal(puller, make_spec(source)) == (
            f"DUPLICATE_ID {source}:4 [id] the id stands in {source}:2 too, with other content (1 such ids)"
            " — give each row an id of its own"
        )

    def test_one_id_with_two_labels_is_refused(self, puller, tmp_path):
        rows = headlines(3)
        source = write_csv(tmp_path / "a.csv", [*rows, (rows[1][0], rows[1][1], "world")])

        assert refusal(puller, make_spec(source)).startswith(f"DUPLICATE_ID {source}:4 [id] ")


class TestNoTextInTwoSplits:
    def contents(self, puller: Puller, manifest) -> dict[bytes, set[str]]:
        found: dict[bytes, set[str]] = {}
        for row in puller.rows(manifest):
            found.setdefault(row["_content_key"], set()).add(row["split"])
        return found

    def test_test_wins_also_when_rows_are_split_by_id(self, puller, tmp_path):
        copies = [(f"copy-{i}", text.upper(), label) for i, text, label in headlines(200)]

        manifest = puller.pull(
            make_spec(write_csv(tmp_path / "a.csv", headlines(200) + copies), split={"key": "id", "validation": 0.2})
        )

        assert all(len(splits) == 1 for splits in self.contents(puller, manifest).values())
        assert manifest["dropped"]["test_wins"] > 20
        assert manifest["dropped"]["validation_wins"] > 20
        assert (
            f"{manifest['dropped']['test_wins']} rows are left out of training and validation: the text stands in test."
            in manifest["notes"]
        )

    def test_test_wins_over_training_rows_of_another_source(self, puller, tmp_path):
        sources = {
            "train": str(write_csv(tmp_path / "train.csv", headlines(30))),
            "test": str(write_csv(tmp_path / "test.csv", [(f"t{i}", text, label) for i, text, label in headlines(6)])),
        }

        manifest = puller.pull(make_spec(None, split_sources=sources, split={"key": "given"}))

        assert manifest["splits"] == {"train": 24, "validation": 0, "test": 6, "unlabelled": 0}
        assert manifest["dropped"]["test_wins"] == 6

    def test_a_group_stays_in_one_split(self, puller, tmp_path):
        rows = [(*row, f"author {i % 20}") for i, row in enumerate(headlines(200))]
        source = write_csv(tmp_path / "a.csv", rows, ("id", "text", "label", "author"))

        manifest = puller.pull(make_spec(source, task={"id": "id", "group": "author"}, split={"key": "group"}))

        splits: dict[str, set[str]] = {}
        for row in puller.rows(manifest):
            splits.setdefault(row["author"], set()).add(row["split"])
        assert all(len(found) == 1 for found in splits.values())
        assert set.union(*splits.values()) == {"train", "test"}


class TestGivenSplits:
    def test_a_column_names_them_and_it_is_not_kept(self, puller, tmp_path):
        rows = [(*row, "test" if i < 30 else "train") for i, row in enumerate(headlines(100))]
        source = write_csv(tmp_path / "a.csv", rows, ("id", "text", "label", "part"))

        manifest = puller.pull(make_spec(source, split={"key": "given", "column": "part", "validation": 0.2}))

        splits = puller.splits(manifest)
        assert {int(key) for key, split in splits.items() if split == "test"} == set(range(30))
        assert 5 < manifest["splits"]["validation"] < 30
        assert "part" not in manifest["schema"]

    def test_few_training_rows_get_no_validation_however_large_the_test_set_is(self, puller, tmp_path):
        sources = {
            "train": str(write_csv(tmp_path / "train.csv", headlines(80))),
            "test": str(write_csv(tmp_path / "test.csv", headlines(500, start=1000))),
        }

        manifest = puller.pull(make_spec(None, split_sources=sources, split={"key": "given"}))

        assert manifest["splits"] == {"train": 80, "validation": 0, "test": 500, "unlabelled": 0}

    def test_another_word_for_a_split_is_named(self, puller, tmp_path):
        source = write_csv(tmp_path / "a.csv", [(*headlines(1)[0], "validate")], ("id", "text", "label", "part"))

        assert refusal(puller, make_spec(source, split={"key": "given", "column": "part"})) == (
            f"UNKNOWN_SPLIT {source}:1 [part] 'validate' is no split; did you mean 'validation'? — write train, validation, test, or nothing"
        )

    def test_labels_that_meet_in_one_split_only_are_noted(self, puller, tmp_path):
        sources = {
            "train": str(write_csv(tmp_path / "train.csv", [("1", "a", "x"), ("2", "b", "y")])),
            "test": str(write_csv(tmp_path / "test.csv", [("3", "c", "x"), ("4", "d", "z")])),
        }

        notes = puller.pull(make_spec(None, split_sources=sources, split={"key": "given", "small_classes": "refuse"}))["notes"]

        assert notes == [
            "Label 'z' stands in test (1 rows) and not in training.",
            "Label 'y' stands in training (1 rows) and not in test: its metrics are undefined.",
        ]


class TestTime:
    def source(self, folder: Path) -> Path:
        rows = [(*row, f"2026-02-{i + 1:02}T12:00:00Z") for i, row in enumerate(headlines(28))]
        return write_csv(
            folder / "a.csv", [*rows, ("x", "From the future", "sport", "2026-04-01")], ("id", "text", "label", "at")
        )

    def test_the_newest_days_are_test_and_rows_after_the_run_are_left_out(self, puller, tmp_path):
        spec = make_spec(self.source(tmp_path), task={"id": "id", "time": "at"}, split={"key": "time", "test_period": "P7D"})

        manifest = puller.pull(spec)

        assert manifest["splits"]["test"] == 7
        assert manifest["dropped"]["after_as_of"] == 1

    def test_a_window_keeps_its_start_and_not_its_end(self, puller, tmp_path):
        spec = make_spec(self.source(tmp_path), task={"id": "id", "time": "at"}, window="P10D")
        window = {"start": "2026-02-10T12:00:00+00:00", "end": "2026-02-12T13:00:00+01:00"}

        manifest = puller.pull(spec, window=window)

        assert sorted(puller.splits(manifest)) == ["10", "9"]
        assert manifest["dropped"]["outside_window"] == 27
        assert manifest["window"] == window

    def test_times_may_be_timestamps_and_dates(self, puller, tmp_path):
        import datetime as dt

        days = [dt.date(2026, 2, day) for day in range(1, 29)]
        stamps = [dt.datetime(2026, 2, day, 12) for day in range(1, 29)]
        for number, column in enumerate(
            (pa.array(days), pa.array(stamps, pa.timestamp("ns")), pa.array(stamps, pa.timestamp("s", "UTC")))
        ):
            path = tmp_path / f"{number}.parquet"
            ids, texts, labels = zip(*headlines(28), strict=True)
            pq.write_table(pa.table({"id": ids, "text": texts, "label": labels, "at": column}), path)
            spec = make_spec(
                path, name=f"n{number}", task={"id": "id", "time": "at"}, split={"key": "time", "test_period": "P7D"}
            )

            assert puller.pull(spec)["splits"]["test"] == 7 - (number == 0)

    def test_a_time_that_cannot_be_read_is_named(self, puller, tmp_path):
        source = write_csv(
            tmp_path / "a.csv", [("1", "a", "x", "2026-02-01"), ("2", "b", "y", "yesterday")], ("id", "text", "label", "at")
        )
        spec = make_spec(source, task={"id": "id", "time": "at"}, split={"key": "time", "test_period": "P7D"})

        assert refusal(puller, spec) == (
            f"BAD_TIME {source}:2 [at] 'yesterday' is no time — write ISO 8601, such as 2026-03-01T12:00:00Z"
        )

    def test_an_empty_window_is_one_line(self, puller, tmp_path):
        spec = make_spec(self.source(tmp_path), task={"id": "id", "time": "at"}, window="P10D")
        window = {"start": "2020-01-01T00:00:00+00:00", "end": "2020-01-02T00:00:00+00:00"}

        assert refusal(puller, spec, window=window) == (
            "NO_ROWS news none of 29 rows is left: 29 outside window — widen the window, or bring other rows"
        )


class TestPolicies:
    def test_missing_labels_are_refused_with_the_count_and_the_first_five(self, puller, tmp_path):
        rows = [(i, text, "" if int(i) % 4 else label) for i, text, label in headlines(12)]
        source = write_csv(tmp_path / "a.csv", rows)

        places = ", ".join(f"{source}:{row}" for row in (2, 3, 4, 6, 7))
        assert refusal(puller, make_spec(source)) == (
            f"MISSING_LABEL {source}:2 [label] 9 rows have no label: {places} … — fill them in, or set unlabelled='drop' or 'keep'"
        )

    @pytest.mark.parametrize("nothing", ["", "  ", "NaN", "nan"])
    def test_white_space_and_nan_are_missing_labels_too(self, puller, tmp_path, nothing):
        source = write_csv(tmp_path / "a.csv", [*headlines(3), ("x", "a text", nothing)])

        assert refusal(puller, make_spec(source)).startswith(f"MISSING_LABEL {source}:4 [label] 1 rows have no label")

    def test_rows_without_a_label_can_be_dropped_or_kept(self, puller, tmp_path):
        source = write_csv(tmp_path / "a.csv", headlines(30) + [(f"x{i}", f"Unlabelled {i}", "") for i in range(10)])

        dropped = puller.pull(make_spec(source, unlabelled="drop"))
        kept = puller.pull(make_spec(source, name="other", unlabelled="keep"))

        assert (dropped["rows"], dropped["dropped"]["unlabelled"]) == (30, 10)
        assert (kept["rows"], kept["splits"]["unlabelled"]) == (40, 10)
        assert {part["labelled"] for part in kept["parts"]} == {True, False}
        assert all((row["label"] is not None) == row["labelled"] for row in puller.rows(kept))

    def test_a_row_that_is_left_out_for_its_text_is_not_counted_again_for_its_label(self, puller, tmp_path):
        source = write_csv(tmp_path / "a.csv", [*headlines(30), ("x", "", "")])

        manifest = puller.pull(make_spec(source, blank_texts="drop"))

        assert (manifest["dropped"]["blank"], manifest["dropped"]["unlabelled"]) == (1, 0)

    def test_blank_texts_are_refused_or_dropped(self, puller, tmp_path):
        source = write_csv(tmp_path / "a.csv", [*headlines(30), ("x", "\t \u00a0", "sport"), ("y", "", "sport")])

        assert refusal(puller, make_spec(source)) == (
            f"BLANK_TEXT {source}:31 [text] 2 rows have no text: {source}:31, {source}:32 — fill them in, or set blank_texts='drop'"
        )
        assert puller.pull(make_spec(source, blank_texts="drop"))["dropped"]["blank"] == 2

    @pytest.mark.parametrize(
        ("labels", "shown"),
        [
            (("sport", "sport "), "'sport' (15 rows) and 'sport ' (15 rows)"),
            (("sport", "Sport"), "'Sport' (15 rows) and 'sport' (15 rows)"),
            (("Caf\u00e9", "Cafe\u0301"), "'Cafe\u0301' (15 rows) and 'Caf\u00e9' (15 rows)"),
            (("1", "1.0"), "'1' (15 rows) and '1.0' (15 rows)"),
        ],
    )
    def test_labels_that_look_alike_are_refused(self, puller, tmp_path, labels, shown):
        rows = [(id, text, labels[int(id) % 2]) for id, text, _ in headlines(30)]

        assert refusal(puller, make_spec(write_csv(tmp_path / "a.csv", rows))) == (
            f"NEAR_DUPLICATE_LABELS news [label] labels differ only in spaces, case, Unicode form or a '.0': {shown}"
            " — write each label in one way"
        )

    def test_a_class_too_small_is_refused_with_its_counts_or_exempt(self, puller, tmp_path):
        source = write_csv(tmp_path / "a.csv", [*headlines(90), ("x", "One of its kind", "weather")])
        line = refusal(puller, make_spec(source, split={"small_classes": "refuse"}))

        assert line.startswith("CLASS_TOO_SMALL news [label] 1 class is too small to be trained and tested: 'weather' (")
        assert line.endswith(" — bring more rows, merge classes, or set split.small_classes='exempt'")
        notes = puller.pull(make_spec(source, split={"small_classes": "exempt"}))["notes"]
        assert any(note.startswith("Class 'weather' is too small to be trained and tested: ") for note in notes)

    def test_one_class_only_is_noted_since_features_need_no_second(self, puller, tmp_path):
        rows = [(id, text, "sport") for id, text, _ in headlines(30)]

        notes = puller.pull(make_spec(write_csv(tmp_path / "a.csv", rows)))["notes"]

        assert notes == ["There is one class only, 'sport': features can be extracted, nothing can be fine-tuned."]


class TestTypes:
    def write(self, folder: Path, **columns) -> Path:
        table = {"id": list(range(4)), "text": ["a", "b", "c", "d"], "label": ["x", "y", "x", "y"]} | columns
        pq.write_table(pa.table(table), folder / "a.parquet")
        return folder / "a.parquet"

    @pytest.mark.parametrize(
        ("columns", "line"),
        [
            (
                {"label": [1.0, 2.0, None, 1.0]},
                "INTEGERS_IN_FLOATS {path} [label] whole numbers were lost in floats: the column is double"
                " — write it as integers or text; empty cells turn integers to floats in pandas: use dtype 'Int64'",
            ),
            (
                {"id": [1e17, 2.0, 3.0, 4.0]},
                "INTEGERS_IN_FLOATS {path} [id] whole numbers were lost in floats: the column is double"
                " — write it as integers or text; empty cells turn integers to floats in pandas: use dtype 'Int64'",
            ),
            ({"text": [1, 2, 3, 4]}, "WRONG_TYPE {path} [text] texts must be text, found int64 — write it as text"),
            (
                {"label": [[1], [2], [1], [2]]},
                "WRONG_TYPE {path} [label] the column is list<element: int64> — write it as text or whole numbers",
            ),
            ({"id": [1, None, 3, 4]}, "MISSING_KEY {path}:2 [id] the cell is empty — fill it in, or split by something else"),
        ],
    )
    def test_a_role_with_a_wrong_type_is_one_line(self, puller, tmp_path, columns, line):
        path = self.write(tmp_path, **columns)

        assert refusal(puller, make_spec(path)) == line.format(path=path)

    def test_two_files_with_two_types_are_named(self, puller, tmp_path):
        first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
        first.write_text('{"text": "a", "label": 1}\n')
        second.write_text('{"text": "b", "label": "1"}\n')

        assert refusal(puller, make_spec(tmp_path / "*.jsonl", task={})) == (
            f"MIXED_TYPES {second} [label] the column is string, and int64 in {first} — write one type in all files"
        )

    @pytest.mark.parametrize(("kind", "other"), [(pa.int8(), pa.int64()), (pa.int64(), pa.float64())])
    def test_labels_are_never_widened(self, puller, tmp_path, kind, other):
        for number, label in enumerate((kind, other)):
            pq.write_table(pa.table({"text": [f"t{number}"], "label": pa.array([1], label)}), tmp_path / f"{number}.parquet")

        assert refusal(puller, make_spec(tmp_path / "*.parquet", task={})) == (
            f"MIXED_TYPES {tmp_path}/1.parquet [label] the column is {other}, and {kind} in {tmp_path}/0.parquet"
            " — write one type in all files"
        )

    def test_a_kept_column_of_another_width_leaves_no_part_of_the_old_type(self, puller, tmp_path):
        for kind in (pa.int32(), pa.int64()):
            table = {"text": [f"t{i}" for i in range(40)], "label": ["x", "y"] * 20, "n": pa.array(range(40), kind)}
            pq.write_table(pa.table(table), tmp_path / "a.parquet")
            manifest = puller.pull(make_spec(tmp_path / "a.parquet", task={}, keep=["n"]))

        assert manifest["schema"]["n"] == "int64"
        assert (puller.metrics["kept_parts"], puller.metrics["new_rows"]) == (0, 40)
        assert "Column 'n' changed its type from int32 to int64." in manifest["notes"]

    def test_a_file_without_any_label_has_whatever_type_the_others_have(self, puller, tmp_path):
        (tmp_path / "1.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n')
        (tmp_path / "2.jsonl").write_text('{"text": "c", "label": null}\n')

        manifest = puller.pull(make_spec(tmp_path / "*.jsonl", task={}, unlabelled="keep"))

        assert manifest["schema"]["label"] == "int64"
        assert manifest["splits"]["unlabelled"] == 1

    def test_kept_numbers_are_widened_and_never_rounded(self, puller, tmp_path):
        for number, column in enumerate(([1, 2], [0.5, 1.5])):
            pq.write_table(
                pa.table({"text": [f"{number}a", f"{number}b"], "label": ["x", "y"], "n": column}), tmp_path / f"{number}.parquet"
            )
        spec = make_spec(tmp_path / "*.parquet", task={}, keep=["n"])

        assert puller.pull(spec)["schema"]["n"] == "double"
        pq.write_table(pa.table({"text": ["2a", "2b"], "label": ["x", "y"], "n": [2**53 + 1, 1]}), tmp_path / "0.parquet")
        assert refusal(puller, spec).startswith(f"BAD_VALUE {tmp_path / '0.parquet'}:1 [n] a value does not fit double")


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
import json, resource, sys, time
from pathlib import Path
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
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
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
