"""Promise 17: each operator run twice, twice at the same time, killed and retried, or cleared, ends as if run once."""

from __future__ import annotations

import airflow_env  # noqa: F401  first of all

# isort: split
import dataclasses
import hashlib
import json
import random
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_task import RUN_AFTER, Task
from airflow_transfer_learning.assets import model_asset
from airflow_transfer_learning.operators import (
    EvaluateOperator,
    FeatureExtractOperator,
    FineTuneOperator,
    PlanOperator,
    PromoteOperator,
    PullDatasetOperator,
)
from operator_process import Death, OperatorProcess, Outcome
from tiny_pipeline import headlines, write_base, write_csv
from transfer_learning.store import Store
from transfer_learning.store.documents import SEAL
from transfer_learning.store.garbage import collect

pytestmark = pytest.mark.promise(17)

LEASE_SECONDS = 3
"""How long a retry waits for a killed try."""
TRIES = 5
NIGHT = ("plan", "pull", "fine_tune", "evaluate", "promote")
RESET, EXTRACT, FORCED = "pull_and_reset_the_split", "feature_extract", "fine_tune_by_force"
OPERATORS = (*NIGHT, RESET, EXTRACT, FORCED)

OF_THE_MOMENT = {"nonce", "alias_nonce", "created", "written", "at", "until", "seconds", "rows_per_second", "bytes_uploaded"}
"""What no two runs have in common, and nobody decides by."""
TIMED = ("README.md", "passport.json")
"""Files of a version that tell how long the training took."""
ATTEMPT = re.compile(r"(?<=[0-9a-f]{64})-[0-9a-f]{16}(?=/|[.]parquet$|$)")
"""The nonce of a version's files and of its ledger."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One operator of the second night, and how it ends when nothing befalls it."""

    operator: type[Any]
    options: dict[str, Any]
    before: Path
    """A copy of the store."""
    after: Path
    once: Outcome
    seconds: float


class Nights:
    """A model's second night: what ran before each operator, and what it did undisturbed.

    Args:
        folder: a fresh one; the store lies in ``store``, and its copies beside it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.rows = folder, folder / "store", dict[str, Row]()
        connection = {"conn_type": "transfer_learning", "extra": {"root": self.root.as_uri()}}
        self.environment = {
            "AIRFLOW_CONN_TRANSFER_LEARNING_DEFAULT": json.dumps(connection),
            "AIRFLOW__TRANSFER_LEARNING__CACHE_FOLDER": str(folder / "cache"),
            "AIRFLOW__TRANSFER_LEARNING__LEASE_SECONDS": str(LEASE_SECONDS),
        }
        source, base, first = folder / "news.csv", write_base(folder / "base"), headlines(120, seed=1)
        pull = {
            "name": "news",
            "source": write_csv(source, first),
            "task": {"text": "headline", "label": "topic", "id": "id"},
            "split": {"test": 0.4},
        }
        tune = {"epochs": 3, "backbone_lr": 0.005, "checkpoint_seconds": 0.1, "precision": "fp32"}
        train = {"task_id": "fine_tune", "spec": tune}
        plan = {"task_id": "plan", "model": "news", "base": base, "pull": pull, "fine_tune": tune, "evaluate": {}}
        self.task = Task(run_id="night-1")
        planned = self.go_on(PlanOperator, plan)
        data = self.go_on(PullDatasetOperator, {"task_id": "pull", "spec": pull, "plan": planned})
        self.go_on(FineTuneOperator, train | {"plan": planned, "dataset": data})
        self.store.aliases.promote(
            "news", 1, promote_id="day", actor="ada", reason="", expected_generation=None, as_of=planned["as_of"]
        )

        self.task = Task(run_id="night-2", run_after=RUN_AFTER + timedelta(days=1))
        write_csv(source, first + headlines(20, seed=2, first_id=500))
        planned = self.add("plan", PlanOperator, plan)
        numbered = folder / "numbered.jsonl"
        numbered.write_text("".join(json.dumps(row | {"id": int(row["id"].removeprefix("h"))}) + "\n" for row in first))
        reset = pull | {"source": numbered.as_uri(), "split": {"test": 0.5}, "reset_split": "ids are numbers now"}
        self.add(RESET, PullDatasetOperator, {"task_id": "pull", "spec": reset, "plan": planned}, aside=True)
        data = self.add("pull", PullDatasetOperator, {"task_id": "pull", "spec": pull, "plan": planned})
        train |= {"plan": planned, "dataset": data}
        extract = {"task_id": "extract", "spec": {"precision": "fp32"}, "plan": planned, "dataset": data}
        self.add(EXTRACT, FeatureExtractOperator, extract, aside=True)
        model = self.add("fine_tune", FineTuneOperator, train)
        self.add(FORCED, FineTuneOperator, train | {"task_id": "again", "force": True}, aside=True)
        judge = {"task_id": "evaluate", "spec": {"gate": {"margin": 0.9}}, "plan": planned, "candidate": model, "dataset": data}
        verdict = self.add("evaluate", EvaluateOperator, judge)
        self.add("promote", PromoteOperator, {"task_id": "promote", "verdict": verdict, "outlets": [model_asset("news")]})

    @property
    def store(self) -> Store:
        return Store.open(self.root.as_uri())

    def start(self, operator: type[Any], options: dict[str, Any], death: Death | None = None) -> OperatorProcess:
        return OperatorProcess(operator, options, self.environment, self.task, death)

    def go_on(self, operator: type[Any], options: dict[str, Any]) -> Any:
        """Run what needs no row."""
        outcome = self.start(operator, options).outcome()
        assert outcome is not None
        assert outcome.state == "success", outcome.result
        return outcome.result

    def add(self, name: str, operator: type[Any], options: dict[str, Any], *, aside: bool = False) -> Any:
        """Run an operator undisturbed and keep what it did; ``aside``: the night goes on as if it had not run."""
        before, after = self.folder / f"before-{name}", self.folder / f"after-{name}"
        shutil.copytree(self.root, before)
        started = time.monotonic()
        once = self.start(operator, options).outcome()
        assert once is not None
        assert once.state == "success", once.result
        shutil.copytree(self.root, after)
        self.rows[name] = Row(operator, options, before, after, once, time.monotonic() - started)
        if aside:
            self.lay_out(before)
        return once.result

    def lay_out(self, copy: Path) -> None:
        """Let the store be what it once was."""
        shutil.rmtree(self.root)
        shutil.copytree(copy, self.root)

    def state_of(self, copy: Path) -> dict[str, Any]:
        """Return what the store was once."""
        self.lay_out(copy)
        return end_state(self.store)


class Story:
    """What befalls one operator.

    Args:
        nights: the store, and the operator undisturbed.
        name: of the operator.
        after: it begins when the night is over, and not before the operator has run.
    """

    def __init__(self, nights: Nights, name: str, *, after: Path | None = None) -> None:
        self.nights, self.row = nights, nights.rows[name]
        self.expected = nights.state_of(after or self.row.after)
        nights.lay_out(after or self.row.before)
        self.outcomes: list[Outcome] = []

    def start(self, death: Death | None = None) -> OperatorProcess:
        return self.nights.start(self.row.operator, self.row.options, death)

    def end(self, process: OperatorProcess) -> bool:
        """Wait for the end of a try, and return whether the task is done; Airflow retries what is killed or asks for it."""
        outcome = process.outcome()
        if outcome is None or outcome.state == "up_for_retry":
            return False
        self.outcomes.append(outcome)
        return True

    def run(self) -> None:
        """Run the task to its end, as Airflow does."""
        assert any(self.end(self.start()) for _ in range(TRIES))

    def seen(self) -> tuple[list[Any], dict[str, Any]]:
        """Return what Airflow heard of each try that ended, and what lies in the store."""
        return [told(outcome) for outcome in self.outcomes], end_state(self.nights.store)

    def as_once(self) -> tuple[list[Any], dict[str, Any]]:
        """Return the same as it is where the task runs once and nothing befalls it."""
        return [told(self.row.once)] * len(self.outcomes), self.expected


def told(outcome: Outcome) -> Any:
    """Return what Airflow hears of a try."""
    return scrubbed([outcome.state, outcome.result, outcome.events])


def end_state(store: Store) -> dict[str, Any]:
    """Return what lies in the store by key once garbage is collected, without what is of the moment."""
    collect(store.objects, older_than=timedelta(0), delete=True, now=datetime.now(UTC) + timedelta(days=1))
    return {ATTEMPT.sub("", info.key): body(info.key, store.objects.get(info.key).data) for info in store.objects.list("")}


def body(key: str, data: bytes) -> Any:
    if key.endswith(".json"):
        found = json.loads(data)
        found.pop(SEAL, None)  # the hash of a document follows from its nonce too
        return scrubbed(found)
    return "timed" if key.endswith(TIMED) else hashlib.sha256(data).hexdigest()


def scrubbed(value: Any) -> Any:
    if isinstance(value, dict):
        timed = {"sha256", "bytes"} if str(value.get("path")).endswith(TIMED) else set()
        return {name: scrubbed(item) for name, item in value.items() if name not in OF_THE_MOMENT | timed}
    if isinstance(value, list):
        return [scrubbed(item) for item in value]
    return ATTEMPT.sub("", value) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    return Nights(tmp_path_factory.mktemp("nights"))


@pytest.mark.parametrize("name", OPERATORS)
def test_run_twice_it_ends_as_if_run_once(nights, name):
    story = Story(nights, name, after=nights.rows[name].after)

    story.run()

    assert story.seen() == story.as_once()


@pytest.mark.parametrize("name", OPERATORS)
def test_run_twice_at_the_same_time_it_ends_as_if_run_once(nights, name):
    story = Story(nights, name)

    done = [story.end(process) for process in [story.start(), story.start()]]
    for _ in range(done.count(False)):
        story.run()

    assert len(story.outcomes) == 2
    assert story.seen() == story.as_once()


@pytest.mark.sample
@pytest.mark.parametrize("name", [name for name in OPERATORS if name != FORCED])
def test_killed_at_a_write_to_the_store_and_retried_it_ends_as_if_run_once(nights, name):
    chance = random.Random(name)
    story = Story(nights, name)

    killed = story.start(Death(chance.randint(1, story.row.once.writes), after=chance.random() < 0.5))

    assert not story.end(killed)
    story.run()
    assert story.seen() == story.as_once()


@pytest.mark.full
@pytest.mark.parametrize("name", OPERATORS)
def test_killed_before_or_after_any_write_and_retried_it_ends_as_if_run_once(nights, name, held):
    deaths = [Death(write, after) for write in range(1, nights.rows[name].once.writes + 1) for after in (False, True)]
    for death in deaths:
        story = Story(nights, name)

        killed = story.start(death)

        assert not story.end(killed), death
        story.run()
        assert story.seen() == story.as_once()
    held(f"{name} killed at {len(deaths)} places")


@pytest.mark.parametrize(
    ("name", "seed"),
    [("fine_tune", 0)] + [pytest.param(name, seed, marks=pytest.mark.full) for name in OPERATORS for seed in range(1, 6)],
)
def test_killed_at_any_moment_and_retried_it_ends_as_if_run_once(nights, name, seed):
    story = Story(nights, name)

    process = story.start()
    time.sleep(random.Random(seed).uniform(0, story.row.seconds))
    process.kill()

    story.end(process)
    story.run()
    assert story.seen() == story.as_once()


@pytest.mark.parametrize("name", [name for name in NIGHT if name != "plan"])
def test_cleared_when_the_night_is_over_it_changes_nothing(nights, name):
    story = Story(nights, name, after=nights.rows["promote"].after)

    story.run()

    assert story.seen() == story.as_once()


def test_a_whole_night_that_is_cleared_and_run_again_changes_nothing(nights):
    rows = nights.rows
    over = nights.state_of(rows["promote"].after)
    nights.lay_out(rows["promote"].after)

    again = {"plan": nights.go_on(rows["plan"].operator, rows["plan"].options)}
    again["dataset"] = nights.go_on(rows["pull"].operator, rows["pull"].options | again)
    again["candidate"] = nights.go_on(rows["fine_tune"].operator, rows["fine_tune"].options | again)
    verdict = nights.go_on(rows["evaluate"].operator, rows["evaluate"].options | again)
    promoted = nights.start(rows["promote"].operator, rows["promote"].options | {"verdict": verdict}).outcome()

    assert (again["plan"]["champion"], again["plan"]["champion_generation"]) == (2, 2)
    assert (verdict["decision"], promoted.state) == ("unchanged", "skipped")
    assert end_state(nights.store) == over
