from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from learning.pulling import headlines, make_spec, refusal, write_csv


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

    def test_a_run_that_does_not_say_its_time_is_refused(self, puller, tmp_path):
        spec = make_spec(self.source(tmp_path), task={"id": "id", "time": "at"}, split={"key": "time", "test_period": "P7D"})

        assert refusal(puller, spec, as_of="").startswith("BAD_JOB news a split by time needs the run's own time")

    def test_an_empty_window_is_one_line(self, puller, tmp_path):
        spec = make_spec(self.source(tmp_path), task={"id": "id", "time": "at"}, window="P10D")
        window = {"start": "2020-01-01T00:00:00+00:00", "end": "2020-01-02T00:00:00+00:00"}

        assert refusal(puller, spec, window=window) == (
            "NO_ROWS news none of 29 rows is left: 29 outside window — widen the window, or bring other rows"
        )
