"""Promise 28: whatever happened to rows, splits and models before, no model is judged by a row it was trained or selected on.

Random histories over the real pull, ledgers, ancestry and dropping; only the training itself is left out. What a model knows is
kept here by id and by text, from the rows themselves, and not by the hashes that the product goes by.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from learning.pulling import AS_OF, Puller, make_spec, write_csv
from learning.store.tiny import write_model
from promises import sizes
from transfer_learning.blocks.ledger import write_ledger
from transfer_learning.blocks.rows import Rows, read_rows
from transfer_learning.errors import BadInput
from transfer_learning.specs import EvaluateSpec, TaskSpec
from transfer_learning.stage import Run
from transfer_learning.stages import evaluate
from transfer_learning.store.garbage import collect
from transfer_learning.store.models import ModelStore
from transfer_learning.store.object_store import MemoryObjectStore
from transfer_learning.store.retention import prune

COLUMNS = ("name", "id", "text", "pair", "title", "label", "group", "time", "part")
WORDS = ("café", "final", "straße", "profit", "office", "ÅNGSTRÖM", "goal", "éclair", "market", "naïve")
LABELS = ("sport", "film", "law")
PARTS = ("train", "validation", "test")
SPLITS: dict[str, dict[str, Any]] = {
    "given": {"key": "given", "column": "part"},
    "id": {"key": "id", "test": 0.4, "validation": 0.2},
    "group": {"key": "group", "test": 0.4, "validation": 0.2},
    "content": {"key": "content", "test": 0.4},
    "time": {"key": "time", "test_period": "P4D", "validation_period": "P3D"},
}
DISGUISES: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    str.title,
    lambda text: f"  {text.replace(' ', chr(9))} ",
    lambda text: text.replace(" ", "\u00a0 "),
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: text.replace("fi", "\ufb01").replace("ffi", "\ufb03"),
    lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
)
"""Ways to write the same text."""


@dataclasses.dataclass(frozen=True)
class Known:
    """What a model has seen, its parents included."""

    ids: frozenset[tuple[str, str]] = frozenset()
    """Dataset and id."""
    texts: frozenset[tuple[str, ...]] = frozenset()

    def __or__(self, other: Known) -> Known:
        return Known(self.ids | other.ids, self.texts | other.texts)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row as the test recognises it."""

    name: str
    """A column that nobody else reads; it stays with a row whatever happens to it."""
    identity: tuple[str, str]
    texts: frozenset[tuple[str, ...]]
    """What the dataset goes by, and what the model reads, each however it is written."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A published snapshot on this machine."""

    dataset: str
    folder: Path

    def parts(self, *splits: str) -> list[Path]:
        return [self.folder / split for split in splits if (self.folder / split).is_dir()]


@dataclasses.dataclass
class Source:
    """Rows as their owner keeps them."""

    name: str
    split: str
    has_ids: bool
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class History:
    """Some weeks of two datasets and of the models trained on them.

    Args:
        folder: a fresh one.
        seed: decides everything.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance, self.folder = random.Random(seed), folder
        self.pairs = self.chance.random() < 0.3
        splits = self.chance.choices(list(SPLITS), k=2)
        self.sources = [Source(f"news-{n}", split, split == "id" or self.chance.random() < 0.7) for n, split in enumerate(splits)]
        self.puller, self.objects = Puller(folder / "pulls"), MemoryObjectStore()
        self.models = ModelStore(self.objects)
        self.snapshots: list[Snapshot] = []
        self.known: dict[tuple[str, int], Known] = {}
        self.made, self.day = 0, datetime.fromisoformat(AS_OF)
        self.model = write_model(folder / "model")

    def live(self, days: int) -> None:
        """Let rows change, and models be trained and compared, day after day."""
        for source in self.sources:
            source.rows = [self.new_row(source) for _ in range(24)]
        for _ in range(days):
            source = self.chance.choice(self.sources)
            for _ in range(self.chance.randint(1, 4)):
                self.chance.choice(
                    [self.add, self.copy, self.copy, self.relabel, self.move, self.rename, self.rewrite, self.drop]
                )(source)
            self.pull(source)
            self.train("backbone", labelled=self.chance.random() < 0.5)
            self.train("news")
            if self.chance.random() < 0.2:
                self.tidy_up()
            for _ in range(4):
                self.compare()

    # What happens to rows

    def new_row(self, source: Source) -> dict[str, Any]:
        self.made += 1
        return {
            "name": f"n{self.made}",
            "id": f"r{self.made}",
            "text": " ".join(self.chance.choices(WORDS, k=3)),
            "pair": " ".join(self.chance.choices(WORDS, k=1)),
            "title": " ".join(self.chance.choices(WORDS, k=2)),
            "label": self.chance.choice(LABELS),
            "group": f"g{self.chance.randint(1, 30)}",
            "time": (self.day - timedelta(days=self.chance.uniform(0, 15))).isoformat(),
            "part": self.chance.choice(PARTS),
        }

    def add(self, source: Source) -> None:
        source.rows += [self.new_row(source) for _ in range(self.chance.randint(1, 8))]

    def copy(self, source: Source) -> None:
        """The same text in another writing comes in as a row of its own, maybe of the other dataset."""
        for row in self.some(self.chance.choice(self.sources)):
            disguise = self.chance.choice(DISGUISES)
            source.rows.append(self.new_row(source) | {"text": disguise(row["text"]), "pair": disguise(row["pair"])})

    def relabel(self, source: Source) -> None:
        for row in self.some(source):
            row["label"] = self.chance.choice([*LABELS, None])

    def move(self, source: Source) -> None:
        for row in self.some(source):
            row |= {
                "part": self.chance.choice(PARTS),
                "group": f"g{self.chance.randint(1, 30)}",
                "time": self.new_row(source)["time"],
            }

    def rename(self, source: Source) -> None:
        for row in self.some(source):
            row["id"] = self.new_row(source)["id"]

    def rewrite(self, source: Source) -> None:
        for row in self.some(source):
            row["text"] = self.new_row(source)["text"]

    def drop(self, source: Source) -> None:
        gone = self.some(source)
        source.rows = [row for row in source.rows if row not in gone or len(source.rows) < 20]

    def some(self, source: Source) -> list[dict[str, Any]]:
        return self.chance.sample(source.rows, k=min(len(source.rows), self.chance.randint(1, 6)))

    # What happens to datasets and models

    def task(self, source: Source | None = None) -> dict[str, Any]:
        """Return the roles of a dataset, or those that a model takes: maybe another text than the dataset's splits go by."""
        roles = {"text": "text", "text_pair": "pair" if self.pairs else None, "time": "time"}
        if source is None:
            return roles | self.chance.choice([{}, {"text": "title", "text_pair": None}])
        grouped = source.split in ("given", "group", "time")
        return roles | {"id": "id" if source.has_ids else None, "group": "group" if grouped else None}

    def pull(self, source: Source) -> None:
        self.day += timedelta(days=self.chance.choice([1, 1, 3]))
        reset = self.chance.random() < 0.15 and any(snapshot.dataset == source.name for snapshot in self.snapshots)
        if reset:
            source.split = self.chance.choice([split for split in SPLITS if split != "id" or source.has_ids])
        path = write_csv(self.folder / f"{source.name}.csv", [[row[c] for c in COLUMNS] for row in source.rows], COLUMNS)
        options = {"name": source.name, "task": self.task(source), "split": SPLITS[source.split], "unlabelled": "keep"}
        manifest = self.puller.pull(
            make_spec(path, **options, keep=["name", "id", "part", "title"]), as_of=self.day.isoformat(), reset=reset
        )
        folder = self.folder / f"snapshot-{len(self.snapshots)}"
        self.puller.store.fetch(source.name, manifest["digest"], destination=folder)
        self.snapshots.append(Snapshot(source.name, folder))

    def tidy_up(self) -> None:
        """Prune old versions, which may be what others were trained from, and collect garbage."""
        for model in self.models.names():
            prune(self.objects, model, keep=2, actor="ada", delete=True)
        collect(self.objects, older_than=timedelta(0), delete=True, now=datetime.now(UTC) + timedelta(days=1))

    def live_versions(self, *models: str) -> list[tuple[str, int]]:
        return [(model, manifest["version"]) for model in models for manifest in self.models.versions(model)]

    def train(self, model: str, *, labelled: bool = True) -> None:
        """Publish what fine-tuning or pretraining would: a version with its ledger, from a base, maybe with older rows again."""
        snapshot = self.chance.choice(self.snapshots[-3:])
        roles = [["train"], ["validation"]] if labelled else [["train", "unlabelled-train"], []]
        folders = [snapshot.parts(*splits) for splits in roles]
        if self.chance.random() < 0.3:
            folders.append(self.chance.choice(self.snapshots).parts("train"))
        folders = [found for found in folders if found]
        if not folders:
            return
        task = TaskSpec.from_dict(self.task())
        path = self.folder / "ledger.parquet"
        write_ledger(path, [read_rows(found, task, labelled=labelled) for found in folders])
        number = hashlib.sha256(repr(len(self.known)).encode()).hexdigest()
        base = self.chance.choice([None, *self.live_versions("backbone", "news")])
        uri = "package://base" if base is None else f"model://{base[0]}@{base[1]}"
        ref, _ = self.models.publish(
            name=model,
            folder=self.model,
            publish_id=number,
            fingerprint=number,
            facts={"base": {"uri": uri}},
            ledger=path,
            parents=[base[1]] if base is not None and base[0] == model else [],
        )
        seen = self.seen([folder for found in folders for folder in found], task)
        self.known[model, ref.version] = seen | (self.known[base] if base else Known())

    def compare(self) -> None:
        """Judge two models as the operator and the stage do; what is scored is what neither knows."""
        versions = [version for _, version in self.live_versions("news")]
        snapshot = self.chance.choice(self.snapshots)
        if not versions or not snapshot.parts("test"):
            return
        pair = dict(zip(("candidate", "champion"), self.chance.sample(versions, k=min(2, len(versions))), strict=False))
        inputs = {"test": snapshot.parts("test")} | {role: [self.model] for role in pair}
        for role, version in pair.items():
            ledgers = self.folder / f"ledgers-{version}-{len(self.known)}"
            self.models.fetch_ledger("news", version, ledgers)
            inputs[f"{role}_ledger"] = [ledgers]
        known = Known()
        for version in pair.values():
            known |= self.known["news", version]
        task = TaskSpec.from_dict(self.task())
        every = self.rows_of(snapshot.parts("test"), task)
        fair = sorted(row.name for row in every if row.identity not in known.ids and not row.texts & known.texts)
        assert self.scored(inputs, task) == fair
        self.dropped += len(every) - len(fair)
        self.judged += len(fair)

    dropped = judged = 0

    def scored(self, inputs: dict[str, Sequence[Path]], task: TaskSpec) -> list[str]:
        """Return the names of the rows that the stage hands to the models."""
        handed: list[Rows] = []

        def see(classifier: Any, rows: Rows, *rest: Any, **options: Any) -> Any:
            handed.append(rows)
            return SimpleNamespace(seen=None)

        spec = EvaluateSpec(task=task, slices=("name",))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluate, "load_classifier", lambda folder, device: SimpleNamespace(task=None, choice=None))
            patch.setattr(evaluate, "see", see)
            patch.setattr(evaluate, "score_model", lambda *_: None)
            try:
                evaluate._judge(spec, inputs, Run(numerics={"device": "cpu"}))
            except BadInput as error:
                assert error.code == "NO_TEST_ROWS"
                return []
        assert len(handed) == sum(role in inputs for role in ("candidate", "champion"))
        assert all(rows == handed[0] for rows in handed)
        return sorted(handed[0].slices["name"])

    def seen(self, folders: Sequence[Path], task: TaskSpec) -> Known:
        rows = self.rows_of(folders, task)
        return Known(frozenset(row.identity for row in rows), frozenset(text for row in rows for text in row.texts))

    def rows_of(self, folders: Sequence[Path], task: TaskSpec) -> list[Row]:
        """Return the rows that lie in folders of snapshots, as a model with these roles sees them."""
        of_folder = {snapshot.folder: snapshot.dataset for snapshot in self.snapshots}
        with_ids = {source.name for source in self.sources if source.has_ids}
        found = []
        for folder in folders:
            dataset = of_folder[folder.parent]
            for row in (row for path in folder.iterdir() for row in pq.read_table(path, partitioning=None).to_pylist()):
                inputs = [["text", "pair"] if self.pairs else ["text"], [c for c in (task.text, task.text_pair) if c]]
                texts = frozenset(tuple(plain(row[column]) for column in columns) for columns in inputs)
                identity = row["id"] if dataset in with_ids else repr([row[column] for column in inputs[0]])
                found.append(Row(row["name"], (dataset, identity), texts))
        return found


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


@pytest.mark.promise(28)
@pytest.mark.parametrize("histories", sizes(15, 1000))
def test_no_model_is_judged_by_a_row_that_it_or_its_parents_were_trained_or_selected_on(tmp_path, histories, held):
    dropped = judged = 0
    for seed in range(histories):
        history = History(tmp_path / str(seed), seed)
        history.live(days=5)
        dropped, judged = dropped + history.dropped, judged + history.judged
        shutil.rmtree(history.folder)

    assert dropped > 10 * histories
    assert judged > 10 * histories
    held(f"{histories:,} histories: {dropped:,} test rows left out, 0 of {judged:,} that judged were known")
