"""What parsing the DAGs loads, and what Airflow then shows."""

import json
import subprocess
import sys

from airflow_env import REPOSITORY

PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
heavy = {"torch", "transformers", "datasets", "timm", "sklearn", "scipy", "matplotlib", "sentence_transformers", "pandas"}
ours = ("transfer_learning.stages", "transfer_learning.blocks")
loaded = sorted(name for name in sys.modules if name.split(".")[0] in heavy or name.startswith(ours))
docs = {dag_id: dag.doc_md for dag_id, dag in bag.dags.items()}
print(json.dumps({"errors": bag.import_errors, "dags": docs, "loaded": loaded}))
"""

PLUGINS = """
import json
from airflow import plugins_manager
from airflow.providers_manager import ProvidersManager
plugins, errors = plugins_manager._get_plugins()
provider = ProvidersManager().providers["airflow-provider-transfer-learning"].data
print(json.dumps({"plugins": [p.name for p in plugins], "errors": errors, "provider": provider["name"]}))
"""


def run(code: str, *arguments: str) -> dict:
    """Return the JSON in the last line that the code prints in a fresh process."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_parsing_every_dag_leaves_torch_and_its_friends_unloaded():
    parsed = run(PARSE, str(REPOSITORY / "dags"))

    assert parsed["errors"] == {}
    assert parsed["loaded"] == []


def test_every_dag_file_is_one_documented_dag_named_like_it():
    parsed = run(PARSE, str(REPOSITORY / "dags"))

    assert sorted(parsed["dags"]) == sorted(path.stem for path in (REPOSITORY / "dags").glob("*.py"))
    assert all("Purpose: " in doc and "Expected: " in doc for doc in parsed["dags"].values())


def test_the_plugin_is_listed_once_without_errors():
    shown = run(PLUGINS)

    assert shown["plugins"].count("transfer_learning") == 1
    assert shown["errors"] == {}
    assert shown["provider"] == "Transfer learning"
