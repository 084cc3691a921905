"""Put several candidates side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_transfer_learning.operators.base import SpecOperator
from transfer_learning.errors import BadInput
from transfer_learning.identity import fingerprint
from transfer_learning.refs import ComparisonRef, ModelRef, VerdictRef
from transfer_learning.specs import CompareSpec
from transfer_learning.store import Store

if TYPE_CHECKING:
    from airflow.sdk import Context


class CompareOperator(SpecOperator):
    """Draw accuracy against labelled rows for several evaluated versions of one model, and store table and picture.

    Which method a version stands for, and how many rows it learned from, its manifest tells; accuracies and those of TF-IDF and
    of the majority class are the stored verdicts'. Versions that differ in their seed alone are draws of the same method.

    Args:
        spec: a ``CompareSpec`` or a dict of its fields.
        verdicts: outputs of ``EvaluateOperator``s, such as that of a mapped one.
        plan: output of the run's ``PlanOperator``.
        overrides: settings that change at run time.
        kwargs: as for every operator here.

    Returns:
        A ``ComparisonRef`` as a dict.
    """

    template_fields: Sequence[str] = ("verdicts", *SpecOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = SpecOperator.template_fields_renderers | {"verdicts": "json"}
    plan_key = "compare"
    spec_class = CompareSpec

    def __init__(self, *, spec: CompareSpec | dict[str, Any], verdicts: Sequence[dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(spec=spec, **kwargs)
        self.verdicts = verdicts

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the comparison, new or found."""
        with self.clear_errors(), self.working() as work:
            store, spec = self.open_store(), self.merged_spec()
            evaluated = read_evaluated(store, [VerdictRef.from_dict(verdict) for verdict in self.verdicts or ()])
            model = evaluated[0]["facts"]["model"]
            digest = fingerprint("compare", spec, {str(one["version"]): one["verdict"]["evaluation_id"] for one in evaluated})
            found = store.comparisons.read(model, digest)
            if found is None:
                inputs = {"verdicts": [write_evaluated(evaluated, work / "verdicts")]}
                job = self.run_job("compare", spec, inputs, context, work=work / "job", facts={"model": model})
                self.check_stop()
                self.log.info("%s", (job.out / "table.md").read_text(encoding="utf-8"))
                found = store.comparisons.write(model, digest, job.out)
            self.log.info("Table and picture are below %s", found["uri"])
            return ComparisonRef(
                model=model, digest=digest, uri=found["uri"], sentences=found["sentences"], rows=found["rows"]
            ).to_dict()


def read_evaluated(store: Store, verdicts: Sequence[VerdictRef]) -> list[dict[str, Any]]:
    """Return each candidate once, with the facts of its manifest and its stored verdict.

    Raises:
        BadInput: none, candidates of several models, or a candidate without a stored verdict.
    """
    candidates = {(ref.version, ref.name): verdict.uri for verdict in verdicts if (ref := ModelRef.from_dict(verdict.model))}
    if not candidates:
        raise BadInput("NO_VERDICTS", "there is no verdict to compare", "pass the output of the evaluations")
    if len(names := sorted({name for _, name in candidates})) > 1:
        raise BadInput("WRONG_REF", f"the verdicts are on models {' and '.join(names)}", "compare versions of one model")
    return [
        {
            "version": version,
            "facts": store.models.manifest(name, version)["facts"],
            "verdict": stored_verdict(store, name, version, uri),
        }
        for (version, name), uri in candidates.items()
    ]


def stored_verdict(store: Store, name: str, version: int, uri: str) -> Mapping[str, Any]:
    """Return the verdict that lies under a URI.

    Raises:
        BadInput: there is none, as of the live model, which is not compared with itself.
    """
    for verdict in store.evaluations.read(name, version):
        if verdict["uri"] == uri:
            return verdict
    what = f"version {version} of {name} has no stored verdict at {uri}"
    raise BadInput("UNEVALUATED", what, "compare candidates of a model that has no live version")


def write_evaluated(evaluated: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write one file for each candidate, as the stage reads them."""
    folder.mkdir()
    for one in evaluated:
        (folder / f"{one['version']:06d}.json").write_text(json.dumps(one), encoding="utf-8")
    return folder
