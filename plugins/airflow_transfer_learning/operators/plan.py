"""Check and pin everything before a run starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_transfer_learning.hooks.model_store import ModelStoreHook
from airflow_transfer_learning.operators.base import (
    TransferLearningOperator,
    check_columns,
    checked_at_parse,
    fixed_window,
    run_time,
    without_none,
)
from airflow_transfer_learning.operators.base_model import starting_point
from airflow_transfer_learning.operators.plan_summary import summarise
from airflow_transfer_learning.operators.stored_features import check_settings, check_single_texts
from airflow_transfer_learning.settings import executors_are_local
from transfer_learning.errors import BadInput, nearest
from transfer_learning.refs import PlanRef
from transfer_learning.settings import Settings
from transfer_learning.sources import check_sources
from transfer_learning.specs import EvaluateSpec, FeatureSpec, FineTuneSpec, PretrainSpec, PullSpec, TaskSpec, check_name

if TYPE_CHECKING:
    from airflow.sdk import Context

    from transfer_learning.store import Store

SPECS: dict[str, type[Settings]] = {
    "pull": PullSpec,
    "pretrain": PretrainSpec,
    "features": FeatureSpec,
    "fine_tune": FineTuneSpec,
    "evaluate": EvaluateSpec,
}


class PlanOperator(TransferLearningOperator):
    """Check a run's settings and its store, and pin every movable name, before any GPU is taken.

    Args:
        model: name of the model in the store.
        base: URI of the base model, such as ``hf://org/name@revision`` or ``model://name@champion``. None where the run makes its
            own, by a ``PretrainOperator`` that starts from scratch.
        pull: settings of the run's ``PullDatasetOperator``.
        pretrain: settings of its ``PretrainOperator``.
        features: settings of its ``FeatureExtractOperator``, whose features its ``FineTuneOperator`` takes.
        fine_tune: settings of its ``FineTuneOperator``.
        evaluate: settings of its ``EvaluateOperator``.
        overrides: what the run's form may change, by stage: ``{"fine_tune": {"epochs": "{{ params.epochs }}"}}``. It is merged
            into those settings, checked, and handed on in the plan, so the other operators need not repeat it.
        alias: the alias of the live model.
        look_for_sources: refuse a pull whose sources have no file: in S3, and on this machine where every executor is local.
            False where a task between plan and pull writes them.
        kwargs: as for every operator here.

    Returns:
        A ``PlanRef`` as a dict.
    """

    template_fields: Sequence[str] = (
        "model",
        "base",
        *SPECS,
        "overrides",
        "alias",
        *TransferLearningOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"overrides": "json"}

    def __init__(
        self,
        *,
        model: str,
        base: str | None = None,
        pull: PullSpec | dict[str, Any] | None = None,
        pretrain: PretrainSpec | dict[str, Any] | None = None,
        features: FeatureSpec | dict[str, Any] | None = None,
        fine_tune: FineTuneSpec | dict[str, Any] | None = None,
        evaluate: EvaluateSpec | dict[str, Any] | None = None,
        overrides: dict[str, dict[str, Any]] | None = None,
        alias: str = "champion",
        look_for_sources: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.base = base
        self.pull = None if pull is None else checked_at_parse(pull, PullSpec)
        self.pretrain = None if pretrain is None else checked_at_parse(pretrain, PretrainSpec)
        self.features = None if features is None else checked_at_parse(features, FeatureSpec)
        self.fine_tune = None if fine_tune is None else checked_at_parse(fine_tune, FineTuneSpec)
        self.evaluate = None if evaluate is None else checked_at_parse(evaluate, EvaluateSpec)
        self.overrides = overrides
        self.alias = alias
        self.look_for_sources = look_for_sources

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan, and log what the run will do."""
        with self.clear_errors():
            refuse_unknown_params(context)
            check_name(self.model, "model name")
            overrides = by_stage(self.overrides)
            specs = self.merged_specs(overrides)
            check_together(specs, check_name(self.alias, "alias"))
            store = self.open_store()
            store.check()
            self.check_sources(specs.get("pull"))
            champion = store.aliases.live(self.model, self.alias)
            plan = PlanRef(
                model=self.model,
                base=self.pinned_base(store, specs),
                window=fixed_window(specs["pull"], run_time(context)) if "pull" in specs else None,
                champion=champion.version if champion else None,
                champion_generation=champion.generation if champion else None,
                as_of=run_time(context),
                overrides=overrides,
                store=store.objects.uri,
            )
            plan = summarise(plan, specs, store, base=self.base)
            self.log.info("%s", plan.summary)
            return plan.to_dict()

    def pinned_base(self, store: Store, specs: Mapping[str, Any]) -> str | None:
        """Return where the run's training is to start, or None where it names no base model."""
        if self.base is None:
            return None
        return starting_point(self.open_bases(store), self.base, self.model, init_from(specs), self.alias)

    def check_sources(self, spec: PullSpec | None) -> None:
        """Look for one file of each source, before a task starts that needs them."""
        if spec is None or not self.look_for_sources:
            return
        renew = ModelStoreHook(self.store_conn_id).source_client
        client = renew() if any(uri.startswith("s3://") for uri in spec.sources()) else None
        check_sources(spec, local=executors_are_local(), s3_client=client, renew=renew)

    def merged_specs(self, overrides: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return every given stage's settings with its overrides applied, all of them checked."""
        merged = {}
        for stage, cls in SPECS.items():
            spec = getattr(self, stage)
            if spec is not None:
                merged[stage] = cls.from_dict(spec).merged(overrides.get(stage, {}))
            elif overrides.get(stage):
                raise BadInput(
                    "BAD_SETTING", f"overrides hold {stage!r}, and the plan was given no settings for it", f"pass {stage}="
                )
        return merged


def init_from(specs: Mapping[str, Any]) -> str:
    """Return where the run's training is to start."""
    return str(specs["fine_tune"].init_from) if "fine_tune" in specs else "base"


def by_stage(overrides: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return the overrides without what the form left empty.

    Raises:
        BadInput: an unknown stage (the nearest is named).
    """
    for stage in overrides or {}:
        if stage not in SPECS:
            raise BadInput(
                "UNKNOWN_SETTING", f"overrides: no stage {stage!r}{nearest(stage, SPECS)}", f"known: {', '.join(SPECS)}"
            )
    return without_none(overrides or {})


def refuse_unknown_params(context: Context) -> None:
    """Refuse what the run was triggered with and its form does not have: Airflow lets a typo pass.

    Raises:
        BadInput: an unknown param (the nearest is named).
    """
    known = list(context["dag"].params)
    for name in context["dag_run"].conf or {}:
        if known and name not in known:
            raise BadInput("UNKNOWN_PARAM", f"this DAG has no param {name!r}{nearest(name, known)}", f"known: {', '.join(known)}")


def check_together(specs: Mapping[str, Any], alias: str) -> None:
    """Check what no spec can see by itself.

    Raises:
        BadInput: a role or slice names a column that the dataset does not keep, the aliases differ, or the training cannot take
            the features.
    """
    if "evaluate" in specs and specs["evaluate"].alias != alias:
        raise BadInput(
            "BAD_SETTING",
            f"EvaluateSpec.alias is {specs['evaluate'].alias!r}, and the plan's alias is {alias!r}",
            "use one alias for both",
        )
    if "features" in specs and "fine_tune" in specs:
        task = specs["fine_tune"].task or (specs["pull"].task if "pull" in specs else TaskSpec())
        check_single_texts(task)
        check_settings(specs["fine_tune"], specs["features"])
    if "pull" not in specs:
        return
    kept = (*specs["pull"].task.columns(), *specs["pull"].keep)
    for stage in ("features", "fine_tune", "evaluate"):
        if stage in specs:
            check_columns(specs[stage], kept)
