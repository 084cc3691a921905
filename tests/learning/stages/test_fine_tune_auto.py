"""Strategy ``auto`` through the stage: the model is that of the strategy it chose, and says why; resumed, it chooses the same."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from learning.stages.fine_tuning import Job, StoppingRun, weight_hashes
from learning.tiny_model import TOPICS, make_rows, write_rows
from transfer_learning.blocks import checkpoint, choice
from transfer_learning.blocks.checkpoint import Snapshot
from transfer_learning.stage import Run


def easy(folder: Path) -> Job:
    """Return a job whose topics a probe tells without an error: no word stands in two of them."""
    job = Job(folder)
    rows = [(" ".join(words), topic) for topic, known in TOPICS.items() for words in itertools.permutations(known)]
    job.inputs["train"] = [write_rows(folder / "easy", rows)]
    return job


def hard(folder: Path) -> Job:
    """Return a job whose labels have nothing to do with its texts."""
    job = Job(folder)
    texts = [text for text, _ in make_rows(40)]
    job.inputs["train"] = [write_rows(folder / "hard", [(text, "ab"[number % 7 % 2]) for number, text in enumerate(texts)])]
    return job


JOBS = {"linear_probe": easy, "full": hard}


def passport(job: Job, name: str = "auto") -> dict[str, Any]:
    return json.loads((job.folder / name / "model" / "passport.json").read_text())


@pytest.mark.parametrize("named", JOBS)
def test_the_model_is_that_of_the_chosen_strategy(tmp_path: Path, named: str) -> None:
    job = JOBS[named](tmp_path)
    settings = {"epochs": 2} if named == "full" else {}

    metrics = job.run("auto", strategy="auto", **settings)

    told = passport(job)
    assert told["strategy"] == told["settings"]["strategy"] == named
    assert told["spec"]["strategy"] == "auto"
    assert job.run("named", **settings, **told["choice"]["settings"]) == metrics
    assert weight_hashes(tmp_path / "auto") == weight_hashes(tmp_path / "named")
    assert "choice" not in passport(job, "named")


def test_the_reasons_stand_in_the_card_and_in_the_progress(tmp_path: Path) -> None:
    job = hard(tmp_path)

    job.run("auto", Run(threads=1, progress_file=tmp_path / "progress"), strategy="auto", epochs=1)

    sentences = passport(job)["choice"]["sentences"]
    assert sentences[-1] == "So: full."
    card = (tmp_path / "auto" / "model" / "README.md").read_text()
    assert "## Why this strategy\n\n- " + "\n- ".join(sentences) + "\n\n## Origin" in card
    lines = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    told = [(line["strategy"], line["reason"]) for line in lines if line["phase"] == "choice"]
    assert told == [("full", " ".join(sentences))]


def test_settings_of_a_backbone_do_not_stop_a_probe(tmp_path: Path) -> None:
    job = easy(tmp_path)

    job.run("auto", strategy="auto", epochs=2, layer_decay=0.5)

    assert passport(job)["strategy"] == "linear_probe"
    assert passport(job)["spec"]["epochs"] == 2
    assert any("epochs and layer_decay are left out" in line for line in passport(job)["choice"]["sentences"])


@pytest.mark.parametrize("named", JOBS)
def test_stopped_and_resumed_it_chooses_once_and_ends_the_same(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = JOBS[named](tmp_path)
    settings = {"strategy": "auto", "batch_size": 8, **({"epochs": 3} if named == "full" else {})}
    counting = StoppingRun(threads=1, after=1_000_000)
    whole = job.run("whole", counting, **settings)
    measures = []

    def counted(*arguments: Any) -> Any:
        measures.append(1)
        return measure(*arguments)

    measure = choice.measure
    monkeypatch.setattr(choice, "measure", counted)
    stopped, stops = job.run_stopping("stopped", min(45, 1_000_000 - counting.left - 2), **settings)

    assert stops > 0
    assert len(measures) == 1
    assert stopped == whole
    assert passport(job, "stopped") == passport(job, "whole") | {"metrics": passport(job, "stopped")["metrics"]}
    assert weight_hashes(tmp_path / "stopped") == weight_hashes(tmp_path / "whole")


def test_a_checkpoint_whose_facts_are_damaged_tells_nothing(tmp_path: Path) -> None:
    for tick in (1, 2):
        checkpoint.write(tmp_path, tick, Snapshot({}, {"format": 1, "identity": {"choice": f"made at {tick}"}}))
    newest = tmp_path / "step-00000002"

    assert checkpoint.stored_identity(Run(resume_from=newest)) == {"choice": "made at 2"}
    (newest / "state.json").write_text('{"identity": {"choice": "forged"}}')
    assert checkpoint.stored_identity(Run(resume_from=newest)) == {"choice": "made at 1"}
    assert checkpoint.stored_identity(Run()) == {}


def test_a_base_that_learned_these_labels_is_not_measured_by_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = easy(tmp_path)
    job.run("first", strategy="linear_probe")
    job.inputs |= {"base": [tmp_path / "first" / "model"], "base_ledger": [tmp_path / "first"]}
    monkeypatch.setattr(choice, "measure", lambda *_: pytest.fail("measured by rows it has learned"))

    job.run("auto", strategy="auto", epochs=1)

    assert passport(job)["strategy"] == "full"
    assert "The base has learned 100% of these rows before" in passport(job)["choice"]["sentences"][1]
