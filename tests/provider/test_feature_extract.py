"""Features in the store: each row computed once, whatever run, dataset or shard it came with, and whatever befell the try before."""

import re
import shutil
import threading

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_env import REPOSITORY
from airflow_task import Task
from airflow_transfer_learning.operators.base import jobs
from feature_workplace import EXACT, ROWS, Workplace
from tiny_pipeline import ROLES, headlines, write_base
from transfer_learning.errors import BadInput, StoreUnreachable
from transfer_learning.refs import DatasetRef
from transfer_learning.specs import FeatureSpec
from transfer_learning.store.features import FeatureStore


@pytest.fixture(scope="module")
def first_night(tmp_path_factory):
    """A snapshot whose features are in the store."""
    with pytest.MonkeyPatch.context() as patch:
        night = Workplace(tmp_path_factory.mktemp("night"), patch.setenv, write_base(tmp_path_factory.mktemp("bases") / "base"))
        night.data = night.pull(ROWS)
        night.ref = night.extract(night.data)
        return night


@pytest.fixture
def empty(first_night, tmp_path, monkeypatch):
    """A workplace with an empty store."""
    made = Workplace(tmp_path, monkeypatch.setenv, first_night.base)
    run_job = jobs.run_job

    def listening(stage, *args, **options):
        result = run_job(stage, *args, **options)
        if stage == "feature_extract":
            made.told.append(result.metrics)
        return result

    monkeypatch.setattr(jobs, "run_job", listening)
    return made


@pytest.fixture
def workplace(empty, first_night):
    """The day after the first night, on a machine that has nothing in its cache."""
    shutil.copytree(first_night.folder / "store", empty.folder / "store")
    empty.data, empty.ref = first_night.data, first_night.ref
    return empty


@pytest.fixture
def small_parts(tmp_path, monkeypatch):
    """Makes the children write parts of 8 rows; returns the file whose presence kills each after its first part."""
    folder = shutil.copytree(REPOSITORY / "tests" / "learning" / "small_parts", tmp_path / "path")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder / "kill"


def everything(store):
    return {info.key: store.objects.get(info.key).data for info in store.objects.list("features/")}


def test_the_same_extraction_again_is_found_and_nothing_runs(workplace):
    before = everything(workplace.store)

    again = workplace.extract(workplace.data, task=Task(run_id="run-2"))

    assert again == workplace.ref
    assert again["dataset"] == {"name": "news", "digest": workplace.data["digest"]}
    assert (workplace.told, everything(workplace.store)) == ([], before)
    assert (
        len(workplace.features(again))
        == again["rows"]
        == len({row["headline"] for row in ROWS}) - workplace.data["splits"]["test"]
    )


def test_the_same_inputs_in_another_dataset_are_not_computed_again(workplace):
    other = workplace.pull(headlines(60, seed=1, noise=0.5), name="other")

    ref = workplace.extract(other)

    assert ref["digest"] != workplace.ref["digest"]
    assert workplace.computed() == [0]
    assert workplace.features(ref) == workplace.features(workplace.ref)


def test_a_snapshot_under_another_name_has_the_features_of_the_first(workplace):
    ref = workplace.extract(workplace.pull(ROWS, name="other"))

    assert ref == workplace.ref | {"dataset": {"name": "other", "digest": workplace.data["digest"]}}
    assert workplace.told == []


def test_the_last_layer_by_its_number_is_not_computed_again(workplace):
    ref = workplace.extract(workplace.data, spec=EXACT | {"layers": [2]})

    assert workplace.computed() == [0]
    assert workplace.features(ref) == workplace.features(workplace.ref)


def test_a_column_that_the_dataset_does_not_keep_is_refused_before_anything_runs(workplace):
    with pytest.raises(
        AirflowFailException, match=r"^MISSING_COLUMN \[headlin\] FeatureSpec.task.text names .*; did you mean 'headline'\?"
    ):
        workplace.extract(workplace.data, spec=EXACT | {"task": {"text": "headlin"}})

    assert workplace.told == []


def test_of_a_dataset_with_5_percent_new_rows_only_these_are_computed(workplace):
    more = workplace.pull(ROWS + headlines(3, seed=2, first_id=500))

    ref = workplace.extract(more)

    [computed] = workplace.computed()
    assert 0 < computed <= 3
    assert ref["rows"] == workplace.ref["rows"] + computed
    assert workplace.features(workplace.ref).items() <= workplace.features(ref).items()


def test_shards_together_have_what_one_extraction_has(empty, first_night):
    data = empty.pull(ROWS)

    shards = [empty.extract(data, shard=[i, 2]) for i in range(2)]

    assert [ref["shard"] for ref in shards] == [[0, 2], [1, 2]]
    assert empty.computed() == [ref["rows"] for ref in shards]
    assert min(empty.computed()) > 0
    assert empty.features(*shards) == first_night.features(first_night.ref)


def test_a_shard_of_what_is_there_already_computes_nothing(workplace):
    shard = workplace.extract(workplace.data, shard=[0, 3])

    assert workplace.computed() == [0]
    assert 0 < shard["rows"] < workplace.ref["rows"]


def test_a_shard_that_no_row_fell_into_is_an_empty_set(workplace):
    few = workplace.pull(headlines(3, seed=1))

    refs = [workplace.extract(few, shard=[i, 8]) for i in range(8)]

    rows = [ref["rows"] for ref in refs]
    assert 0 in rows
    assert len(workplace.told) == 8 - rows.count(0)
    assert sum(rows) > 0


def test_a_split_that_the_snapshot_lacks_is_left_out_and_none_at_all_is_one_line(workplace):
    spec = EXACT | {"splits": ["train", "validation", "unlabelled"]}

    ref = workplace.extract(workplace.data, spec=spec)

    assert ref["rows"] == workplace.ref["rows"]
    with pytest.raises(AirflowFailException, match=r"^NO_ROWS snapshot \w{12} of news has no row in unlabelled — set splits"):
        workplace.extract(workplace.data, spec=EXACT | {"splits": ["unlabelled"]})


@pytest.mark.parametrize(
    ("splits", "folders"),
    [
        (["test"], {"test"}),
        (["train", "validation"], {"train", "validation"}),
        (["unlabelled"], {"unlabelled-train", "unlabelled-validation", "unlabelled-test"}),
        (["train", "unlabelled"], {"train", "unlabelled-train", "unlabelled-validation", "unlabelled-test"}),
    ],
)
def test_only_the_splits_that_are_extracted_are_brought_onto_this_machine(empty, tmp_path, splits, folders):
    rows = [row | {"topic": row["topic"] if number % 3 else ""} for number, row in enumerate(headlines(120, seed=1))]
    data = empty.pull(rows, validation=0.2, unlabelled="keep")
    operator, spec = empty.operator(data), FeatureSpec.from_dict({"splits": splits})

    found = operator.fetch_rows(empty.store, spec, DatasetRef.from_dict(data), tmp_path / "data")

    assert {path.name for path in (tmp_path / "data").iterdir() if path.is_dir()} == folders
    assert {folder.name for role in found for folder in found[role]} == folders
    assert set(found) == set(splits)


@pytest.mark.parametrize("kind", ["part", "index"])
def test_what_is_damaged_in_the_store_is_named_and_computed_again(workplace, caplog, kind):
    [key] = workplace.keys(kind)
    workplace.store.objects.put(key, workplace.store.objects.get(key).data[:-1])

    shard = workplace.extract(workplace.data, shard=[0, 2])

    assert workplace.computed() == [shard["rows"]]
    assert [
        line for line in caplog.messages if line.startswith("FEATURES DAMAGED ") and workplace.keys("damaged")[0][-64:] in line
    ]
    assert len(workplace.features(shard)) == shard["rows"]


def test_the_tasks_log_names_every_part_that_was_damaged_on_its_way_to_the_child(workplace, capfd, monkeypatch):
    more, stage, spoiled = workplace.pull(ROWS + headlines(3, seed=2, first_id=500)), FeatureStore.stage, []
    workplace.extract(more)

    def spoiling(self, key, wanted, destination, cache=None):
        names = stage(self, key, wanted, destination, cache)
        for name in names:
            raw = (destination / name).read_bytes()
            (destination / name).unlink()
            (destination / name).write_bytes(raw[:-1])
        spoiled.extend(names)
        return names

    monkeypatch.setattr(FeatureStore, "stage", spoiling)
    ref = workplace.extract(more, force=True)

    told = capfd.readouterr().out
    assert workplace.computed()[-1] == ref["rows"]
    assert len(spoiled) == 2
    assert all(f"features: damaged {name}, reason not what its name says: left out" in told for name in spoiled)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_the_next_run_heals_a_set_whose_part_was_damaged(workplace, first_night, damage):
    [key] = workplace.keys("part")
    raw = workplace.store.objects.get(key).data
    workplace.store.objects.put(key, raw[:-1] if damage == "cut" else bytes([raw[0] ^ 1]) + raw[1:])
    if damage == "flipped":  # a listing cannot tell; who reads it does
        with pytest.raises(BadInput, match="^BROKEN_FEATURES .* run the extraction again"):
            workplace.features(workplace.ref)

    again = workplace.extract(workplace.data, task=Task(run_id="run-2"))

    assert again == workplace.ref
    assert workplace.computed() == [again["rows"]]
    assert workplace.features(again) == first_night.features(first_night.ref)


@pytest.mark.parametrize("force", [False, True])
def test_a_manifest_that_was_cut_short_is_written_again_and_nothing_is_computed(workplace, caplog, force):
    [key] = [info.key for info in workplace.store.objects.list("features/sets/")]
    whole = workplace.store.features.manifest(workplace.ref["digest"])
    workplace.store.objects.put(key, workplace.store.objects.get(key).data[:-9])

    again = workplace.extract(workplace.data, force=force)

    assert again == workplace.ref
    assert workplace.computed() == [0]
    assert workplace.store.features.manifest(again["digest"]) == whole
    named = [line for line in caplog.messages if key in line]
    assert force or named
    assert all(re.fullmatch("FEATURES DAMAGED .* is not as .*: the next extraction writes it again", line) for line in named)


def test_an_index_that_names_other_rows_costs_one_extraction(workplace):
    [key] = workplace.keys("index")
    workplace.store.objects.put(key, bytes(32))

    for _ in range(2):
        again = workplace.extract(workplace.data, force=True)

    assert again == workplace.ref
    assert workplace.computed() == [again["rows"], 0]


@pytest.mark.parametrize("lost", ["part", "index", "both"])
def test_features_that_vanish_while_they_are_extracted_are_there_in_the_end(workplace, first_night, lost):
    data = workplace.pull(ROWS + headlines(3, seed=2, first_id=500))
    operator = workplace.operator(data)
    run_job = operator.run_job

    def vanishing(stage, *args, **options):
        for key in [key for kind in ("part", "index") if lost in (kind, "both") for key in workplace.keys(kind)]:
            workplace.store.objects.delete(key)
        return run_job(stage, *args, **options)

    operator.run_job = vanishing
    ref, _ = Task().run(operator)

    assert len(workplace.keys("part")) == len(workplace.keys("index")) == 2
    assert workplace.features(first_night.ref).items() <= workplace.features(ref).items()


def test_by_force_every_part_is_looked_at_again(workplace):
    [key] = workplace.keys("part")
    raw = workplace.store.objects.get(key).data
    workplace.store.objects.put(key, bytes([raw[0] ^ 1]) + raw[1:])

    again = workplace.extract(workplace.data, force=True)

    assert workplace.computed() == [again["rows"]]
    assert len(workplace.features(again)) == again["rows"]


def test_two_extractions_at_the_same_time_compute_each_row_once(empty):
    data, done = empty.pull(ROWS), []

    def run(number):
        done.append(empty.extract(data, task=Task(run_id=f"run-{number}")))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert done[0] == done[1]
    assert empty.computed() == [done[0]["rows"]]
    assert len(empty.keys("part")) == len(empty.keys("index")) == 1


def test_after_a_kill_the_retry_finds_the_part_that_was_finished(empty, small_parts, first_night):
    data, task = empty.pull(ROWS), Task()
    small_parts.touch()
    with pytest.raises(AirflowException, match="^KILLED stage feature_extract"):
        empty.extract(data, task=task)
    small_parts.unlink()
    left = [len(empty.keys(kind)) for kind in ("part", "index")]

    ref = empty.extract(data, task=task)

    assert left == [1, 1]
    assert empty.computed() == [ref["rows"] - 8]
    assert empty.features(ref) == first_night.features(first_night.ref)


def test_parts_go_up_while_the_child_runs_and_a_stopped_extraction_goes_on(empty, small_parts):
    data, task = empty.pull(ROWS), Task()
    operator = empty.operator(data)
    run_job = operator.run_job

    def stopping(stage, *args, watch, **options):
        def watching():
            watch()
            if empty.keys("index"):
                operator.on_kill()

        return run_job(stage, *args, watch=watching, **options)

    operator.run_job = stopping
    with pytest.raises(AirflowException, match="^STOPPED"):
        task.run(operator)

    ref = empty.extract(data, task=task)

    assert 8 <= empty.told[0]["found"] < ref["rows"]
    assert empty.computed() == [ref["rows"] - empty.told[0]["found"]]


def test_a_part_whose_upload_failed_goes_up_at_the_end(empty, monkeypatch):
    data, put_part, failed = empty.pull(ROWS), FeatureStore.put_part, []

    def unlucky(self, key, path):
        if not failed:
            failed.append(path.name)
            raise StoreUnreachable("no answer")
        return put_part(self, key, path)

    monkeypatch.setattr(FeatureStore, "put_part", unlucky)

    ref = empty.extract(data)

    assert [key.split("/")[-1] for key in empty.keys("part")] == failed
    assert len(empty.features(ref)) == ref["rows"]


@pytest.mark.parametrize("task", [{**ROLES, "text": "id"}, {**ROLES, "text_pair": "id"}])
def test_another_text_than_the_dataset_was_pulled_with_is_one_line(workplace, task):
    with pytest.raises(AirflowFailException, match=r"^WRONG_COLUMN \[id\] features are found by the texts"):
        workplace.extract(workplace.data, spec=EXACT | {"task": task})


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"shard": [2, 2]}, r"BAD_SETTING FeatureSpec.shard is \(i, n\)"),
        ({"shard": "0 of 2"}, "BAD_SETTING FeatureSpec.shard must be a list"),
        ({"base": None}, "MISSING_SETTING task extract needs base"),
        ({"overrides": {"poling": "cls"}}, "UNKNOWN_SETTING FeatureSpec has no setting 'poling'; did you mean 'pooling'"),
    ],
)
def test_wrong_settings_are_one_line(workplace, options, line):
    with pytest.raises(AirflowFailException, match=line):
        workplace.extract(workplace.data, **options)
