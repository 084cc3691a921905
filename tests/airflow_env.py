"""A private Airflow for the tests: imported before Airflow is, since Airflow reads its environment once."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
HOME = Path(tempfile.mkdtemp(prefix="airflow-tests-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

os.environ.update(
    {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__API_AUTH__JWT_SECRET": "only for tests, and long enough for a signature",
        "AIRFLOW__TRANSFER_LEARNING__CACHE_FOLDER": str(HOME / "cache"),
        "OMP_NUM_THREADS": "1",
    }
)
for name in [name for name in os.environ if name.startswith("AIRFLOW_CONN_") or name.startswith("AWS_")]:
    del os.environ[name]
