"""Pretrain a model on the text of a dataset, or on its labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_transfer_learning.operators.base import with_task
from airflow_transfer_learning.operators.training import TrainingOperator
from transfer_learning.bases import BaseModel
from transfer_learning.errors import BadInput
from transfer_learning.hashes import texts_digest
from transfer_learning.identity import fingerprint
from transfer_learning.refs import DatasetRef
from transfer_learning.specs import PretrainSpec, TaskSpec, check_name
from transfer_learning.store import Store

if TYPE_CHECKING:
    from airflow.sdk import Context

READ = {
    "train": ("train",),
    "unlabelled": ("unlabelled-train",),
    "validation": ("validation", "unlabelled-validation"),
}
"""Folders of a snapshot whose text a pretraining reads, by role; a test row stays one also while it has no label."""

LABELLED = {"train": ("train",), "validation": ("validation",)}
"""The same for ``supervised``."""


class PretrainOperator(TrainingOperator):
    """Pretrain a model in a child process and publish it as a new version, from which a fine-tuning can start.

    It reads the text of the training rows, labelled or not, and that of the validation rows for the perplexity alone. Where the
    same settings, text and base were published before, that version is returned and nothing runs: also where rows got labels.
    The objective ``supervised`` reads the labelled rows, labels included, and goes by them.

    Args:
        spec: a ``PretrainSpec`` or a dict of its fields.
        dataset: output of the run's ``PullDatasetOperator``.
        model: name of the pretrained model in the store; not that of the plan, which is the target's classifier.
        plan: output of the run's ``PlanOperator``.
        base: URI of the base model; not with a plan, which pins it, and not where ``spec.architecture`` starts from scratch with
            a tokenizer of its own.
        force: train and publish even what was published before.
        overrides: settings that change at run time.
        kwargs: as for every operator here.

    Returns:
        A ``ModelRef`` as a dict.
    """

    plan_key = stage = "pretrain"
    spec_class = PretrainSpec

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the version, new or found."""
        with self.clear_errors(), self.working() as work:
            store = self.open_store()
            dataset = DatasetRef.from_dict(self.dataset)
            manifest = store.datasets.manifest(dataset.name, dataset.digest)
            spec: PretrainSpec = with_task(self.merged_spec(), manifest)
            model, base = self.model_name(), self.fetch_start(store, context, spec, work / "base")
            inputs = self.fetch_rows(store, dataset, spec, work / "data")
            supervised = spec.objective == "supervised"
            rows = labelled_digests(manifest) if supervised else text_digests(inputs, spec.task or TaskSpec())
            key = fingerprint("pretrain", spec, rows | ({"base": base.digest} if base else {}))
            if (found := self.find(store, model, key)) is None:
                inputs |= {"base": [base.folder]} if base else {}
                found = self.train(store, context, key, spec, inputs, work / "job", self.facts(context, model, base, dataset))
            return dataclasses.replace(found, as_of=self.as_of(context)).to_dict()

    def model_name(self) -> str:
        """Return the pretrained model's own name.

        Raises:
            BadInput: there is none, or it is the plan's: versions of the target's classifier would get mixed with others.
        """
        name = check_name(self.one_of("model", None), "model name")
        if self.plan is not None and name == self.planned().model:
            what = f"model is {name!r}, which is the plan's: what is pretrained is a model of its own"
            raise BadInput("BAD_SETTING", what, f"name it, such as {name + '-pretrained'!r}")
        return name

    def fetch_start(self, store: Store, context: Context, spec: PretrainSpec, destination: Path) -> BaseModel | None:
        """Bring the base model onto this machine; None where training starts from scratch with a tokenizer of its own.

        Raises:
            BadInput: such a training, and a base is named.
        """
        if spec.architecture is None or spec.tokenizer == "base":
            return self.fetch_base(store, context, destination)
        if self.base is not None:
            what = f"architecture is {spec.architecture!r}, which starts from scratch, and base is {self.base!r}"
            raise BadInput("BAD_SETTING", what, "leave it out, or set tokenizer to 'base'")
        return None

    def fetch_rows(self, store: Store, dataset: DatasetRef, spec: PretrainSpec, destination: Path) -> dict[str, list[Path]]:
        """Bring what the objective reads onto this machine; no test row is handed on, whether it has a label or not."""
        read = LABELLED if spec.objective == "supervised" else READ
        splits = [name for names in read.values() for name in names]
        store.datasets.fetch(dataset.name, dataset.digest, destination=destination, splits=splits, cache=self.open_cache())
        found = {role: [destination / name for name in names if (destination / name).is_dir()] for role, names in read.items()}
        return {role: folders for role, folders in found.items() if folders}


def labelled_digests(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return what the result of ``supervised`` depends on beside settings and base: labelled rows, labels included."""
    return {role: manifest["split_digests"].get(role, "") for role in LABELLED}


def text_digests(inputs: Mapping[str, Sequence[Path]], task: TaskSpec) -> dict[str, str]:
    """Return what the result depends on beside settings and base: the text that is read, and no label."""
    files = {role: [path for folder in folders for path in folder.glob("*.parquet")] for role, folders in inputs.items()}
    read = [*files.get("train", ()), *files.get("unlabelled", ())]
    return {"train": texts_digest(read, task.texts()), "validation": texts_digest(files.get("validation", ()), task.texts())}
