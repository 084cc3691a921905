"""A whole night in Airflow: 5% new rows through the shipped recipe, against a ``Trainer`` script in an ``@task`` on all rows."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.corpora import Corpus, articles
from benchmarks.runners import BASE, PEERS, Bench
from benchmarks.table import Row, means, speed
from demo.__main__ import BUCKET, ROOT, connections
from demo.airflow_api import AirflowApi
from demo.airflow_home import AirflowHome
from demo.processes import Processes
from demo.seaweedfs import SeaweedFS
from transfer_learning.store import Store

RECIPE = Path(__file__).parents[2] / "dags" / "probe_many_rows.py"
OURS, THEIRS = "probe_many_rows", "trainer_script"
NIGHTS = (480, 504, 529, 555)
"""Labelled articles by night: 5% more each; the first is not timed."""

SCRIPT = '''
"""What a skilled user writes: load all rows, fine-tune, judge, upload; bf16, rows of like length together, a tuned rate."""

import csv
import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from airflow.sdk import DAG, task

with DAG({dag!r}, schedule=None):

    @task
    def retrain():
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        s3 = S3Hook().get_conn()
        with TemporaryDirectory() as folder:
            rows = {{"max_length": 256}}
            for split, key in (("train", {train!r}), ("test", {test!r})):
                s3.download_file({bucket!r}, key, f"{{folder}}/{{split}}.csv")
                with open(f"{{folder}}/{{split}}.csv", newline="", encoding="utf-8") as file:
                    rows[split] = [(row["headline"], row["topic"]) for row in csv.DictReader(file)]
            Path(folder, "rows.json").write_text(json.dumps(rows))
            job = {job!r} | {{"rows": f"{{folder}}/rows.json", "out": f"{{folder}}/out", "save": f"{{folder}}/model"}}
            Path(folder, "job.json").write_text(json.dumps(job))
            done = subprocess.run([{python!r}, {peers!r}, f"{{folder}}/job.json"], capture_output=True, text=True, check=True)
            for path in Path(folder, "model").iterdir():
                s3.upload_file(str(path), {bucket!r}, f"script/model/{{path.name}}")
            result = done.stdout.splitlines()[-1].removeprefix("RESULT ")
            s3.put_object(Bucket={bucket!r}, Key="script/result.json", Body=result.encode())

    retrain()
'''


def nightly(bench: Bench) -> list[Row]:
    """Time the second to last nights, ours and the script's one after the other in the same Airflow."""
    times, judged = [], []
    with _airflow(bench) as (api, s3):
        store = Store.open(ROOT, s3_client=s3.client())
        for number, labelled in enumerate(NIGHTS):
            corpus = articles(labelled, 0)
            _upload(s3, corpus, bench.new_folder())
            ours = _run(api, OURS)
            if number:
                theirs = _run(api, THEIRS)
                times.append((ours, theirs))
                result = s3.client().get_object(Bucket=BUCKET, Key="script/result.json")["Body"].read()
                judged.append((_accuracy(store), float(json.loads(result)["accuracy"])))
    return [speed(f"a night with 5% new rows (accuracy {means(judged)}) vs a Trainer script in a task", corpus.name, times, 5)]


@contextmanager
def _airflow(bench: Bench) -> Iterator[tuple[AirflowApi, SeaweedFS]]:
    folder = bench.new_folder()
    (folder / "dags").mkdir()
    recipe = RECIPE.read_text(encoding="utf-8").replace("SHARDS = 2", "SHARDS = 1")  # one worker
    recipe = recipe.replace("FeatureSpec(splits", "FeatureSpec(max_length=256, splits")
    (folder / "dags" / f"{OURS}.py").write_text(recipe, encoding="utf-8")
    job = {
        "task": "trainer",
        "base": str(BASE),
        "best": True,
        "frozen": 0,
        "rate": 2e-4,
        "epochs": 2,
        "batch_size": 16,
        "seed": 0,
    }
    filled = SCRIPT.format(
        dag=THEIRS, bucket=BUCKET, job=job, python=str(bench.peer_python), peers=str(PEERS),
        train="bbc/headlines/train/rows.csv", test="bbc/headlines/test/golden.csv",
    )  # fmt: skip
    (folder / "dags" / f"{THEIRS}.py").write_text(filled, encoding="utf-8")
    processes = Processes(folder)
    try:
        with SeaweedFS(folder / "s3", buckets=(BUCKET,)) as s3:
            api = AirflowHome(folder / "airflow", folder / "dags", processes, connections(s3)).start()
            api.create_pool("gpu", slots=1)
            while not {OURS, THEIRS} <= api.dag_ids():
                processes.check()
                time.sleep(0.5)
            for dag in (OURS, THEIRS):
                api.unpause(dag)
            yield api, s3
    finally:
        processes.stop()


def _upload(s3: SeaweedFS, corpus: Corpus, folder: Path) -> None:
    for name, rows in (("train/rows.csv", corpus.train), ("test/golden.csv", corpus.test)):
        path = folder / Path(name).name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("id", "headline", "topic"))
            writer.writerows((f"{name}-{number}", *row) for number, row in enumerate(rows))
        s3.client().upload_file(str(path), BUCKET, f"bbc/headlines/{name}")


def _run(api: AirflowApi, dag: str) -> float:
    """Run a DAG and return its seconds by Airflow's own record."""
    run_id = api.trigger(dag, {})
    while (run := api.run(dag, run_id))["state"] not in ("success", "failed"):
        time.sleep(0.5)
    if run["state"] == "failed":
        raise RuntimeError(f"{dag} failed: {[(task['task_id'], task['state']) for task in api.tasks(dag, run_id)]}")
    start, end = (datetime.fromisoformat(run[name]) for name in ("start_date", "end_date"))
    return (end - start).total_seconds()


def _accuracy(store: Store) -> float:
    """Return the newest candidate's accuracy on the golden set."""
    (model,) = store.models.names()
    version = store.models.versions(model)[-1]["version"]
    found: dict[str, Any] = store.evaluations.read(model, version)[-1]
    return float(found["metrics"]["candidate"]["accuracy"])
