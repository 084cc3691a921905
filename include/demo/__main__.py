"""``make demo``: retrain a classifier twice, through Airflow and an S3 server on this machine; ``make airflow``: no runs.

``make compare`` runs the recipe that compares strategies in the place of the two days.

1. Take the private folder, and kill what a killed demo left in it.
2. Start the S3 server, then Airflow with connections to it.
3. Day 1: upload the training file, trigger the DAG, wait. Day 2: the same with more labels.
4. Read the figures back, print them, write summary.json.
5. Stop everything, whatever happened.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from demo import report, story
from demo.airflow_api import AirflowApi
from demo.airflow_home import USER, AirflowHome
from demo.corpus import Corpus, write_corpus
from demo.processes import Processes, end_on_signals, stop_leftovers, take
from demo.seaweedfs import REGION, SeaweedFS
from transfer_learning.store import Store

REPOSITORY = Path(__file__).resolve().parents[2]
BUCKET = "transfer-learning"
ROOT = f"s3://{BUCKET}/store"
MODEL = "bbc-headlines"
"""The model of the shipped recipes."""
SETTINGS: dict[str, dict[str, Any]] = {
    "headlines": {},
    # 1,600 articles of 256 tokens take minutes an epoch on two cores, so only the head is trained.
    "articles": {"strategy": "linear_probe", "max_length": 256},
}
"""Params of the DAG that differ from its own defaults, beside the sources and columns."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """Everything that is up while the story is told."""

    folder: Path
    text: str
    corpus: Corpus
    s3: SeaweedFS
    home: AirflowHome
    api: AirflowApi
    processes: Processes

    @property
    def model(self) -> str:
        """Name of the model."""
        return f"bbc-{self.text}"

    @property
    def prefix(self) -> str:
        """Where the data lie in the bucket."""
        return f"bbc/{self.text}"

    def conf(self) -> dict[str, Any]:
        """Return the params of a run."""
        return {
            "train_source": f"s3://{BUCKET}/{self.prefix}/train/*.csv",
            "test_source": f"s3://{BUCKET}/{self.prefix}/test/golden.csv",
            "text_column": self.corpus.text_column,
            **SETTINGS[self.text],
        }

    def upload(self, day: int) -> None:
        """Put the files of day 1 or 2 into the bucket."""
        story.upload(self.s3.client(), BUCKET, self.prefix, self.corpus, day)


def main() -> int:
    """Run the demo and return its exit code."""
    arguments = parse()
    end_on_signals()
    folder: Path = arguments.folder or REPOSITORY / (".airflow" if arguments.serve else ".demo")
    lock = take(folder)  # held until the process ends
    if left := stop_leftovers(folder):
        print(f"Stopped {left} processes that an earlier demo had left running.")
    empty(folder)
    processes = Processes(folder)
    try:
        return perform(folder, processes, arguments)
    except (story.RunFailed, RuntimeError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except SystemExit:
        print("\nStopping ...")
        raise
    finally:
        processes.stop()
        os.close(lock)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="Retrain a text classifier twice on BBC News.")
    parser.add_argument("--text", choices=sorted(SETTINGS), default="headlines", help="what a row's text is")
    parser.add_argument("--keep", action="store_true", help="leave Airflow and the S3 server up after the story, until Ctrl-C")
    parser.add_argument("--serve", action="store_true", help="upload the data and serve Airflow until Ctrl-C, without a run")
    parser.add_argument("--compare", type=json.loads, metavar="CONF", help="run compare_strategies with these params instead")
    parser.add_argument("--folder", type=lambda text: Path(text).resolve(), help="private folder instead of .demo or .airflow")
    arguments = parser.parse_args()
    if arguments.compare is not None and arguments.text != "headlines":
        parser.error("--compare takes headlines")
    return arguments


def empty(folder: Path) -> None:
    """Remove what an earlier demo wrote; the folder itself stays, since it is locked."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def perform(folder: Path, processes: Processes, arguments: argparse.Namespace) -> int:
    """Set the stage, tell the story if one is wanted, and wait if asked."""
    started = time.monotonic()
    print("Starting an S3 server and Airflow on this machine: about 20 seconds ...", flush=True)
    corpus = write_corpus(folder / "corpus", arguments.text)
    with SeaweedFS(folder / "s3", buckets=(BUCKET,)) as s3:
        processes.note(s3.pid)
        dags = recipes(folder / "dags", f"bbc-{arguments.text}")
        home = AirflowHome(folder / "airflow", dags, processes, connections(s3))
        stage = Stage(folder, arguments.text, corpus, s3, home, home.start(), processes)
        stage.upload(1)
        stage.api.create_pool("gpu", slots=1)
        story.wait_for_dag(stage.api, processes.check)
        print(f"Airflow is up after {time.monotonic() - started:.0f} s: {home.url}", flush=True)
        if arguments.compare is not None:
            compare(stage, arguments.compare)
        elif not arguments.serve:
            tell(stage)
        if arguments.keep or arguments.serve:
            keep_up(stage)
    return 0


def recipes(folder: Path, model: str) -> Path:
    """Return the folder of the shipped recipes, or ``folder`` with copies for another model: names are constants of a DAG."""
    if model == MODEL:
        return REPOSITORY / "dags"
    folder.mkdir()
    for path in (REPOSITORY / "dags").glob("*.py"):
        (folder / path.name).write_text(path.read_text(encoding="utf-8").replace(f'"{MODEL}"', f'"{model}"'), encoding="utf-8")
    return folder


def connections(s3: SeaweedFS) -> dict[str, str]:
    """Return the environment variables that tell Airflow where the S3 server and the store are."""
    aws = {
        "conn_type": "aws",
        "login": s3.access_key,
        "password": s3.secret_key,
        "extra": {
            "endpoint_url": s3.endpoint,
            "region_name": REGION,
            "config_kwargs": {"s3": {"addressing_style": "path"}},
        },
    }
    store = {"conn_type": "transfer_learning", "extra": {"root": ROOT, "aws_conn_id": "aws_default"}}
    return {
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws),
        "AIRFLOW_CONN_TRANSFER_LEARNING_DEFAULT": json.dumps(store),
        "AIRFLOW__TRANSFER_LEARNING__POOL": "gpu",
    }


def tell(stage: Stage) -> None:
    """Run both days and report.

    Raises:
        RunFailed: a run of the DAG failed.
    """
    corpus, runs = stage.corpus, []
    store = Store.open(ROOT, s3_client=stage.s3.client())
    stage.api.unpause(story.DAG)
    for day, labelled in enumerate(corpus.labelled, start=1):
        print(f"Day {day}: {labelled} labelled {stage.text} in s3://{BUCKET}/{stage.prefix}/train/", flush=True)
        stage.upload(day)
        run_id = story.run_to_end(stage.api, stage.conf(), f"day {day}", stage.home.folder / "logs", stage.processes.check)
        runs.append(report.read_run(stage.api, store, stage.model, run_id))
    champion = store.aliases.read(stage.model)
    body = report.summary(ROOT, stage.model, champion.version if champion else None, runs)
    report.write_summary(stage.folder / "summary.json", body)
    print(f"\n{report.table(runs)}\n\n{report.in_words(runs, body['champion'])}")
    print(f"Figures: {stage.folder / 'summary.json'}", flush=True)


def compare(stage: Stage, conf: dict[str, Any]) -> None:
    """Run the recipe that compares strategies, and fetch its table and picture.

    Raises:
        RunFailed: the run failed.
    """
    story.wait_for_dag(stage.api, stage.processes.check, story.COMPARISON)
    stage.api.unpause(story.COMPARISON)
    logs, check = stage.home.folder / "logs", stage.processes.check
    story.run_to_end(stage.api, conf, "comparison", logs, check, dag=story.COMPARISON)
    tables, pictures = report.fetch_comparisons(Store.open(ROOT, s3_client=stage.s3.client()), stage.folder / "comparison")
    print("\n".join(["", tables, *(f"Picture: {path}" for path in pictures)]), flush=True)


def keep_up(stage: Stage) -> None:
    """Say how to log in, and wait for Ctrl-C."""
    print(f"\nAirflow:    {stage.home.url}   user {USER}   password {stage.home.password}")
    print(f"S3 server:  {stage.s3.endpoint}   access key {stage.s3.access_key}   secret key {stage.s3.secret_key}")
    print(f"Store:      {ROOT}\nPress Ctrl-C to stop both.", flush=True)
    try:
        while True:
            stage.processes.check()
            time.sleep(1)
    except SystemExit:  # Ctrl-C is how this ends
        print("\nStopping ...")


if __name__ == "__main__":
    sys.exit(main())
