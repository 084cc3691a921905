"""Work folders of running jobs."""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from airflow_transfer_learning.operators.work import work_folder
from transfer_learning.errors import BadInput, Crashed, Stopped


def test_the_folder_is_gone_after_the_block_also_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), work_folder(tmp_path / "work") as folder:
        (folder / "big").write_text("rows")
        raise ZeroDivisionError

    assert list((tmp_path / "work").iterdir()) == []


def test_a_running_task_keeps_its_folder_when_another_starts(tmp_path):
    with work_folder(tmp_path) as mine, work_folder(tmp_path) as other:
        assert mine.is_dir()
        assert other.is_dir()
        assert mine != other


def _hold(parent: str, ready) -> None:
    with work_folder(Path(parent)):
        ready.set()
        signal.pause()


def test_what_a_killed_task_left_goes_when_the_next_one_starts(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    killed = spawn.Process(target=_hold, args=(str(tmp_path), ready))
    killed.start()
    assert ready.wait(30)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    left = list(tmp_path.iterdir())

    with work_folder(tmp_path) as folder:
        now = list(tmp_path.iterdir())

    assert len(left) == 1
    assert now == [folder]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(BadInput, match=r"^BAD_CONFIG .*cannot be written.*set \[transfer_learning\] cache_folder"),
        work_folder(tmp_path / "file"),
    ):
        pass


@pytest.mark.parametrize("error", [FileNotFoundError("no file"), BadInput("NO_FILE", "is missing"), ValueError("arrow")])
def test_a_folder_deleted_under_the_hands_of_a_task_is_one_line_and_a_retry(tmp_path, error):
    line = r"^WORK_GONE \S+/job-\S+ was deleted while the task worked in it; a retry"
    with pytest.raises(Crashed, match=line) as caught, work_folder(tmp_path / "work") as folder:
        shutil.rmtree(folder)
        raise error

    assert caught.value.retryable


def test_a_stop_stays_a_stop_where_the_folder_is_deleted(tmp_path):
    with pytest.raises(Stopped), work_folder(tmp_path / "work") as folder:
        shutil.rmtree(folder)
        raise Stopped("STOPPED")
