"""A private Airflow on this machine: API server, scheduler and DAG processor, LocalExecutor, SQLite, loopback only."""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
import time
from pathlib import Path

import httpx

from demo.airflow_api import AirflowApi
from demo.loopback import HOST, free_ports
from demo.processes import Processes

USER = "admin"
START_SECONDS = 180.0
COMPONENTS = {
    "api-server": ("api-server", "--workers", "1"),
    # Without its log server, which would listen on every interface; the API server reads the log files of this machine itself.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
}


class AirflowHome:
    """An Airflow with its own home folder, port and credentials.

    Args:
        folder: becomes AIRFLOW_HOME; everything that Airflow writes stays in it.
        dags: the folder with the DAG files.
        processes: starts and stops Airflow's processes.
        variables: more environment variables, such as ``AIRFLOW_CONN_…`` and ``AIRFLOW__SECTION__OPTION``.
        schedules: whether DAGs run by their schedules too, and not only when they are triggered.
    """

    def __init__(
        self, folder: Path, dags: Path, processes: Processes, variables: dict[str, str], *, schedules: bool = False
    ) -> None:
        self.folder = folder
        self.password = secrets.token_urlsafe(12)
        self.url = f"http://{HOST}:{free_ports(1)[0]}"
        self._processes = processes
        self._environment = self._settings(dags, schedules) | variables

    def start(self) -> AirflowApi:
        """Start everything and return a logged-in client once all parts are healthy.

        Raises:
            RuntimeError: a process ended, or the start took too long.
        """
        (self.folder / "plugins").mkdir(parents=True, exist_ok=True)
        passwords = self.folder / "passwords.json"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps({USER: self.password}))
        self._run("db-migrate", ("db", "migrate"))
        self._processes.finish("db-migrate")
        for name, arguments in COMPONENTS.items():
            self._run(name, arguments)
        return self._wait()

    def _run(self, name: str, arguments: tuple[str, ...]) -> None:
        self._processes.start(name, (sys.executable, "-m", "airflow", *arguments), self._environment)

    def _wait(self) -> AirflowApi:
        api = AirflowApi(self.url)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self._processes.check()
            try:
                health = api.health()
                if all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor")):
                    api.log_in(USER, self.password)
                    return api
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.25)
        raise RuntimeError(
            f"Airflow was not healthy after {START_SECONDS:.0f} s; see the logs in {self._processes.folder / 'logs'}"
        )

    def _settings(self, dags: Path, schedules: bool) -> dict[str, str]:
        """Return the environment of Airflow's processes; nothing of another Airflow or AWS account reaches them."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))}
        core = {
            "DAGS_FOLDER": str(dags),
            "PLUGINS_FOLDER": str(self.folder / "plugins"),  # empty: the installed project brings its plugin
            "LOAD_EXAMPLES": "False",
            "EXECUTOR": "LocalExecutor",
            "PARALLELISM": "4",
            "FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.folder / "passwords.json"),
            # Tasks report here; the default names port 8080.
            "EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
        }
        options = {
            "API__HOST": HOST,
            "API__PORT": self.url.rpartition(":")[2],
            "API__BASE_URL": self.url,
            # Shared by all processes; otherwise each of them would write its own into airflow.cfg at the same time.
            "API__SECRET_KEY": secrets.token_hex(32),
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.folder / 'airflow.db'}",
            "LOGGING__BASE_LOG_FOLDER": str(self.folder / "logs"),
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            # The demo wants none: an unpaused daily DAG would at once run for last midnight, beside the story.
            "SCHEDULER__USE_JOB_SCHEDULE": str(schedules),
            "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "USAGE_DATA_COLLECTION__ENABLED": "False",
        } | {f"CORE__{name}": value for name, value in core.items()}
        process = {"AIRFLOW_HOME": str(self.folder)}
        return inherited | process | {f"AIRFLOW__{name}": value for name, value in options.items()}
