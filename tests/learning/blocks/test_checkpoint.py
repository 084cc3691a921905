"""Checkpoints are whole or not there; damage is always seen."""

import json
import logging
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from promises import sizes
from transfer_learning.blocks import checkpoint
from transfer_learning.blocks.checkpoint import Checkpoints, Snapshot
from transfer_learning.errors import Stopped, TransferLearningError
from transfer_learning.specs import FineTuneSpec
from transfer_learning.stage import NUMERICS_VERSIONS, Run

FILES = {
    "weights": {"w": torch.arange(6.0), "half": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer": {"w/step": torch.tensor(3.0)},
}


def write(folder: Path, tick: int) -> Path:
    return checkpoint.write(folder, tick, Snapshot(FILES, {"tick": tick, "identity": {"job": "a"}, "loss": 0.1 + 0.2}))


def test_what_was_written_is_read_back_exactly(tmp_path: Path) -> None:
    path = write(tmp_path, 12)

    found = checkpoint.read(path)

    assert path.name == "step-00000012"
    assert found.facts["loss"] == 0.1 + 0.2
    assert all(
        torch.equal(found.files[stem][name], tensor) for stem, tensors in FILES.items() for name, tensor in tensors.items()
    )


def test_a_checkpoint_is_safetensors_and_json_with_the_hashes_last(tmp_path: Path) -> None:
    path = write(tmp_path, 1)

    names = {entry.name for entry in path.iterdir()}
    listed = json.loads((path / "_COMPLETE.json").read_text())["files"]

    assert names == {"weights.safetensors", "optimizer.safetensors", "state.json", "_COMPLETE.json"}
    assert set(listed) == names - {"_COMPLETE.json"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.promise(4)
@pytest.mark.parametrize("count", sizes(60, 500))
def test_every_truncation_bit_flip_and_missing_file_is_detected_and_the_one_before_is_used(
    tmp_path: Path, count: int, held: Callable[[str], None]
) -> None:
    rng, kinds = random.Random(0), Counter[str]()
    for trial in range(count):
        write(tmp_path / str(trial), 1)
        newest = write(tmp_path / str(trial), 2)
        victim = rng.choice(sorted(newest.iterdir()))
        data = bytearray(victim.read_bytes())
        match kind := ("truncated", "flipped", "missing", "added")[trial % 4]:
            case "truncated":
                victim.write_bytes(data[: rng.randrange(len(data))])
            case "flipped":
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                victim.write_bytes(data)
            case "missing":
                victim.unlink()
            case "added":
                (newest / "extra.safetensors").write_bytes(data)

        found = checkpoint.resume(Run(resume_from=newest), {"job": "a"})

        assert found is not None, (trial, kind, victim.name)
        assert found.facts["tick"] == 1, (trial, kind, victim.name)
        kinds[kind] += 1
    told = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    held(f"{count} of {count} detected ({told}), the one before used")


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    for tick in (1, 2, 3, 4):
        write(tmp_path, tick)

    checkpoint.prune(tmp_path, best=1)

    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["1", "3", "4"]


def test_damaged_ones_are_skipped_loudly_down_to_a_fresh_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [write(tmp_path, tick) for tick in (1, 2, 3)]
    run = Run(resume_from=paths[2])

    found = []
    for path in (None, paths[2], paths[1], paths[0]):
        if path is not None:
            (path / "state.json").write_text("{}")
        snapshot = checkpoint.resume(run, {"job": "a"})
        found.append(snapshot.facts["tick"] if snapshot else None)

    assert found == [3, 2, 1, None]
    assert "NO WHOLE CHECKPOINT" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)

    with pytest.raises(TransferLearningError, match=r"step-00000002 needs \d+ bytes.*No space left"):
        write(tmp_path, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]


def test_a_stop_is_answered_with_a_checkpoint(tmp_path: Path) -> None:
    run = Run(checkpoints=tmp_path)
    writer = Checkpoints(run, {"job": "a"}, seconds=1000)
    writer.poll(4, lambda: Snapshot(FILES, {}))
    run._on_signal(15, None)

    with pytest.raises(Stopped, match="step 5"):
        writer.poll(5, lambda: Snapshot(FILES, {}))

    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_a_checkpoint_is_due_by_time_and_sooner_at_an_epochs_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 40, 40, 40, 80, 141, 141])
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    writer = Checkpoints(Run(checkpoints=tmp_path), {}, seconds=60)

    writer.poll(1, lambda: Snapshot(FILES, {}))
    writer.poll(2, lambda: Snapshot(FILES, {}), epoch_end=True)
    writer.poll(3, lambda: Snapshot(FILES, {}))
    writer.poll(4, lambda: Snapshot(FILES, {}))

    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["2", "4"]


def test_the_identity_of_a_job_has_not_moved_so_that_older_checkpoints_still_fit() -> None:
    model = nn.Linear(2, 1)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)

    with_base, from_scratch = (checkpoint.identity_of("fine_tune", FineTuneSpec(seed=3), "rows", base) for base in (model, None))

    assert with_base == {
        "spec": "4d687b6437462c4d42e6b3ca5812976a72f39b30a2d78d5f5d1be4880f9aa5a5",
        "rows": "rows",
        "numerics": str(NUMERICS_VERSIONS["fine_tune"]),
        "base": "3ce95a2e3ada223302cb7a40be39a6effef62a8ef2976d458d1ebc82e43b4b99",
    }
    assert from_scratch == {name: value for name, value in with_base.items() if name != "base"}
