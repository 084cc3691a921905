"""Promises about the code itself."""

import ast
import subprocess
import sys
from pathlib import Path

from airflow_env import REPOSITORY

OPERATORS = REPOSITORY / "plugins" / "airflow_transfer_learning" / "operators"


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def test_the_import_contracts_hold():
    lint = Path(sys.executable).with_name("lint-imports")

    done = subprocess.run([lint, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_execute_is_25_lines_at_most():
    lengths = {
        path.name: node.end_lineno - node.lineno + 1
        for path in OPERATORS.glob("*.py")
        for node in functions(path)
        if node.name == "execute"
    }

    assert len(lengths) == 9
    assert {name: length for name, length in lengths.items() if length > 25} == {}


def test_the_public_names_are_exactly_those_that_work():
    import airflow_transfer_learning.operators as operators

    assert sorted(operators.__all__) == [
        "CompareOperator",
        "EvaluateOperator",
        "FeatureExtractOperator",
        "FineTuneOperator",
        "PlanOperator",
        "PretrainOperator",
        "PromoteOperator",
        "PullDatasetOperator",
        "RankBasesOperator",
        "training_task_args",
    ]
    public = {name for name in vars(operators) if not name.startswith("_") and not hasattr(vars(operators)[name], "__path__")}
    assert {name for name in public if not isinstance(vars(operators)[name], type(ast))} == set(operators.__all__)


def test_dags_import_no_helpers_from_other_dags():
    dags = list((REPOSITORY / "dags").glob("*.py"))
    stems = {path.stem for path in dags}

    imported = {
        (path.name, name.split(".")[0])
        for path in dags
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }

    assert dags
    assert {entry for entry in imported if entry[1] in stems | {"dags"}} == set()


def test_the_plugins_folder_keeps_airflow_from_executing_the_package():
    assert (REPOSITORY / "plugins" / ".airflowignore").read_text().split() == ["airflow_transfer_learning/"]
