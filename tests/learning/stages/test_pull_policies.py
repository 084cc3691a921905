from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learning.pulling import headlines, make_spec, refusal, write_csv
from transfer_learning.blocks.rows import read_rows
from transfer_learning.errors import BadInput
from transfer_learning.specs import TaskSpec

pytestmark = pytest.mark.promise(27)


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

    def test_plain_text_needs_no_column_of_labels(self, puller, tmp_path):
        source = write_csv(tmp_path / "a.csv", [(f"Chapter {i} of a book",) for i in range(30)], header=["text"])
        spec = make_spec(source, task={"label": None}, unlabelled="keep", split={"test": 0.0})

        first, again = puller.pull(spec), puller.pull(spec)

        assert first["splits"] == {"train": 0, "validation": 0, "test": 0, "unlabelled": 30}
        assert first["notes"] == ["No row has a label: the snapshot is for pretraining."]
        assert TaskSpec.from_dict(first["task"]) == TaskSpec(label=None)
        assert {(row["split"], row["labelled"]) for row in puller.rows(first)} == {("train", False)}
        assert again["digest"] == first["digest"]

    def test_plain_text_has_nothing_to_learn_labels_from(self, puller, tmp_path):
        source = write_csv(tmp_path / "a.csv", [("a book",), ("another book",)], header=["text"])
        manifest = puller.pull(make_spec(source, task={"label": None}, unlabelled="keep", split={"test": 0.0}))
        (part,) = manifest["parts"]

        with pytest.raises(BadInput, match=r"^NO_LABEL train is plain text: its task names no column of labels — name one"):
            read_rows([puller.out / "parts"], TaskSpec.from_dict(manifest["task"]))
        assert part["rows"] == len(read_rows([puller.out / "parts"], TaskSpec(label=None), labelled=False))

    def test_a_folder_of_class_folders_can_be_read_as_plain_text(self, puller, tmp_path):
        for topic in ("sport", "tech"):
            (tmp_path / "corpus" / topic).mkdir(parents=True)
            (tmp_path / "corpus" / topic / "1.txt").write_text(f"a story of {topic}")
        task, split = {"label": None}, {"test": 0.0}

        spec = make_spec(tmp_path / "corpus", format="class_folders", task=task, unlabelled="keep", split=split)

        assert puller.pull(spec)["splits"]["unlabelled"] == 2

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
