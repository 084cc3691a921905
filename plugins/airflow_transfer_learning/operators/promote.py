"""Make a candidate the live model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_transfer_learning.assets import model_asset
from airflow_transfer_learning.operators.base import TransferLearningOperator, run_actor
from transfer_learning.errors import BadInput, Refused
from transfer_learning.refs import ModelRef, VerdictRef
from transfer_learning.store import Store

if TYPE_CHECKING:
    from airflow.sdk import Context

    from transfer_learning.store.moves import Move


class PromoteOperator(TransferLearningOperator):
    """Move the alias to the candidate of a verdict, and emit the model's asset event.

    What the gate did not pass, what was never evaluated, what has older data than the champion, and what was compared with a
    champion that is no longer one, is not promoted.

    Args:
        verdict: output of the run's ``EvaluateOperator``.
        alias: the alias to move.
        override_reason: promotes all the same, with this reason on record.
        on_refused: ``skip`` this task, so that no asset event comes and the run stays green, or ``fail`` it.
        kwargs: as for every operator here; ``outlets=[model_asset(name)]`` for the event.

    Returns:
        The promoted version's ``ModelRef`` as a dict.
    """

    template_fields: Sequence[str] = ("verdict", "alias", "override_reason", *TransferLearningOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"verdict": "json"}

    def __init__(
        self,
        *,
        verdict: dict[str, Any],
        alias: str = "champion",
        override_reason: str | None = None,
        on_refused: Literal["skip", "fail"] = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if on_refused not in ("skip", "fail"):
            raise BadInput("BAD_SETTING", f"on_refused must be 'skip' or 'fail', found {on_refused!r}")
        self.verdict = verdict
        self.alias = alias
        self.override_reason = override_reason
        self.on_refused = on_refused

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the version that the alias points at now."""
        with self.clear_errors():
            verdict = VerdictRef.from_dict(self.verdict)
            candidate = ModelRef.from_dict(verdict.model)
            if verdict.decision == "unchanged":
                raise AirflowSkipException(" ".join(verdict.sentences))
            try:
                move = self.move(self.open_store(), verdict, candidate, context)
            except Refused as refusal:
                raise (AirflowSkipException if self.on_refused == "skip" else AirflowFailException)(str(refusal)) from None
            if move.duplicate == "late":
                raise AirflowSkipException(f"{self.alias} has moved on since this task moved it: nothing to do")
            self.log.info(
                "%s of %s is version %d, generation %d", self.alias, candidate.name, candidate.version, move.alias.generation
            )
            context["outlet_events"][model_asset(candidate.name)].extra = event(verdict, candidate, move)
            return candidate.to_dict()

    def move(self, store: Store, verdict: VerdictRef, candidate: ModelRef, context: Context) -> Move:
        """Move the alias, if the rules or an override allow it."""
        reason = " ".join(verdict.sentences)[:1000]
        try:
            refuse_unproved(store, verdict, candidate)
        except Refused as refusal:
            if not self.override_reason:
                raise
            self.log.warning("%s — overridden: %s", refusal, self.override_reason)
            reason = f"override of {refusal.code}: {self.override_reason}; {reason}"
        # Asked here too: a first move reserves the alias before it looks, and nothing is reserved for a version that is none.
        store.models.require(candidate)
        return store.aliases.promote(
            candidate.name,
            candidate.version,
            alias=self.alias,
            promote_id=self.publish_id(context, candidate.name, f"promote {self.alias} {candidate.version}"),
            actor=run_actor(context),
            reason=reason,
            expected_generation=verdict.champion_generation,
            as_of=verdict.as_of,
            override_reason=self.override_reason or None,
        )


def refuse_unproved(store: Store, verdict: VerdictRef, candidate: ModelRef) -> None:
    """Refuse a candidate whose stored evidence does not say that it passed.

    Raises:
        Refused: the verdict is against it, or it was never evaluated.
    """
    if not verdict.passed:
        what = f"version {candidate.version} of {candidate.name} was {verdict.decision}: {' '.join(verdict.sentences)}"
        raise Refused("NOT_PASSED", what, "set override_reason to promote it all the same")
    store.evaluations.require_passed(candidate.name, candidate.version)


def event(verdict: VerdictRef, candidate: ModelRef, move: Move) -> dict[str, Any]:
    """Return what the asset event tells."""
    return {
        "model": candidate.name,
        "version": candidate.version,
        "champion_before": verdict.champion,
        "generation": move.alias.generation,
        "decision": verdict.decision,
        "sentences": verdict.sentences,
        "metrics": verdict.metrics,
        "uri": verdict.uri,
    }
