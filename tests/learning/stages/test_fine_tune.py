"""Fine-tuning from folders to a folder: what is written, what is refused, what is the same twice."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from learning.stages.fine_tuning import Job, files, weight_hashes
from learning.tiny_model import POSITIONS, make_rows, write_rows
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.errors import BadInput
from transfer_learning.specs import TaskSpec

TRANSFORMERS = ["README.md", "config.json", "passport.json", "tokenizer.json", "tokenizer_config.json"]
MODULES = [
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"strategy": "full"}, [*TRANSFORMERS, "model.safetensors"]),
        ({"strategy": "linear_probe"}, [*TRANSFORMERS, *MODULES, "model.safetensors"]),
        ({"strategy": "probe_then_fine_tune", "unfreeze_blocks": 1}, [*TRANSFORMERS, *MODULES, *SHARDS]),
        ({"strategy": "linear_probe", "pooling": "architecture"}, [*TRANSFORMERS, *SHARDS]),
        ({"strategy": "top_layers", "unfreeze_blocks": 1}, [*TRANSFORMERS, *SHARDS]),
        ({"strategy": "lora"}, [*TRANSFORMERS, *SHARDS]),
        ({"strategy": "gradual_unfreeze"}, [*TRANSFORMERS, "model.safetensors"]),
        ({"strategy": "gradual_unfreeze", "pooling": "concat"}, [*TRANSFORMERS, *MODULES, *SHARDS]),
    ],
    ids=lambda value: value.get("strategy") if isinstance(value, dict) else "",
)
def test_a_strategy_writes_exactly_its_files(job: Job, settings: dict[str, object], expected: list[str]) -> None:
    job.run(epochs=1, **settings) if settings["strategy"] != "linear_probe" else job.run(**settings)

    assert files(job.folder / "out") == sorted(["ledger.parquet", *(f"model/{name}" for name in expected)])


def test_full_fine_tuning_learns_the_topics(job: Job) -> None:
    metrics = job.run(epochs=100, backbone_lr=2e-3)

    classifier = load_classifier(job.folder / "out" / "model")
    rows = make_rows(60, seed=5)
    found = classifier.probabilities([text for text, _ in rows]).argmax(axis=1)

    assert metrics["train_loss"] < 0.3
    assert sum(classifier.labels[i] == topic for i, (_, topic) in zip(found, rows, strict=True)) >= 50


def test_the_same_seed_gives_identical_weights_and_another_seed_does_not(job: Job) -> None:
    first = job.run("first", epochs=2, seed=3)
    second = job.run("second", epochs=2, seed=3)
    job.run("third", epochs=2, seed=4)

    assert first == second
    assert weight_hashes(job.folder / "first") == weight_hashes(job.folder / "second")
    assert weight_hashes(job.folder / "first") != weight_hashes(job.folder / "third")


def test_the_way_rows_lie_in_parts_changes_nothing(job: Job) -> None:
    job.run("first", epochs=1)
    job.inputs["train"] = [write_rows(job.folder / "again", make_rows(30)[::-1], parts=5)]

    job.run("second", epochs=1)

    assert weight_hashes(job.folder / "first") == weight_hashes(job.folder / "second")


def test_the_ledger_names_every_training_and_validation_row(tmp_path: Path) -> None:
    job = Job(tmp_path, rows=20, validation=6)

    job.run(epochs=1)

    ledger = pq.read_table(tmp_path / "out" / "ledger.parquet")
    rows = [pq.read_table(tmp_path / split) for split in ("train", "validation")]
    assert ledger.schema == pa.schema([("row_key", pa.binary(32)), ("content_key", pa.binary(32))])
    assert set(ledger["row_key"].to_pylist()) == {key for table in rows for key in table["_row_key"].to_pylist()}
    assert set(ledger["content_key"].to_pylist()) == {key for table in rows for key in table["_content_key"].to_pylist()}


@pytest.mark.promise(8)
@pytest.mark.parametrize("strategy", ["linear_probe", "probe_then_fine_tune", "top_layers", "gradual_unfreeze"])
def test_frozen_tensors_are_those_of_the_base(job: Job, strategy: str) -> None:
    unfreeze = {"unfreeze_blocks": 1, "epochs": 2} if strategy != "linear_probe" else {}
    job.run(strategy=strategy, pooling="mean", **unfreeze)

    model = job.folder / "out" / "model"
    base = load_file(job.folder / "base" / "model.safetensors")
    published = {name: tensor for path in model.glob("*.safetensors") for name, tensor in load_file(path).items()}
    changed = {name for name, tensor in base.items() if not tensor.equal(published[name])}
    passport = json.loads((model / "passport.json").read_text())

    expected = {name for name in base if name.startswith("encoder.layer.2.")} if unfreeze else set()
    assert changed == expected
    assert passport["frozen"]["tensors"] == len(base) - len(expected)


def test_frozen_tensors_lie_in_a_shard_that_two_runs_share(job: Job) -> None:
    for name, seed in (("first", 0), ("second", 1)):
        job.run(name, strategy="probe_then_fine_tune", unfreeze_blocks=1, epochs=1, seed=seed)

    first, second = (weight_hashes(job.folder / name / "model") for name in ("first", "second"))

    assert first["model-00001-of-00002.safetensors"] == second["model-00001-of-00002.safetensors"]
    assert first["model-00002-of-00002.safetensors"] != second["model-00002-of-00002.safetensors"]


def test_the_tokenizer_keeps_the_length_that_inputs_are_cut_to(job: Job) -> None:
    job.run("uncut", epochs=1)
    job.run("cut", epochs=1, max_length=12)

    lengths = [json.loads((job.folder / name / "model" / "passport.json").read_text())["max_length"] for name in ("uncut", "cut")]
    config = json.loads((job.folder / "cut" / "model" / "tokenizer_config.json").read_text())

    assert lengths == [48, 12]
    assert config["model_max_length"] == 12


def test_pairs_go_through_the_architectures_head(job: Job) -> None:
    job.inputs["train"] = [write_rows(job.folder / "pairs", make_rows(30), pairs=True)]

    job.run(epochs=1, task=TaskSpec(text_pair="second"))

    passport = json.loads((job.folder / "out" / "model" / "passport.json").read_text())
    probabilities = load_classifier(job.folder / "out" / "model").probabilities(["the goal"], ["a match"])
    assert passport["model_format"] == "transformers"
    assert probabilities.shape == (1, 3)


def test_balanced_class_weights_lift_the_rare_class(job: Job) -> None:
    common = [row for row in make_rows(90) if row[1] == "sport"]
    rare = [row for row in make_rows(30, seed=2) if row[1] == "film"][:4]
    job.inputs["train"] = [write_rows(job.folder / "skewed", common + rare)]

    for name, weights in (("plain", None), ("balanced", "balanced")):
        job.run(name, epochs=2, class_weights=weights)

    chances = [load_classifier(job.folder / name / "model").probabilities(["the film"])[0, 0] for name in ("plain", "balanced")]
    assert chances[1] > chances[0]


def test_nothing_about_this_machine_is_published(job: Job) -> None:
    job.run(epochs=1)

    for path in (job.folder / "out" / "model").glob("*.json"):
        assert str(job.folder) not in path.read_text()
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((job.folder / "out" / "model" / name).read_text())
        assert not {"name_or_path", "_name_or_path", "is_local", "local_files_only"} & set(values)


@pytest.mark.promise(27)
@pytest.mark.parametrize(
    ("rows", "labels", "code"),
    [
        ([("a goal", "sport"), ("a match", "sport")], None, "ONE_CLASS"),
        ([("a goal", "sport")], None, "ONE_CLASS"),
        ([("a goal", 0.5), ("a match", 1.5)], pa.float64(), "WRONG_TYPE"),
        ([("a goal", "sport"), ("a match", None)], None, "MISSING_LABEL"),
        ([("a goal", "sport"), (" ", "film")], None, "MISSING_TEXT"),
        ([], pa.string(), "NO_ROWS"),
    ],
)
def test_data_that_cannot_teach_are_refused_with_one_line(job: Job, rows: list, labels: pa.DataType | None, code: str) -> None:
    job.inputs["train"] = [write_rows(job.folder / "bad", rows, labels=labels)]

    with pytest.raises(BadInput) as refusal:
        job.run()

    assert refusal.value.code == code
    assert "\n" not in str(refusal.value)
    assert files(job.folder / "out") == []


def test_a_validation_label_without_training_rows_is_refused(job: Job) -> None:
    job.inputs["validation"] = [write_rows(job.folder / "bad", [("a goal", "weather")])]

    with pytest.raises(BadInput, match="UNKNOWN_LABEL.*weather"):
        job.run()


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"max_length": POSITIONS + 1}, "BAD_SETTING"),
        ({"max_length": 2}, "BAD_SETTING"),
        ({"max_length": 4, "task": TaskSpec(text_pair="second")}, "BAD_SETTING"),
        ({"strategy": "probe_then_fine_tune", "unfreeze_blocks": 9}, "BAD_SETTING"),
        ({"pooling": "mean", "task": TaskSpec(text_pair="second")}, "BAD_SETTING"),
        ({"task": TaskSpec(text="texts")}, "MISSING_COLUMN"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_training(job: Job, settings: dict[str, object], code: str) -> None:
    job.inputs["train"] = [write_rows(job.folder / "pairs", make_rows(6), pairs=True)]

    with pytest.raises(BadInput) as refusal:
        job.run(**settings)

    assert refusal.value.code == code
