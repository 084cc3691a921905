"""What a job and a publish are known by."""

from transfer_learning.identity import fingerprint, publish_id
from transfer_learning.specs import FineTuneSpec


def test_the_fingerprint_covers_what_changes_the_result_and_nothing_else():
    spec, inputs = FineTuneSpec(), {"train": "a", "base": "b"}
    reference = fingerprint("fine_tune", spec, inputs)

    assert fingerprint("fine_tune", FineTuneSpec(micro_batch=4, checkpoint_seconds=5), inputs) == reference
    assert fingerprint("fine_tune", FineTuneSpec(strategy="full"), inputs) == reference
    assert fingerprint("fine_tune", FineTuneSpec(seed=1), inputs) != reference
    assert fingerprint("fine_tune", spec, {**inputs, "train": "c"}) != reference
    assert fingerprint("evaluate", spec, inputs) != reference


def test_a_publish_id_belongs_to_one_run_of_one_task():
    ids = {
        publish_id(deployment="d", model="m", dag="g", run=run_id, task="t", map_index=index, fingerprint="f")
        for run_id in ("r1", "r2")
        for index in (-1, 0)
    }

    assert len(ids) == 4
