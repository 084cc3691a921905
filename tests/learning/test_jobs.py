"""The job runner against a stage that misbehaves in every way of the outcome table."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from promises import sizes
from transfer_learning import child, stages
from transfer_learning.errors import BadInput, Crashed, Diverged, HostOutOfMemory, OutOfMemory, Stopped
from transfer_learning.jobs import StopFlag, run_job
from transfer_learning.run import import_stage
from transfer_learning.specs import PullSpec

MISBEHAVING = Path(__file__).parent / "misbehaving"


@pytest.fixture(autouse=True)
def misbehaving_stage(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(MISBEHAVING))


def run(name, work, **options):
    return run_job("pull_dataset", PullSpec(name=name, source="x.csv"), {}, work=work, **options)


def test_a_finished_job_returns_metrics_files_and_numerics(tmp_path):
    figures = []

    result = run("fine", tmp_path, on_progress=figures.append)

    assert result.metrics == {"rows": 3}
    assert result.numerics == {"dtype": "float32"}
    assert [(f["path"], f["bytes"]) for f in result.files] == [("whole.txt", 4)]
    assert result.peak_memory > 1_000_000
    assert figures[0]["phase"] == "started"


@pytest.mark.parametrize(
    ("name", "error", "line"),
    [
        ("bad", BadInput, r"^EMPTY_FILE news\.csv holds no rows — send some$"),
        ("crash", Crashed, r"^ValueError: the middle of nowhere$"),
        ("abort", Crashed, r"^CRASHED stage pull_dataset ended with SIGABRT; its last lines: .*last words"),
        ("kill", HostOutOfMemory, r"^KILLED stage pull_dataset: SIGKILL from outside"),
        ("diverge", Diverged, r"^DIVERGED loss is NaN at step 7$"),
        (
            "onednn",
            OutOfMemory,
            r"^OUT_OF_MEMORY stage pull_dataset needs more than this machine's memory — take a larger one or",
        ),
        (
            "cublas",
            OutOfMemory,
            r"^OUT_OF_MEMORY stage pull_dataset needs more than is free of the accelerator's memory — free it",
        ),
        ("network", Crashed, r"^PermissionError: a stage runs without network: connection to '192\.0\.2\.1' refused$"),
        ("datagram", Crashed, r"^PermissionError: a stage runs without network: connection to '192\.0\.2\.1' refused$"),
    ],
)
def test_every_end_becomes_its_error_on_one_line(tmp_path, name, error, line):
    with pytest.raises(error, match=line) as caught:
        run(name, tmp_path)

    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def test_a_crash_leaves_the_childs_own_words_in_the_log(tmp_path, caplog):
    with pytest.raises(Crashed):
        run("crash", tmp_path)

    assert any("Traceback" in line for line in caplog.messages)


def test_an_interpreter_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"^BAD_CONFIG the child's interpreter /nowhere/python cannot be started: No such file"):
        run("fine", tmp_path, python="/nowhere/python")


def test_a_stage_that_needs_more_memory_than_its_limit_is_named(tmp_path):
    with pytest.raises(OutOfMemory, match=r"^OUT_OF_MEMORY stage pull_dataset needs more than the limit of 512 MiB"):
        run("memory", tmp_path, limits={"memory_mb": 512})


def test_a_lower_limit_of_the_machine_stays():
    code = """
import resource
from transfer_learning import child
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
child.keep_to_limits({"cpu_seconds": 60})
print(resource.getrlimit(resource.RLIMIT_CPU))
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("(30, 30)\n", "")


def test_a_stage_that_needs_more_processor_time_than_its_limit_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"^TOO_SLOW stage pull_dataset used more than 1 s of processor time"):
        run("cpu", tmp_path, limits={"cpu_seconds": 1})


def test_a_polite_stage_stops_at_the_signal_and_the_job_says_so(tmp_path):
    with pytest.raises(Stopped, match=r"^STOPPED at step 3; a retry resumes it$"):
        run_stopped("polite", tmp_path)


def test_a_stage_that_finishes_after_the_signal_is_no_success(tmp_path):
    with pytest.raises(Stopped, match=r"^STOPPED while stage pull_dataset finished; a retry runs it again$"):
        run_stopped("diligent", tmp_path)


def test_a_stubborn_stage_is_killed_after_the_grace_time(tmp_path):
    started = time.monotonic()

    with pytest.raises(Stopped, match="STOPPED stage pull_dataset; a retry resumes it"):
        run_stopped("stubborn", tmp_path)

    assert time.monotonic() - started < 30


def test_what_a_stubborn_stage_wrote_in_the_grace_time_is_still_seen(tmp_path, caplog):
    stop, warned = StopFlag(), []

    with pytest.raises(Stopped):
        run("stubborn", tmp_path, stop=stop, on_progress=lambda _: stop.set(), watch=lambda: warned.append(bool(caplog.records)))

    assert warned[-1]


def test_a_stop_before_the_start_starts_nothing(tmp_path):
    stop = StopFlag()
    stop.set()

    with pytest.raises(Stopped):
        run("fine", tmp_path, stop=stop)

    assert not (tmp_path / "job.json").exists()


def test_no_credential_of_the_parent_reaches_the_child(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", "canary")
    monkeypatch.setenv("TRANSFER_LEARNING_ROOT", "canary")

    seen = run("environment", tmp_path).metrics

    assert "canary" not in seen.values()
    assert seen["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("name", "own", "found"),
    [
        ("GOMP_SPINCOUNT", None, "6000"),
        ("GOMP_SPINCOUNT", "0", "0"),
        ("MALLOC_MMAP_THRESHOLD_", None, "33554432"),
        ("MALLOC_TRIM_THRESHOLD_", None, "1073741824"),
        ("MALLOC_ARENA_MAX", None, "1"),
        ("MALLOC_TRIM_THRESHOLD_", "131072", "131072"),
    ],
)
def test_threads_wait_and_memory_is_kept_as_we_say_unless_the_parent_says_otherwise(tmp_path, monkeypatch, name, own, found):
    monkeypatch.delenv(name, raising=False)
    if own is not None:
        monkeypatch.setenv(name, own)

    assert run("environment", tmp_path).metrics[name] == found


def test_freed_memory_is_not_kept_where_memory_is_limited(tmp_path, monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)

    assert not [name for name in child.environment({}, limits={"memory_mb": 256}) if name.startswith("MALLOC_")]
    assert "MALLOC_TRIM_THRESHOLD_" in child.environment({}, limits={"cpu_seconds": 9})


def test_what_a_stage_imports_is_not_looked_through_for_garbage(tmp_path, monkeypatch):
    (tmp_path / "heavy.py").write_text("import gc\nwas_on = gc.isenabled()\nkept = [[] for _ in range(5000)]\nheavy = was_on\n")
    monkeypatch.setattr(stages, "__path__", [*stages.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "transfer_learning.stages.heavy", raising=False)
    gc.freeze()
    before = gc.get_freeze_count()
    try:
        was_on = import_stage("heavy")

        assert was_on is False
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + 5000
    finally:
        gc.unfreeze()


def test_the_garbage_collector_is_on_again_where_a_stage_cannot_be_imported():
    with pytest.raises(ModuleNotFoundError):
        import_stage("nowhere")

    assert gc.isenabled()


def test_what_libraries_import_at_their_first_use_is_imported_with_the_stage_and_nothing_of_other_strategies():
    script = """
import sys
from transfer_learning.run import import_stage
import_stage("fine_tune")
import pyarrow.compute
before = set(sys.modules)
pyarrow.compute.equal(pyarrow.array(["a"]), "b")
from transformers import BertModel
print([name for name in set(sys.modules) - before if name.startswith(("pandas", "transformers.generation"))])
print([name for name in sys.modules if name.startswith(("sklearn", "peft"))])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ended.stdout == "[]\n[]\n"


@pytest.mark.promise(18)
def test_a_child_whose_parent_died_before_it_could_guard_itself_ends_at_once():
    script = "from transfer_learning import child; child.die_with_parent(); print('alive')"

    done = subprocess.run([sys.executable, "-c", script], env=os.environ | {child.PARENT: "1"}, capture_output=True)

    assert (done.returncode, done.stdout) == (75, b"")


@pytest.mark.promise(18)
@pytest.mark.parametrize("count", sizes(1, 50))
def test_child_and_grandchild_are_gone_soon_after_a_kill_of_the_parent(tmp_path, count, held):
    longest = 0.0
    for number in range(count):
        work = tmp_path / str(number)
        work.mkdir()
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT_SCRIPT, str(work)], env={**os.environ, "PYTHONPATH": str(MISBEHAVING)}
        )
        family = wait_for_family(work / "progress.jsonl")

        killed = time.monotonic()
        parent.kill()
        parent.wait()

        while any(alive(pid) for pid in family) and time.monotonic() < killed + 50:
            time.sleep(0.01)
        assert [pid for pid in family if alive(pid)] == []
        longest = max(longest, time.monotonic() - killed)
    held(f"{count} of {count} gone, the last after {longest:.1f} s")


def test_a_job_of_another_protocol_is_refused(tmp_path):
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"protocol": 2, "stage": "fine_tune"}))

    done = subprocess.run([sys.executable, "-m", "transfer_learning.run", str(job)], capture_output=True, text=True, check=False)

    assert done.returncode == 65
    assert done.stderr == f"BAD_JOB {job} protocol must be 1 — use the same release on both sides\n"
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "bad_input"


PARENT_SCRIPT = """
import sys
from pathlib import Path
from transfer_learning.jobs import run_job
from transfer_learning.specs import PullSpec
run_job("pull_dataset", PullSpec(name="family", source="x.csv"), {}, work=Path(sys.argv[1]))
"""


def run_stopped(name, work):
    """Run a job from this thread and set its stop flag from another one, as a signal handler would."""
    stop = StopFlag()

    def set_when_started():
        while not (work / "progress.jsonl").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        stop.set()

    thread = threading.Thread(target=set_when_started)
    thread.start()
    try:
        return run(name, work, stop=stop)
    finally:
        thread.join()


def wait_for_family(progress):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = progress.read_text().splitlines() if progress.exists() else []
        family = [json.loads(line) for line in lines if '"family"' in line]
        if family:
            return [family[0]["child"], family[0]["grandchild"]]
        time.sleep(0.05)
    raise AssertionError("the child never started")


def alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_stop_after_the_end_signals_nobody(tmp_path, monkeypatch):
    stop, sent = StopFlag(), []
    run("fine", tmp_path, stop=stop)
    monkeypatch.setattr("transfer_learning.jobs.os.killpg", lambda *signal: sent.append(signal))

    stop.set()

    assert (stop.is_set, sent) == (True, [])
