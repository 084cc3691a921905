"""The table of promises tells what was run and what was not, and a second run goes on where the first one stopped."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import promises

TESTS = Path(__file__).parents[1]
HELPER = "LIMIT = 1\n"
SUITE = """
import pathlib
import resource
import pytest
from promises import sizes
from helper import LIMIT

@pytest.fixture
def full_disk():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)

@pytest.mark.promise(3)
@pytest.mark.parametrize("count", sizes(1, 50))
def test_order(count, held):
    open("ran", "a").write(f"{count} ")
    held(f"{count} resume points")

@pytest.mark.promise(4)
def test_torn(full_disk):
    assert LIMIT == 1

@pytest.mark.promise(4)
def test_late():
    if pathlib.Path("interrupt").exists():
        raise KeyboardInterrupt
"""
INI = """
[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["tests"]
addopts = "--import-mode=importlib -p promises -p no:cacheprovider"
markers = ["promise(number): x", "sample: x", "full: x"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "helper.py").write_text(HELPER)
    (tmp_path / "tests" / "test_suite.py").write_text(SUITE)
    (tmp_path / "pyproject.toml").write_text(INI)
    (tmp_path / "README.md").write_text(f"# Title\n\n{promises.BEGIN}\n(nothing yet)\n{promises.END}\n\nend\n")
    return tmp_path


def run(project: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--promises=.promises", "-m", "not sample", *options],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return f"{done.stdout}{done.stderr}exit code {done.returncode}"


def row(project: Path, number: int) -> str:
    """Return figure held and seconds of a promise in the README."""
    lines = (project / "README.md").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"| {number} |")).split(" | ", 3)[3]


def ran(project: Path) -> list[str]:
    return (project / "ran").read_text().split()


def test_the_make_target_is_understood_also_when_it_goes_on(tmp_path: Path) -> None:
    printed = subprocess.run(
        ["make", "-n", "--no-print-directory", "test-full"], cwd=TESTS.parent, capture_output=True, text=True, check=True
    ).stdout
    line = printed.splitlines()[-1].removeprefix("OMP_NUM_THREADS=1 ")
    program, *arguments = shlex.split(line.replace(".promises", str(tmp_path)))  # a folder that is there

    done = subprocess.run(
        [sys.executable, *arguments, "--markers"], cwd=TESTS.parent, capture_output=True, text=True, check=False
    )

    assert program == ".venv/bin/python"
    assert "@pytest.mark.promise(number)" in done.stdout, done.stderr


def test_the_readme_gets_the_figures_and_nothing_is_hidden(project: Path) -> None:
    run(project)

    assert ran(project) == ["50"]
    assert row(project, 3) == "50 resume points | 0 |"
    assert row(project, 4) == "2 tests passed | 0 |"
    assert row(project, 9) == "not run |  |"
    assert row(project, 24) == "not built yet |  |"
    text = (project / "README.md").read_text()
    assert (text.startswith("# Title\n"), "(nothing yet)" in text, text.endswith("\nend\n")) == (True, False, True)


def test_what_passed_is_not_run_again_until_its_source_changes(project: Path) -> None:
    run(project)

    ended = run(project)
    again = ran(project)
    held = row(project, 3)
    (project / "tests" / "helper.py").write_text(HELPER + "OTHER = 2\n")
    run(project)

    assert ended.endswith("exit code 0")
    assert (again, held) == (["50"], "50 resume points | 0 |")
    assert ran(project) == ["50", "50"]


def test_what_failed_is_named_and_run_again(project: Path) -> None:
    (project / "tests" / "helper.py").write_text("LIMIT = 2\n")
    run(project)
    failed = row(project, 4)

    (project / "tests" / "helper.py").write_text(HELPER)
    run(project)

    assert failed == "**FAILED**: test_torn; 1 test passed | 0 |"
    assert row(project, 4) == "2 tests passed | 0 |"


def test_an_interrupted_run_says_so_and_the_next_one_does_the_rest(project: Path) -> None:
    (project / "interrupt").touch()
    run(project)
    interrupted = row(project, 4)
    (project / "interrupt").unlink()

    run(project)

    assert interrupted == "1 test passed; the rest was not run | 0 |"
    assert row(project, 4) == "2 tests passed | 0 |"
    assert ran(project) == ["50"]


@pytest.mark.parametrize("part", [["-k", "order"], ["--deselect", "tests/test_suite.py::test_torn"], ["tests/test_suite.py"]])
def test_a_part_of_the_tests_leaves_the_readme_alone(project: Path, part: list[str]) -> None:
    before = (project / "README.md").read_text()

    run(project, *part)

    assert (project / "README.md").read_text() == before
