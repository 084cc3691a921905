from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.seaweedfs import SeaweedFS
from learning.stages.fine_tuning import Job
from learning.store.test_evaluations import write_evaluation
from learning.store.tiny import publish
from transfer_learning.bases import digest_folder
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.store import Store

MODULE = "import sys; from transfer_learning.cli import main; sys.exit(main())"

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.integration)])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store that the usual AWS chain, or the file system, leads to."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    server: SeaweedFS = request.getfixturevalue("seaweedfs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return f"s3://tests/{tmp_path.name}"


@pytest.fixture
def local_root(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def command(*arguments: str, root: str | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``transfer-learning`` in a process of its own."""
    environment = {**os.environ, "LOGNAME": "ada", "TRANSFER_LEARNING_ROOT": root or ""}
    return subprocess.run(
        [sys.executable, "-c", MODULE, *arguments], capture_output=True, text=True, timeout=60, env=environment, **options
    )


def data(*arguments: str, root: str) -> Any:
    """Run a command with ``--json`` and return what it says."""
    done = command(*arguments, "--json", root=root)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that failed for bad input."""
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (65, "", 1), done
    return done.stderr.rstrip("\n")


def fill(root: str, folder: Path) -> Store:
    """Three versions, judged as they came: the first, a better one, and a worse one; version 1 is live."""
    store = Store.open(root)
    for version, decision, accuracy in ((1, "first", 0.81), (2, "passed", 0.87), (3, "refused", 0.7)):
        as_of = f"2026-01-0{version}T00:00:00+00:00"
        facts = {
            "as_of": as_of,
            "dataset": {"name": "bbc", "digest": "d", "rows": 1000 + version, "splits": {"train": 501, "test": 500}},
            "base": {"uri": "package://minilm", "digest": "b"},
        }
        publish(store.objects, folder, version, facts=facts)
        store.evaluations.write(
            "news",
            version,
            f"night-{version}",
            write_evaluation(
                folder / f"evaluation-{version}",
                decision,
                sentences=[f"accuracy {accuracy} against 0.8"],
                metrics={"candidate": {"accuracy": accuracy}, "champion": None},
                champion_generation=None if version == 1 else 1,
                as_of=as_of,
            ),
        )
    store.aliases.promote(
        "news", 1, promote_id="1", actor="dag", reason="first", expected_generation=None, as_of="2026-01-01T00:00:00+00:00"
    )
    return store


def test_versions_are_listed_as_a_table(root: str, tmp_path: Path) -> None:
    store = fill(root, tmp_path)

    done = command("models", "list", root=root)

    day = store.models.manifest("news", 1)["created"][:10]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0] == ["model", "version", "aliases", "created", "dataset", "accuracy", "verdict", "size"]
    assert [line[:4] for line in lines[1:]] == [["news", "1", "champion", day], ["news", "2", "-", day], ["news", "3", "-", day]]
    assert [line[5:] for line in lines[1:]] == [
        ["bbc,", "1,001", "rows", "0.810", "first", "6.3", "kB"],
        ["bbc,", "1,002", "rows", "0.870", "passed", "6.3", "kB"],
        ["bbc,", "1,003", "rows", "0.700", "refused", "6.3", "kB"],
    ]


def test_versions_are_listed_as_json(root: str, tmp_path: Path) -> None:
    store = fill(root, tmp_path)

    rows = data("models", "list", "news", root=root)

    manifest = store.models.manifest("news", 2)
    assert rows[1] == {
        "model": "news",
        "version": 2,
        "aliases": [],
        "created": manifest["created"],
        "dataset": "bbc",
        "rows": 1002,
        "accuracy": 0.87,
        "verdict": "passed",
        "bytes": sum(file["bytes"] for file in manifest["files"]),
        "uri": f"{root}/{manifest['artifact']}",
    }


@pytest.mark.parametrize(
    ("damage", "rows", "line"),
    [
        ("versions/000002.json", ["atlas", "zoo"], "DAMAGED_DOCUMENT"),
        ("aliases/champion.json", ["atlas", "news", "news", "news", "zoo"], "DAMAGED_DOCUMENT"),
        ("evaluations/000001/night-1/verdict.json", ["atlas", "news", "news", "news", "zoo"], "DAMAGED_DOCUMENT"),
        ("-versions/000002.json", ["atlas", "news", "news", "zoo"], "LOST_VERSION"),
        ("-aliases/champion.json", ["atlas", "news", "news", "news", "zoo"], "LOST_ALIAS"),
    ],
)
def test_what_is_not_damaged_is_listed_beside_a_line_for_what_is(
    local_root: str, tmp_path: Path, damage: str, rows: list[str], line: str
) -> None:
    store = fill(local_root, tmp_path)
    for name in ("atlas", "zoo"):
        publish(store.objects, tmp_path, 1, name=name)
    key = f"models/news/{damage.removeprefix('-')}"
    store.objects.delete(key) if damage.startswith("-") else store.objects.put(key, b"")

    done = command("models", "list", root=local_root)
    collected = command("gc", root=local_root)

    assert [row.split()[0] for row in done.stdout.splitlines()[1:]] == rows
    assert (done.returncode, done.stderr.count("\n"), done.stderr.split()[:2]) == (65, 1, [line, f"{local_root}/{key}"])
    assert collected.stdout.startswith("No garbage")
    assert (collected.returncode == 65) == (damage == "versions/000002.json"), collected.stderr


def test_an_empty_store_is_no_error_and_is_left_empty(local_root: str, tmp_path: Path) -> None:
    done = command("models", "list", root=local_root)

    assert (done.returncode, done.stdout, done.stderr) == (0, f"No models below {local_root} yet.\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_version_is_shown_with_verdict_files_and_history(root: str, tmp_path: Path) -> None:
    fill(root, tmp_path)

    shown = command("models", "show", "news", root=root).stdout

    for part in ("news version 1 (champion)", "bbc, 1,001 rows (train 501, test 500)", "package://minilm", "vocab.txt"):
        assert part in shown
    assert "accuracy 0.81 against 0.8" in shown
    assert "promoted version 1 by dag: first" in shown
    assert data("models", "show", "news", "2", root=root)["manifest"]["version"] == 2


def test_what_was_stored_cannot_command_the_terminal(local_root: str, tmp_path: Path) -> None:
    publish(
        Store.open(local_root).objects, tmp_path, 1, facts={"run": "\033[2Jgone", "dataset": {"name": "\033[31mred", "rows": 1}}
    )

    assert "\033" not in command("models", "show", "news", root=local_root).stdout
    assert "\033" not in command("models", "list", root=local_root).stdout


def test_a_version_is_fetched_and_verified(root: str, tmp_path: Path) -> None:
    store = fill(root, tmp_path)
    target = tmp_path / "out"

    done = command("models", "fetch", "news", "latest", str(target), root=root)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"news version 3 is in {target}: 4 files, 6.3 kB, every hash verified\n"
    assert {file["path"] for file in store.models.manifest("news", 3)["files"]} == {
        path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()
    }


def publish_adapters(root: str, folder: Path) -> Path:
    """Publish adapters alone as version 1; return the folder of their base."""
    job = Job(folder / "job")
    job.run(strategy="lora", epochs=1, lora_merge=False)
    facts = {"base": {"uri": job.inputs["base"][0].as_uri(), "digest": digest_folder(job.inputs["base"][0])}}
    model = job.folder / "out" / "model"
    Store.open(root).models.publish(name="news", folder=model, publish_id="a" * 64, fingerprint="b" * 64, facts=facts)
    return job.inputs["base"][0]


def test_adapters_are_fetched_alone_or_merged_on_request(local_root: str, tmp_path: Path) -> None:
    base = publish_adapters(local_root, tmp_path)
    alone, merged = tmp_path / "alone", tmp_path / "new" / "merged"

    assert data("models", "fetch", "news", "1", str(alone), root=local_root)["files"] == 6
    answer = data("models", "fetch", "news", "1", str(merged), "--merged", root=local_root)

    assert (alone / "adapter_model.safetensors").exists()
    assert not list(merged.glob("adapter*"))
    assert (answer["merged"], answer["files"]) == (True, sum(path.is_file() for path in merged.rglob("*")))
    assert np.allclose(load_classifier(merged).probabilities(["the goal"]), with_base(alone, base), atol=1e-6)
    assert [path.name for path in merged.parent.iterdir()] == ["merged"]


def with_base(alone: Path, base: Path) -> Any:
    shutil.copytree(base, alone / "base")
    return load_classifier(alone).probabilities(["the goal"])


def test_adapters_whose_base_has_changed_are_not_merged(local_root: str, tmp_path: Path) -> None:
    (publish_adapters(local_root, tmp_path) / "vocab.txt").write_text("more")

    done = command("models", "fetch", "news", "1", str(tmp_path / "new" / "merged"), "--merged", root=local_root)

    assert one_line(done).startswith("BASE_CHANGED model://news@1 is adapters alone, and the base that they were trained on")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_exists_is_not_merged_into(local_root: str, tmp_path: Path) -> None:
    publish_adapters(local_root, tmp_path)

    done = command("models", "fetch", "news", "1", str(tmp_path), "--merged", root=local_root)

    assert one_line(done) == f"FOLDER_EXISTS {tmp_path} exists, and a merged model is written anew — name another folder"


def test_a_plain_model_is_merged_already(local_root: str, tmp_path: Path) -> None:
    fill(local_root, tmp_path)

    answer = data("models", "fetch", "news", "1", str(tmp_path / "out"), "--merged", root=local_root)

    assert (answer["files"], "merged" in answer) == (4, False)


def test_the_folder_of_a_fetch_is_named_after_the_version(local_root: str, tmp_path: Path) -> None:
    fill(local_root, tmp_path)
    (tmp_path / "here").mkdir()

    assert command("models", "fetch", "news", root=local_root, cwd=tmp_path / "here").returncode == 0

    assert (tmp_path / "here" / "news-1" / "config.json").exists()


def test_a_flipped_bit_is_named_and_nothing_is_fetched(root: str, tmp_path: Path) -> None:
    store = fill(root, tmp_path)
    key = f"{store.models.manifest('news', 1)['artifact']}/config.json"
    store.objects.put(key, store.objects.get(key).data.replace(b"t", b"T", 1))

    done = command("models", "fetch", "news", "1", str(tmp_path / "out"), root=root)

    assert one_line(done).startswith(f"HASH_MISMATCH {root}/{key} config.json is not what was published")
    assert not (tmp_path / "out").exists()


def test_a_fetch_shows_its_progress_on_a_terminal(local_root: str, tmp_path: Path) -> None:
    fill(local_root, tmp_path)
    reader, writer = pty.openpty()

    done = subprocess.run(
        [sys.executable, "-c", MODULE, "models", "fetch", "news", "1", str(tmp_path / "out"), "--root", local_root],
        stdout=subprocess.PIPE,
        stderr=writer,
        timeout=60,
    )
    os.close(writer)

    assert done.returncode == 0
    assert b"Fetching news version 1: 0 B of 6.3 kB" in os.read(reader, 10_000)
    os.close(reader)


def test_a_version_that_passed_is_promoted_and_rolled_back(root: str, tmp_path: Path) -> None:
    store = fill(root, tmp_path)

    promoted = command("models", "promote", "news", "2", "--reason", "better", root=root)
    rolled_back = data("models", "rollback", "news", "--reason", "complaints", root=root)

    assert promoted.stdout == "champion of news is version 2 now (generation 2, before it version 1)\n"
    assert (rolled_back["version"], rolled_back["moved"], rolled_back["generation"]) == (1, True, 3)
    assert [(past.actor, past.reason) for past in store.aliases.history("news")] == [
        ("dag", "first"),
        ("ada", "better"),
        ("ada", "complaints"),
    ]


def test_promoting_the_live_version_says_so(local_root: str, tmp_path: Path) -> None:
    fill(local_root, tmp_path)

    done = command("models", "promote", "news", "1", root=local_root)

    assert done.stdout == "champion of news is version 1 already (generation 1): nothing to do\n"


def test_a_refused_version_is_promoted_only_with_a_reason_on_record(root: str, tmp_path: Path) -> None:
    store = fill(root, tmp_path)

    line = one_line(command("models", "promote", "news", "3", root=root))
    forced = command("models", "promote", "news", "3", "--override-reason", "the desk asked for it", root=root)

    assert line.startswith("NOT_PASSED version 3 of news was refused: accuracy 0.7 against 0.8")
    assert forced.returncode == 0
    assert store.aliases.history("news")[-1].override_reason == "the desk asked for it"
    assert "override: the desk asked for it" in command("models", "show", "news", root=root).stdout


def test_an_unevaluated_version_is_not_promoted(local_root: str, tmp_path: Path) -> None:
    store = fill(local_root, tmp_path)
    publish(store.objects, tmp_path, 4)

    assert one_line(command("models", "promote", "news", "4", root=local_root)).startswith("UNEVALUATED version 4 of news")


def test_a_version_judged_against_another_champion_is_not_promoted(local_root: str, tmp_path: Path) -> None:
    store = fill(local_root, tmp_path)
    command("models", "promote", "news", "3", "--override-reason", "x", root=local_root)

    assert one_line(command("models", "promote", "news", "2", root=local_root)).startswith("ALIAS_MOVED champion of news")
    assert [past.version for past in store.aliases.history("news")] == [1, 3]


def test_pruning_says_what_could_go_and_does_it_only_when_asked(root: str, tmp_path: Path) -> None:
    store = fill(root, tmp_path)

    said = command("models", "prune", "news", "--keep", "1", root=root)
    assert [manifest["version"] for manifest in store.models.versions("news")] == [1, 2, 3]
    done = data("models", "prune", "news", "--keep", "1", "--delete", root=root)
    again = command("models", "prune", "news", "--keep", "1", "--delete", root=root)

    created = store.models.manifest("news", 1)["created"][:10]
    lines = [line.split() for line in said.stdout.splitlines()]
    assert (said.returncode, said.stderr) == (0, "")
    assert lines[0] == ["version", "created", "files", "size"]
    assert [*lines[1][:2], *lines[1][3:]] == ["2", created, "4", "6.3", "kB"]
    assert said.stdout.splitlines()[2:] == ["6.3 kB could go (1 version of news); --delete does it."]
    assert (done["deleted"], done["bytes"], [row["outcome"] for row in done["versions"]]) == (True, 6254, ["deleted"])
    assert again.stdout == "Nothing to prune: every version of news is needed.\n"
    assert [manifest["version"] for manifest in store.models.versions("news")] == [1, 3]


def test_garbage_is_shown_with_its_size_and_goes_only_when_asked(root: str, tmp_path: Path) -> None:
    store = fill(root, tmp_path)
    key = f"models/news/artifacts/{'0' * 64}-{'1' * 16}/model.safetensors"
    store.objects.put(key, b"x" * 1500)
    time.sleep(1.1)

    none = command("gc", root=root)
    said = command("gc", "--older-than", "PT1S", root=root)
    assert store.objects.exists(key)
    done = data("gc", "--older-than", "PT1S", "--delete", root=root)

    assert none.stdout == f"No garbage older than P7D below {root}.\n"
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines()[1].split()[:2] == ["artifact", key.removesuffix("model.safetensors")]
    assert said.stdout.splitlines()[-1] == "1.5 kB could go (1 finding); --delete does it."
    assert (done["deleted"], done["bytes"], [row["outcome"] for row in done["findings"]]) == (True, 1500, ["deleted"])
    assert not store.objects.exists(key)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["gc", "--older-than", "7 days"], "BAD_SETTING --older-than must be an ISO 8601 duration"),
        (["models", "prune", "news", "--keep", "0"], "BAD_KEEP 0 newest versions cannot be kept"),
        (["models", "prune", "news"], "USAGE the following arguments are required: --keep"),
        (["models", "prune", "newz", "--keep", "1"], "NO_VERSION model newz has no versions — models: news"),
        (["models", "show", "newz"], "NO_VERSION model newz has no versions — models: news; did you mean 'news'?"),
        (["models", "list", "newz"], "NO_VERSION model newz has no versions — models: news; did you mean 'news'?"),
        (["models", "fetch", "news", "9"], "NO_VERSION model news has no version 9 — versions: 1, 2, 3"),
        (["models", "promote", "news", "9"], "NO_VERSION model news has no version 9 — versions: 1, 2, 3"),
        (["models", "rollback", "news"], "NOTHING_BEFORE no version of news was champion before version 1"),
        (["models", "rollback", "news", "--alias", "canary"], "NO_ALIAS model news has no alias 'canary'"),
        (["models", "show", "../news"], "BAD_NAME model name '../news' is not allowed"),
        (["models", "lst"], "USAGE argument COMMAND: invalid choice: 'lst'"),
        (["models", "list", "--root", "ftp://x"], "BAD_ROOT the store's root is 'ftp://x'"),
        (["models", "list", "--root", ""], "NO_ROOT nobody said where the store is"),
        ([], "USAGE the following arguments are required: COMMAND"),
    ],
)
def test_a_wrong_command_is_one_line_and_changes_nothing(
    local_root: str, tmp_path: Path, arguments: list[str], line: str
) -> None:
    store = fill(local_root, tmp_path)
    before = {info.key: info.modified for info in store.objects.list("")}

    root = None if line.startswith("NO_ROOT") else local_root
    assert one_line(command(*arguments, root=root, cwd=tmp_path)).startswith(line)

    after = {info.key: info.modified for info in store.objects.list("")}
    assert {key: after[key] for key in before} == before
    assert set(after) - set(before) <= {"store.json"}


@pytest.mark.integration
@pytest.mark.parametrize("change", [{"AWS_ACCESS_KEY_ID": "wrong"}, {"bucket": "missing"}])
def test_wrong_credentials_and_a_missing_bucket_are_one_line(
    seaweedfs: SeaweedFS, change: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    access = {"AWS_ACCESS_KEY_ID": seaweedfs.access_key, "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_key}
    for name, value in {"AWS_ENDPOINT_URL": seaweedfs.endpoint, **access, **change}.items():
        monkeypatch.setenv(name, value)

    line = one_line(command("models", "list", root=f"s3://{change.get('bucket', 'tests')}/nothing"))

    assert seaweedfs.secret_key not in line


def test_a_reader_that_leaves_early_is_no_error(local_root: str, tmp_path: Path) -> None:
    fill(local_root, tmp_path)

    done = subprocess.run(
        [
            "bash",
            "-c",
            f'{sys.executable} -c "{MODULE}" models show news --root {local_root} --json | true; echo ${{PIPESTATUS[0]}}',
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")


def test_a_store_of_a_later_release_is_refused(local_root: str, tmp_path: Path) -> None:
    Store.open(local_root).objects.put("store.json", b'{"format": 1, "layout": 2}')

    assert one_line(command("models", "list", root=local_root)).startswith("UNKNOWN_LAYOUT")


def test_shipped_dags_are_written_and_changed_ones_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "dags"

    written = data("init-dags", str(folder), root="")
    again = command("init-dags", str(folder))
    (folder / "retrain_text_classifier.py").write_text("# mine")
    refused = command("init-dags", str(folder))

    assert sorted(path.name for path in folder.iterdir()) == sorted(Path(path).name for path in written)
    assert "retrain_text_classifier.py" in {Path(path).name for path in written}
    assert again.returncode == 0
    assert one_line(refused).startswith(f"FILE_EXISTS {folder} holds another retrain_text_classifier.py")
    assert (folder / "retrain_text_classifier.py").read_text() == "# mine"


def test_a_job_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    done = command("run", str(tmp_path / "JOB.json"))

    assert one_line(done).startswith(f"BAD_JOB {tmp_path}/JOB.json cannot be read")


def test_nothing_heavy_is_imported_for_a_local_store(local_root: str, tmp_path: Path) -> None:
    fill(local_root, tmp_path)
    code = (
        "import sys; from transfer_learning.cli import main; main();"
        "print([m for m in ('airflow', 'torch', 'transformers', 'boto3', 'pandas') if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, "models", "list", "--root", local_root], capture_output=True, text=True, timeout=60
    )

    assert done.stdout.splitlines()[-1] == "[]"
