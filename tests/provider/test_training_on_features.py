"""A linear probe on stored features is the linear probe, and features that are not those of its rows are one clear line."""

import hashlib
import json

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_task import Task
from airflow_transfer_learning.operators import EvaluateOperator, FineTuneOperator
from airflow_transfer_learning.operators.base import jobs
from airflow_transfer_learning.operators.stored_features import stand_for
from feature_workplace import EXACT, Workplace
from tiny_pipeline import ROLES, headlines, write_base
from transfer_learning.errors import HostOutOfMemory
from transfer_learning.specs import FeatureSpec, FineTuneSpec
from transfer_learning.store import documents, layout

PROBE = {"strategy": "linear_probe", **EXACT}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A snapshot, its features, and the version that was trained on them."""
    with pytest.MonkeyPatch.context() as patch:
        made = Workplace(tmp_path_factory.mktemp("night"), patch.setenv, write_base(tmp_path_factory.mktemp("bases") / "base"))
        made.data = made.pull(headlines(200, seed=1), validation=0.2)
        made.ref = made.extract(made.data)
        made.model = fine_tune(made, features=made.ref)
        yield made


def fine_tune(workplace, task=None, **options):
    complete = {"task_id": "train", "spec": PROBE, "dataset": workplace.data, "model": "news", "base": workplace.base}
    return (task or Task()).run(FineTuneOperator(**complete | options))[0]


@pytest.fixture
def seen(monkeypatch):
    """What a training's child would have been given; none is started."""
    found = {}

    def note(stage, spec, inputs, **options):
        found.update(spec=spec, inputs=inputs, files={p.name for f in inputs.get("features", ()) for p in f.iterdir()})
        found.update(facts=options.get("facts"), folders={p.name for p in inputs["train"][0].parent.iterdir() if p.is_dir()})
        raise HostOutOfMemory("KILLED at once")

    monkeypatch.setattr(jobs, "run_job", note)
    return found


def given(workplace, seen, **options):
    with pytest.raises(AirflowException, match="KILLED at once"):
        fine_tune(workplace, force=True, **options)
    return seen


@pytest.fixture
def features(workplace):
    """Publishes features like those of the snapshot, but for what a test changes in their manifest."""

    def publish(**changes):
        manifest = workplace.store.features.manifest(workplace.ref["digest"])
        spec = manifest["spec"] | changes.pop("spec", {})
        digest = hashlib.sha256(json.dumps([spec, changes]).encode()).hexdigest()
        changed = manifest | {"spec": spec, "digest": digest} | changes
        documents.create(workplace.store.objects, layout.feature_set_key(digest), changed)
        return workplace.ref | {"digest": digest, "shard": list(spec["shard"])}

    return publish


def weights(workplace, version):
    folder = workplace.store.models.fetch("news", version, workplace.folder / f"version-{version}")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_it_publishes_the_weights_of_a_training_without_features_bit_for_bit(workplace):
    without = fine_tune(workplace, task=Task(run_id="run-2"), force=True)

    assert without["version"] != workplace.model["version"]
    assert without["fingerprint"] == workplace.model["fingerprint"]
    assert len(weights(workplace, 1)) > 1
    assert weights(workplace, without["version"]) == weights(workplace, 1)


def test_with_and_without_features_it_is_the_same_training_and_found(workplace, features, seen):
    halves = [features(spec={"shard": [i, 2]}) for i in range(2)]

    for options in ({}, {"features": workplace.ref}, {"features": [workplace.ref]}, {"features": halves}):
        assert fine_tune(workplace, **options)["fingerprint"] == workplace.model["fingerprint"]

    assert seen == {}


def test_the_child_gets_the_parts_of_all_shards_and_the_arithmetic_that_made_them(workplace, features, seen):
    names = {part["name"] for part in workplace.store.features.manifest(workplace.ref["digest"])["parts"]}
    halves = [features(spec={"shard": [i, 2]}) for i in range(2)]

    given(workplace, seen, features=halves, spec={"strategy": "linear_probe"})

    assert seen["files"] == names
    assert seen["spec"].precision == "fp32"


def test_a_shard_without_a_row_is_as_good_as_the_others(workplace, features, seen):
    nothing = features(spec={"shard": [1, 2]}, precision=None, width=0, rows=0, parts=[])

    given(workplace, seen, features=[features(spec={"shard": [0, 2]}), nothing])

    assert seen["spec"].precision == "fp32"


def test_without_features_nothing_of_them_reaches_the_child(workplace, seen):
    given(workplace, seen)

    assert "features" not in seen["inputs"]


@pytest.mark.parametrize(
    ("of_features", "of_training"),
    [
        ({"pooling": "cls"}, {"pooling": "cls"}),
        ({"layers": [1]}, {"layer": 1}),
        ({"layers": [0]}, {"layer": 0}),
        ({"layers": ["encoder.layer.0"]}, {"layer": "encoder.layer.0"}),
        ({"normalize": True}, {"normalize": True}),
        ({"max_length": 16}, {"max_length": 16}),
    ],
)
def test_settings_that_are_left_open_are_those_of_the_features(workplace, features, seen, of_features, of_training):
    with_features = given(workplace, seen, features=features(spec=of_features))["spec"]

    without = given(workplace, seen, spec=PROBE | of_training)["spec"]

    assert with_features == without
    assert with_features.canonical().items() >= of_training.items()


@pytest.mark.parametrize(("of_features", "of_training"), [(-1, 2), (2, -1), (0, -3)])
def test_a_layer_is_that_of_the_features_by_whichever_of_its_two_numbers(workplace, features, seen, of_features, of_training):
    found = given(workplace, seen, spec=PROBE | {"layer": of_training}, features=features(spec={"layers": [of_features]}))

    assert found["spec"].layer == of_features


@pytest.mark.parametrize(
    ("of_training", "line"),
    [
        ({"strategy": "full"}, "BAD_SETTING features belong to strategy 'linear_probe', and the strategy is 'full'"),
        ({"pooling": "cls"}, "WRONG_FEATURES FineTuneSpec.pooling is 'cls', and the features were extracted with 'mean'"),
        ({"pooling": "architecture"}, "WRONG_FEATURES FineTuneSpec.pooling is 'architecture'"),
        ({"layer": 0}, "WRONG_FEATURES FineTuneSpec.layer is 0, and the features were extracted with -1"),
        ({"normalize": True}, "WRONG_FEATURES FineTuneSpec.normalize is True"),
        ({"max_length": 16}, "WRONG_FEATURES FineTuneSpec.max_length is 16, and the features were extracted with None"),
        ({"precision": "bf16"}, "WRONG_FEATURES FineTuneSpec.precision is 'bf16', and the features were extracted in 'fp32'"),
        (
            {"task": {**ROLES, "text_pair": "id"}},
            "BAD_SETTING a head on stored features is published for sentence-transformers, which takes one text, and the task"
            " has pairs — train without features=",
        ),
        (
            {"task": {**ROLES, "text_pair": "id"}, "pooling": "architecture"},
            "BAD_SETTING a head on stored features is published for sentence-transformers",
        ),
        ({"task": {**ROLES, "text": "id"}}, r"WRONG_COLUMN \[id\] features are found by the texts"),
    ],
)
def test_settings_that_differ_from_those_of_the_features_are_one_line(workplace, seen, of_training, line):
    with pytest.raises(AirflowFailException, match=f"^{line}") as caught:
        fine_tune(workplace, spec=PROBE | of_training, features=workplace.ref)

    assert "\n" not in str(caught.value)
    assert seen == {}


def test_an_empty_list_of_features_is_not_taken_for_none(workplace, seen):
    with pytest.raises(AirflowFailException, match="^NO_FEATURES features is an empty list"):
        fine_tune(workplace, features=[])

    assert seen == {}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"spec": {"layers": [-1, 1]}}, "a linear probe sees one layer, and the features have 2"),
        (
            {"dataset": {"name": "other", "digest": "0" * 64}},
            "the features are of snapshot 000000000000 of other, and the training",
        ),
        (
            {"base": {"uri": "hf://other", "digest": "1" * 64}},
            r"the features are of base model hf://other \(111111111111\), not of",
        ),
        ({"spec": {"splits": ["validation"]}}, "the features are of validation, and the training reads train too"),
        ({"spec": {"splits": ["train", "test"]}}, "the features are of train, test, and the training reads validation too"),
        ({"spec": {"shard": [1, 3]}}, "shard 0 of 3 is missing"),
        ({"spec": {"shard": [0, 2]}}, "shard 1 of 2 is missing"),
    ],
)
def test_features_that_are_not_those_of_the_rows_are_one_line(workplace, features, seen, changes, line):
    with pytest.raises(AirflowFailException, match=f"^WRONG_FEATURES {line}") as caught:
        fine_tune(workplace, features=features(**changes))

    assert "\n" not in str(caught.value)
    assert seen == {}


@pytest.mark.parametrize(
    ("second", "line"),
    [
        ({"spec": {"shard": [0, 2]}}, "shard 0 of 2 is there twice"),
        ({"spec": {"shard": [1, 3]}}, "the shards were extracted with different settings"),
        ({"spec": {"shard": [1, 2]}, "cache": "2" * 64}, "the shards were extracted with different settings"),
        ({"spec": {"shard": [1, 2]}, "precision": "bf16"}, "the shards were computed in different precisions, bf16 and fp32"),
    ],
)
def test_shards_that_do_not_belong_together_are_one_line(workplace, features, seen, second, line):
    first = features(spec={"shard": [0, 2]})

    with pytest.raises(AirflowFailException, match=f"^WRONG_FEATURES {line}"):
        fine_tune(workplace, features=[first, features(**second)])

    assert seen == {}


def test_features_rounded_to_16_bits_make_another_training(workplace, features, seen):
    with pytest.raises(AirflowException, match="KILLED at once"):  # not found: it would start
        fine_tune(workplace, features=features(spec={"dtype": "float16"}))


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"kind": "dataset"}, "WRONG_REF expected a 'features' ref, found 'dataset'"),
        ({"digest": "3" * 64}, "NO_FEATURES .* there are no features 333333333333"),
        ({"digest": "../x"}, "BAD_NAME"),
    ],
)
def test_what_names_no_features_is_one_line(workplace, wrong, line):
    with pytest.raises(AirflowFailException, match=f"^{line}"):
        fine_tune(workplace, features=workplace.ref | wrong)


def test_a_part_that_was_damaged_since_is_one_line(workplace, features, seen):
    [part] = workplace.store.features.manifest(workplace.ref["digest"])["parts"]
    lost = {**part, "name": f"part-fp32-{'4' * 64}.parquet"}

    with pytest.raises(
        AirflowFailException, match=r"^BROKEN_FEATURES .*/part-fp32-4+\.parquet it is missing — run the extraction again"
    ):
        fine_tune(workplace, force=True, features=features(parts=[lost]))


def test_its_evaluation_takes_the_test_rows_from_the_same_extraction(workplace, monkeypatch):
    spec = EXACT | {"splits": ["train", "validation", "test"]}
    data = workplace.pull(headlines(120, seed=3), name="judged", test=0.4)
    features = workplace.extract(data, spec=spec)
    candidate = fine_tune(workplace, dataset=data, features=features, model="judged")
    evaluate = EvaluateOperator(task_id="evaluate", spec={}, candidate=candidate, dataset=data, features=features)

    verdict, _ = Task().run(evaluate)

    rows = data["splits"]["test"]
    assert f"the candidate answered {rows} of {rows} test rows from features that were stored before" in verdict["sentences"]


@pytest.fixture(scope="module")
def every_split(workplace):
    """A snapshot with rows of every kind."""
    rows = [row | {"topic": row["topic"] if number % 3 else ""} for number, row in enumerate(headlines(120, seed=4))]
    return workplace.pull(rows, name="partly", validation=0.2, unlabelled="keep")


def test_its_evaluation_brings_nothing_but_training_and_test_rows_onto_this_machine(workplace, every_split, seen):
    with pytest.raises(AirflowException, match="KILLED at once"):
        Task().run(EvaluateOperator(task_id="evaluate", spec={}, candidate=workplace.model, dataset=every_split))

    assert min(every_split["splits"].values()) > 0
    assert seen["folders"] == {"train", "test"}


def test_features_that_nobody_answers_from_are_not_brought_onto_this_machine(workplace, features, seen):
    ref = features(spec={"pooling": "cls", "splits": ["train", "validation", "test"]})
    evaluate = EvaluateOperator(task_id="evaluate", spec={}, candidate=workplace.model, dataset=workplace.data, features=ref)

    with pytest.raises(AirflowException, match="KILLED at once"):
        Task().run(evaluate)

    assert seen["facts"]["answer_from_features"] == []
    assert "features" not in seen["inputs"]


@pytest.mark.parametrize(
    ("splits", "line"),
    [
        (["train", "validation"], "WRONG_FEATURES the features are of train, validation, and the evaluation reads test too"),
        (None, r"WRONG_FEATURES the features are of snapshot \w+ of news, and the evaluation takes \w+ of lined"),
    ],
)
def test_features_that_an_evaluation_cannot_take_are_one_clear_line(workplace, splits, line):
    data = workplace.pull(headlines(120, seed=3), name="lined", test=0.4)
    features = workplace.extract(data, spec=EXACT | {"splits": splits}) if splits else workplace.ref
    evaluate = EvaluateOperator(task_id="evaluate", spec={}, candidate=workplace.model, dataset=data, features=features)

    with pytest.raises(AirflowFailException, match=f"^{line}"):
        Task().run(evaluate)


@pytest.mark.parametrize(
    ("settings", "extraction", "base", "stand"),
    [
        ({}, {}, "b", True),
        ({"classifier": "linear_svm", "seed": 3}, {"splits": ["test"]}, "b", True),
        ({"pooling": "cls", "max_length": 8}, {"pooling": "cls", "max_length": 8}, "b", True),
        ({}, {}, "c", False),
        ({"strategy": "full"}, {}, "b", False),
        ({"strategy": "probe_then_fine_tune", "pooling": "mean"}, {}, "b", False),
        ({"pooling": "cls"}, {}, "b", False),
        ({"layer": 1}, {}, "b", False),
        ({"layer": 2}, {}, "b", False),
        ({"normalize": True}, {}, "b", False),
        ({"max_length": 8}, {}, "b", False),
        ({}, {"pooling": "max"}, "b", False),
        ({}, {"layers": [1]}, "b", False),
        ({}, {"layers": [1, 2]}, "b", False),
        ({}, {"normalize": True}, "b", False),
        ({}, {"max_length": 8}, "b", False),
    ],
)
def test_features_stand_for_the_probe_of_that_base_under_those_settings_alone(settings, extraction, base, stand):
    one = {"base": {"digest": "b"}, "spec": FeatureSpec.from_dict(extraction).to_dict()}
    spec = FineTuneSpec.from_dict({"strategy": "linear_probe"} | settings).to_dict()

    assert stand_for([one], {"base": {"digest": base}, "spec": spec}) is stand
    assert not stand_for([], {"base": {"digest": base}, "spec": spec})
    assert not stand_for([one], {})


def test_rows_of_another_dataset_beside_features_are_one_clear_line(workplace):
    with pytest.raises(
        AirflowFailException, match="^BAD_SETTING features are those of the dataset's own rows, and replay brings"
    ):
        fine_tune(workplace, features=workplace.ref, spec=PROBE | {"replay": 0.5}, replay=workplace.data)
