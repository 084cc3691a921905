"""What the operators share: settings that come late, one clear line for every failure, stopping, and the child's interpreter."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import jinja2
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from jinja2.nativetypes import NativeEnvironment

from airflow_transfer_learning.hooks.model_store import ModelStoreHook
from airflow_transfer_learning.operators.progress import ProgressLog
from airflow_transfer_learning.operators.work import work_folder
from airflow_transfer_learning.settings import Deployment, deployment
from transfer_learning import identity, jobs
from transfer_learning.attempts import Attempt
from transfer_learning.bases import Bases
from transfer_learning.disk import room_for
from transfer_learning.errors import BadInput, Stopped, StoreUnreachable, TransferLearningError, nearest
from transfer_learning.refs import PlanRef
from transfer_learning.settings import Settings
from transfer_learning.specs import PullSpec, duration
from transfer_learning.store import Store
from transfer_learning.store.cache import Cache

if TYPE_CHECKING:
    from airflow.sdk import Context

S = TypeVar("S", bound=Settings)


class TransferLearningOperator(BaseOperator):
    """Base of the operators; they add a spec, refs and ``execute``.

    Args:
        store_conn_id: the store's Airflow connection.
        kwargs: as for every Airflow operator.
    """

    template_fields: Sequence[str] = ("store_conn_id",)
    ui_color = "#e3f1ee"

    def __init__(self, *, store_conn_id: str = ModelStoreHook.default_conn_name, **kwargs: Any) -> None:
        # An expression alone is the value it has, so that numbers from a form stay numbers.
        super().__init__(**{"render_template_as_native_obj": True, **kwargs})
        self.store_conn_id = store_conn_id
        self.stop = jobs.StopFlag()

    def render_template(
        self, content: Any, context: Context, jinja_env: jinja2.Environment | None = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render as Airflow does, but never guess a type: its native rendering reads a column called ``2024`` as a number."""
        if not isinstance(content, str):
            return super().render_template(content, context, jinja_env, seen_oids)
        # The task runner passes the DAG's environment, which makes text of every value, whatever the operator asked for.
        native = jinja_env if isinstance(jinja_env, NativeEnvironment) else self.get_template_env()
        template = native.from_string(content)
        values = list(template.root_render_func(template.new_context(dict(context))))
        if len(values) == 1 and not isinstance(values[0], jinja2.Undefined):
            return values[0]
        return "".join(str(value) for value in values)

    def on_kill(self) -> None:
        """Ask the child to stop, and nothing else: this may interrupt code that holds a lock."""
        self.stop.set()

    @contextlib.contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Turn every end into what Airflow must do: fail at once, or retry; a task that was stopped never succeeds."""
        try:
            with room_for(self.deployment.cache_folder):
                yield
            self.check_stop()
        except TransferLearningError as error:
            raise (AirflowException if error.retryable else AirflowFailException)(str(error)) from None

    def check_stop(self) -> None:
        """Raise ``Stopped`` if the task was asked to stop."""
        if self.stop.is_set:
            raise Stopped(f"STOPPED task {self.task_id} was asked to stop; a retry goes on")

    @property
    def deployment(self) -> Deployment:
        """Airflow's config section."""
        return deployment()

    def open_store(self) -> Store:
        """Open the store of the connection, without any request to it."""
        return ModelStoreHook(self.store_conn_id).get_conn()

    def open_cache(self) -> Cache:
        """Open this machine's cache of downloads."""
        return Cache(self.deployment.cache_folder / "files", self.deployment.cache_bytes)

    def open_bases(self, store: Store) -> Bases:
        """Return what resolves and fetches base models."""
        client = ModelStoreHook(self.store_conn_id).source_client
        return Bases(cache=self.open_cache(), models=store.models, s3_client=client)

    @contextlib.contextmanager
    def working(self) -> Iterator[Path]:
        """Give a work folder below the cache folder, removed at the end."""
        with work_folder(self.deployment.cache_folder / "work") as folder:
            yield folder

    def run_job(
        self,
        stage: str,
        spec: Settings,
        inputs: Mapping[str, Sequence[Path]],
        context: Context,
        *,
        work: Path,
        attempt: Attempt | None = None,
        **options: Any,
    ) -> jobs.JobResult:
        """Run a stage in a child process, with its progress in the log and in the task's state.

        Given an attempt, it goes on from the newest checkpoint, and its own checkpoints go to the store while it runs.
        """
        if attempt is not None:
            options |= {"resume_from": attempt.newest_checkpoint(work), "watch": attempt.watcher(work)}
        progress, python = ProgressLog(self.log, context), self.deployment.python
        result = jobs.run_job(stage, spec, inputs, work=work, on_progress=progress, python=python, stop=self.stop, **options)
        self.log.info("Stage %s took %.1f s and %.0f MB of memory", stage, result.seconds, result.peak_memory / 1e6)
        return result

    def attempt(self, store: Store, context: Context, fingerprint: str) -> Attempt:
        """Return this try's attempt at a job, whose lease keeps every other try of it waiting."""
        ti = context["ti"]
        owner = f"{ti.dag_id} {ti.run_id} {ti.task_id} on {socket.gethostname()}"
        return Attempt(store.objects, fingerprint, owner=owner, stop=self.stop, term=self.deployment.lease_seconds)

    def publish_id(self, context: Context, model: str, fingerprint: str) -> str:
        """Return what makes a publish of this task the same publish when the task runs again."""
        ti = context["ti"]
        return identity.publish_id(
            deployment=self.deployment.deployment,
            model=model,
            dag=ti.dag_id,
            run=ti.run_id,
            task=ti.task_id,
            map_index=-1 if ti.map_index is None else ti.map_index,
            fingerprint=fingerprint,
        )

    def pinned(self, context: Context, name: str, resolve: Callable[[], Any]) -> Any:
        """Return what an earlier try of this task resolved, or resolve and keep it."""
        state = context.get("task_state_store")
        found = state.get(name) if state is not None else None
        if found is None:
            found = resolve()
            if state is not None:
                state.set(name, found)
        return found


class SpecOperator(TransferLearningOperator):
    """Base of the operators that take settings.

    Args:
        spec: the settings, or a dict of them, which may hold templates.
        plan: output of a ``PlanOperator``; without it the operator resolves for itself, once for all its retries.
        overrides: settings that change at run time, such as ``{"epochs": "{{ params.epochs }}"}``; None keeps the spec's value.
        kwargs: as for every operator here.
    """

    template_fields: Sequence[str] = ("spec", "overrides", "plan", *TransferLearningOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"overrides": "json", "plan": "json"}
    plan_key: ClassVar[str]
    """Under which name the plan keeps this operator's overrides."""
    spec_class: ClassVar[type[Settings]]

    def __init__(
        self,
        *,
        spec: Settings | dict[str, Any],
        plan: dict[str, Any] | None = None,
        overrides: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spec = checked_at_parse(spec, self.spec_class)
        self.plan = plan
        self.overrides = overrides

    def merged_spec(self) -> Any:
        """Return the spec with the plan's overrides for this stage, then the operator's own, applied."""
        spec = self.spec_class.from_dict(self.spec)
        if self.plan is not None:
            spec = spec.merged(without_none(self.planned().overrides.get(self.plan_key, {})))
        return spec.merged(without_none(self.overrides or {}))

    def open_store(self) -> Store:
        """Open the store, and make sure that it is the one that the plan checked."""
        store = super().open_store()
        if self.plan is not None and self.planned().store not in ("", store.objects.uri):
            # A connection that cannot be read for a moment looks to Airflow like one that does not exist.
            raise StoreUnreachable(
                f"STORE {self.store_conn_id!r} is {store.objects.uri} now, and was {self.planned().store} in the plan"
            )
        return store

    def planned(self) -> PlanRef:
        """Return the plan; call it only where there is one."""
        return PlanRef.from_dict(self.plan or {})

    def as_of(self, context: Context) -> str:
        """Return the run's own time, ISO 8601: the plan's, else the run's ``run_after``."""
        return self.planned().as_of if self.plan is not None else run_time(context)


def checked_at_parse(spec: Any, cls: type[S]) -> Any:
    """Return the finished spec where no template is in it, so that a typo is an import error of the DAG.

    Raises:
        BadInput: a wrong setting, or a template inside a frozen spec, where it would stay literal text.
    """
    if isinstance(spec, Settings) and has_template(spec.to_dict()):
        raise BadInput(
            "BAD_SETTING", f"a template inside a {cls.__name__} stays literal text", "pass a dict, or put it into overrides"
        )
    return spec if has_template(spec) else cls.from_dict(spec)


def has_template(value: Any) -> bool:
    """Return whether Airflow would still change this value: Jinja text, or another task's output, at any depth."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, Mapping):
        return any(has_template(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(has_template(item) for item in value)
    return hasattr(value, "resolve")


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides without the fields that a form left empty."""
    return {
        name: without_none(value) if isinstance(value, Mapping) else value for name, value in values.items() if value is not None
    }


def run_time(context: Context) -> str:
    """Return the run's ``run_after``, ISO 8601: asset-triggered and manual runs have no data interval."""
    run_after = context["dag_run"].run_after
    return str(run_after.isoformat())


def run_actor(context: Context) -> str:
    """Return who acts: the DAG run, and the user who triggered it where Airflow knows."""
    ti, user = context["ti"], getattr(context["dag_run"], "triggering_user_name", None)
    return f"airflow {ti.dag_id} {ti.run_id}" + (f" triggered by {user}" if user else "")


def fixed_window(spec: PullSpec, as_of: str) -> dict[str, str] | None:
    """Return the bounds of the spec's window before the run's own time, or None for all rows."""
    if spec.window is None:
        return None
    end = datetime.fromisoformat(as_of)
    return {"start": (end - duration(spec.window)).isoformat(), "end": end.isoformat()}


def with_task(spec: Any, manifest: Mapping[str, Any]) -> Any:
    """Return the spec with the dataset's column roles where it names none.

    Raises:
        BadInput: as ``check_columns``.
    """
    check_columns(spec, tuple(manifest["schema"]))
    return spec if spec.task is not None else spec.merged({"task": manifest["task"]})


def check_columns(spec: Any, kept: Sequence[str]) -> None:
    """Check that a stage's roles and slices are columns that the dataset keeps.

    Raises:
        BadInput: one is not; the nearest is named.
    """
    for column in (*(spec.task.columns() if spec.task else ()), *getattr(spec, "slices", ())):
        if column not in kept:
            setting = f"{type(spec).__name__}.{_role(spec, column)}"
            what = f"{setting} names a column that the dataset does not keep{nearest(column, kept)}"
            raise BadInput("MISSING_COLUMN", what, f"add it to PullSpec.keep; kept: {', '.join(kept)}", column=column)


def _role(spec: Any, column: str) -> str:
    """Return which setting of a stage names a column."""
    roles = spec.task.to_dict() if spec.task else {}
    own = [f"task.{role}" for role, named in roles.items() if column in (named if isinstance(named, list) else [named])]
    return (own or ["slices"])[0]


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the plain numbers among a stage's metrics."""
    return {name: value for name, value in metrics.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
