"""The wheel that users install."""

import subprocess
import sys
import zipfile

import pytest

from airflow_env import REPOSITORY


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files in a freshly built wheel."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def test_it_holds_both_packages(names):
    packages = {"airflow_transfer_learning": REPOSITORY / "plugins", "transfer_learning": REPOSITORY / "include"}
    wanted = {
        path.relative_to(folder).as_posix() for package, folder in packages.items() for path in (folder / package).rglob("*.py")
    }

    assert len(wanted) > 30
    assert wanted - names == set()


def test_it_holds_the_recipes(names):
    recipes = {f"airflow_transfer_learning/recipes/{path.name}" for path in (REPOSITORY / "dags").glob("*.py")}

    assert len(recipes) >= 2
    assert recipes - names == set()


def test_it_holds_neither_tests_nor_the_demo_nor_caches(names):
    tops = {name.split("/")[0] for name in names}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"airflow_transfer_learning", "transfer_learning"}
    assert not any("__pycache__" in name for name in names)
