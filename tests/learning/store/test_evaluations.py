from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from learning.store.faults import DyingObjectStore, FaultyObjectStore, ForgetfulObjectStore, Killed
from transfer_learning.errors import BadInput, Refused
from transfer_learning.store.evaluations import EvaluationStore
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore


def write_evaluation(folder: Path, decision: str = "passed", **verdict: Any) -> Path:
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "plots" / "confusion.png").write_bytes(b"\x89PNG")
    (folder / "predictions.parquet").write_bytes(b"PAR1")
    body = {"format": 1, "decision": decision, "passed": decision in ("passed", "first"), "sentences": ["accuracy 0.9: pass"]}
    (folder / "verdict.json").write_text(json.dumps({**body, **verdict}))
    return folder


def test_an_evaluation_lies_under_its_version_with_its_evidence(objects: ObjectStore, tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "out", champion_generation=3)

    uri = EvaluationStore(objects).write("news", 42, "night-1", folder)

    assert uri == f"{objects.uri}/models/news/evaluations/000042/night-1"
    assert [info.key.removeprefix("models/news/evaluations/000042/night-1/") for info in objects.list("models/")] == [
        "plots/confusion.png",
        "predictions.parquet",
        "verdict.json",
    ]
    [verdict] = EvaluationStore(objects).read("news", 42)
    assert (verdict["decision"], verdict["champion_generation"], verdict["uri"]) == ("passed", 3, uri)


def test_the_verdict_is_written_last(tmp_path: Path) -> None:
    objects = FaultyObjectStore(MemoryObjectStore())

    EvaluationStore(objects).write("news", 1, "night-1", write_evaluation(tmp_path / "out"))

    writes = [call for call in objects.calls if call.startswith(("put", "upload"))]
    assert [call.rpartition("/")[2] for call in writes].index("verdict.json") == len(writes) - 1


def test_verdicts_come_newest_last(objects: ObjectStore, tmp_path: Path) -> None:
    evaluations = EvaluationStore(objects)
    for number, decision in (("z", "refused"), ("a", "inconclusive"), ("m", "passed")):
        evaluations.write("news", 1, number, write_evaluation(tmp_path / number, decision))

    assert [verdict["evaluation_id"] for verdict in evaluations.read("news", 1)] == ["z", "a", "m"]
    assert evaluations.read("news", 2) == []


def test_the_same_evaluation_is_stored_once(objects: ObjectStore, tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "out")

    uris = [EvaluationStore(objects).write("news", 1, "night-1", folder) for _ in range(3)]

    assert len(set(uris)) == 1
    assert len(EvaluationStore(objects).read("news", 1)) == 1


def test_another_verdict_under_the_same_id_replaces_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    evaluations = EvaluationStore(objects)
    first = evaluations.write("news", 1, "night-1", write_evaluation(tmp_path / "1", "refused"))

    second = evaluations.write("news", 1, "night-1", write_evaluation(tmp_path / "2", "passed"))
    again = evaluations.write("news", 1, "night-1", write_evaluation(tmp_path / "1", "refused"))

    assert (second, again) == (f"{first}-2", first)
    assert [verdict["decision"] for verdict in evaluations.read("news", 1)] == ["refused", "passed"]


@pytest.mark.promise(13)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_writer_killed_at_any_call_leaves_no_half_evaluation(objects: ObjectStore, tmp_path: Path, after: bool) -> None:
    folder = write_evaluation(tmp_path / "out")
    for call in range(1, 20):
        dying = DyingObjectStore(objects, call, after=after)
        try:
            EvaluationStore(dying).write("news", call, "night-1", folder)
        except Killed:
            assert len(EvaluationStore(objects).read("news", call)) <= 1
        EvaluationStore(objects).write("news", call, "night-1", folder)
        assert len(EvaluationStore(objects).read("news", call)) == 1
        if len(dying.calls) < call:
            break


def test_lost_answers_make_no_second_evaluation(tmp_path: Path) -> None:
    objects = MemoryObjectStore()
    folder = write_evaluation(tmp_path / "out")

    for seed in range(30):
        EvaluationStore(ForgetfulObjectStore(objects, share=0.4, seed=seed)).write("news", seed + 1, "night-1", folder)

    assert all(len(EvaluationStore(objects).read("news", seed + 1)) == 1 for seed in range(30))


def test_uses_of_a_test_set_are_counted_over_all_versions_of_a_model(objects: ObjectStore, tmp_path: Path) -> None:
    evaluations = EvaluationStore(objects)
    for number, (version, digest) in enumerate([(1, "aa"), (2, "aa"), (2, "bb"), (3, "aa")]):
        folder = write_evaluation(tmp_path / str(number), test={"digest": digest, "rows": 500})
        evaluations.write("news", version, f"night-{number}", folder)
    evaluations.write("sport", 1, "night-9", write_evaluation(tmp_path / "9", test={"digest": "aa"}))

    assert [evaluations.count_test_uses("news", digest) for digest in ("aa", "bb", "cc")] == [3, 1, 0]


def test_uses_are_counted_by_the_split_whatever_rows_the_ledgers_left_of_it(objects: ObjectStore, tmp_path: Path) -> None:
    evaluations = EvaluationStore(objects)
    for number, digest in enumerate(("aa", "bb"), start=1):
        folder = write_evaluation(tmp_path / str(number), test={"digest": digest, "split_digest": "whole"})
        evaluations.write("news", number, "night-1", folder)

    assert evaluations.count_test_uses("news", "whole") == 2


def test_the_newest_verdict_decides_whether_a_version_passed(objects: ObjectStore, tmp_path: Path) -> None:
    evaluations = EvaluationStore(objects)
    with pytest.raises(Refused, match=r"^UNEVALUATED version 1 of news was never evaluated"):
        evaluations.require_passed("news", 1)
    evaluations.write("news", 1, "1", write_evaluation(tmp_path / "1"))
    assert evaluations.require_passed("news", 1)["evaluation_id"] == "1"

    evaluations.write("news", 1, "2", write_evaluation(tmp_path / "2", "refused", sentences=["accuracy 0.7 < 0.9: refused"]))

    with pytest.raises(Refused, match=r"^NOT_PASSED version 1 of news was refused: accuracy 0.7 < 0.9: refused"):
        evaluations.require_passed("news", 1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"decision": "passed"}', '{"decision": "passed", "passed": true, "x": NaN}'])
def test_an_unreadable_verdict_is_one_line_and_nothing_is_written(tmp_path: Path, text: str) -> None:
    folder = write_evaluation(tmp_path / "out")
    (folder / "verdict.json").write_text(text)
    objects = MemoryObjectStore()

    with pytest.raises(BadInput, match=r"^BAD_VERDICT .*verdict\.json"):
        EvaluationStore(objects).write("news", 1, "night-1", folder)

    assert not list(objects.list(""))
