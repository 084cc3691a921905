from __future__ import annotations

from learning.pulling import TOPICS, Puller, headlines, make_spec, refusal, write_csv


class TestRoles:
    """The same columns can mean something else the next day."""

    ROWS = tuple((id, text, f"About {text}", topic, TOPICS[int(id) % 2]) for id, text, topic in headlines(30))

    def pulled(self, puller, tmp_path, task):
        columns = ("text", "summary", "label", "desk")
        source = write_csv(tmp_path / "a.csv", self.ROWS, ("id", *columns))
        keep = [column for column in columns if column not in task.values()]
        return puller.pull(make_spec(source, task={"id": "id", **task}, keep=keep, split={"key": "id"}))

    def test_another_label_column_is_another_snapshot(self, puller, tmp_path):
        first = self.pulled(puller, tmp_path, {"text": "text", "label": "label"})
        second = self.pulled(puller, tmp_path, {"text": "text", "label": "desk"})

        assert (first["task"]["label"], second["task"]["label"]) == ("label", "desk")
        assert sorted(second["labels"]["train"]) == ["sport", "tech"]

    def test_another_text_column_writes_the_hashes_of_its_texts(self, puller, tmp_path):
        first = self.pulled(puller, tmp_path, {"text": "text", "label": "label"})
        second = self.pulled(puller, tmp_path, {"text": "summary", "label": "label"})

        keys = [{row["id"]: row["_content_key"] for row in puller.rows(manifest)} for manifest in (first, second)]
        assert keys[0].keys() == keys[1].keys()
        assert all(keys[0][id] != keys[1][id] for id in keys[0])

    def test_a_slice_more_is_another_snapshot_of_the_same_parts(self, puller, tmp_path):
        first = self.pulled(puller, tmp_path, {"text": "text", "label": "label"})
        source = tmp_path / "a.csv"
        task = {"id": "id", "slices": ["desk"]}
        second = puller.pull(make_spec(source, task=task, keep=["summary"], split={"key": "id"}))

        assert second["task"]["slices"] == ["desk"]
        assert (second["parts"], puller.uploaded) == (first["parts"], 0)


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

    def test_a_group_that_stands_in_a_given_test_split_leaves_training(self, puller, tmp_path):
        """Such as headlines that share one article: what reads the articles must not meet that of a test row."""
        header = ("id", "text", "label", "story")
        sources = {
            "train": [(*row, f"story {i % 10}") for i, row in enumerate(headlines(40))],
            "validation": [("v1", "Words of their own", "tech", "story 2"), ("v2", "And other words", "tech", "story 99")],
            "test": [("t1", "New words", "tech", "story 1"), ("t2", "More words", "sport", "story 7")],
        }
        files = {name: str(write_csv(tmp_path / f"{name}.csv", rows, header)) for name, rows in sources.items()}

        manifest = puller.pull(make_spec(None, split_sources=files, split={"key": "given"}, task={"id": "id", "group": "story"}))

        stories: dict[str, set[str]] = {}
        for row in puller.rows(manifest):
            stories.setdefault(row["split"], set()).add(row["story"])
        assert stories["train"] == {f"story {i}" for i in (0, 3, 4, 5, 6, 8, 9)}
        assert (stories["validation"], stories["test"]) == ({"story 2", "story 99"}, {"story 1", "story 7"})
        assert (manifest["dropped"]["test_wins"], manifest["dropped"]["validation_wins"]) == (8, 4)
        assert "8 rows are left out of training and validation: the text or the group stands in test." in manifest["notes"]

    def test_a_group_that_stands_in_a_test_period_leaves_training(self, puller, tmp_path):
        """Such as a customer who wrote before and since: by the name alone a model could tell what the other text was."""
        days = ["2026-01-01", "2026-01-02", "2026-01-29"]
        rows = [(*row, days[i % 3], f"customer {i % 4}" if i % 3 < 2 else "customer 1") for i, row in enumerate(headlines(24))]
        source = write_csv(tmp_path / "a.csv", rows, ("id", "text", "label", "at", "customer"))
        task = {"id": "id", "time": "at", "group": "customer"}

        manifest = puller.pull(
            make_spec(source, task=task, split={"key": "time", "test_period": "P7D"}), as_of="2026-01-30T00:00:00Z"
        )

        assert {row["customer"] for row in puller.rows(manifest) if row["split"] == "train"} == {
            f"customer {i}" for i in (0, 2, 3)
        }
        assert manifest["splits"] == {"train": 12, "validation": 0, "test": 8, "unlabelled": 0}

    def test_a_validation_split_that_is_cut_beside_a_given_test_split_keeps_groups_whole(self, puller, tmp_path):
        header = ("id", "text", "label", "story")
        train = write_csv(tmp_path / "train.csv", [(*row, f"story {i % 20}") for i, row in enumerate(headlines(200))], header)
        test = write_csv(tmp_path / "test.csv", [("t1", "New words", "tech", "story 999")], header)
        sources = {"train": str(train), "test": str(test)}
        split = {"key": "given", "validation": 0.3}

        manifest = puller.pull(make_spec(None, split_sources=sources, split=split, task={"id": "id", "group": "story"}))

        splits: dict[str, set[str]] = {}
        for row in puller.rows(manifest):
            splits.setdefault(row["story"], set()).add(row["split"])
        assert all(len(found) == 1 for found in splits.values())
        assert sum(manifest["splits"].values()) == 201
        assert refusal(puller, make_spec(None, split_sources=sources, split=split)).startswith(
            "SPLIT_RULE_CHANGED the split rule of dataset 'news' was fixed at its first snapshot: group 'story' -> None"
        )

    def test_an_empty_cell_is_no_group(self, puller, tmp_path):
        header = ("id", "text", "label", "story")
        train = write_csv(tmp_path / "train.csv", [(*row, "") for row in headlines(6)], header)
        test = write_csv(tmp_path / "test.csv", [("t1", "New words", "tech", ""), ("t2", "More words", "sport", " ")], header)
        sources = {"train": str(train), "test": str(test)}

        manifest = puller.pull(
            make_spec(None, split_sources=sources, split={"key": "given"}, task={"id": "id", "group": "story"})
        )

        assert manifest["splits"] == {"train": 6, "validation": 0, "test": 2, "unlabelled": 0}
