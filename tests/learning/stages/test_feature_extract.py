"""Features: right against the library's own states, the same whatever stands beside a row, and never computed twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from learning.real_news import BASE, headlines
from learning.stages.fine_tuning import Job, StoppingRun, weight_hashes
from learning.tiny_model import make_rows, write_base, write_rows
from transfer_learning.blocks import feature_parts
from transfer_learning.blocks.feature_parts import lookup, read_parts
from transfer_learning.blocks.rows import read_texts
from transfer_learning.errors import BadInput, Stopped
from transfer_learning.hashes import Hashes
from transfer_learning.specs import FeatureSpec, TaskSpec
from transfer_learning.stage import NUMERICS_VERSIONS, Run
from transfer_learning.stages import feature_extract as stage
from transfer_learning.stages.feature_extract import feature_extract

WIDTH = 16


class Extraction:
    """A tiny base and rows in folders, and the stage on them; ``cache`` holds what earlier runs wrote."""

    def __init__(self, folder: Path, kind: str = "bert") -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.inputs = {"base": [write_base(folder / "base", kind)]}
        self.give("train", make_rows(40))

    def give(self, split: str, rows: list[tuple[str, str]], **options: Any) -> None:
        shutil.rmtree(self.folder / split, ignore_errors=True)
        self.inputs[split] = [write_rows(self.folder / split, rows, parts=2, **options)]

    def run(self, run: Run | None = None, **settings: Any) -> dict[str, Any]:
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        self.cache.mkdir(exist_ok=True)
        run = run or Run(threads=1, cache=self.cache, new_cache=self.cache)
        found = feature_extract(FeatureSpec(**{"precision": "fp32", **settings}), self.inputs, out, run)
        self.manifest = json.loads((out / "manifest.json").read_text())
        return found

    def hashes(self) -> Hashes:
        return np.unique(np.concatenate([part.hashes for part in read_parts([self.cache], Run())]))

    def features(self, wanted: Hashes | None = None, width: int = WIDTH) -> torch.Tensor:
        return lookup(read_parts([self.cache], Run()), self.hashes() if wanted is None else wanted, width)


@pytest.fixture
def extraction(tmp_path: Path) -> Extraction:
    return Extraction(tmp_path)


def library_states(extraction: Extraction) -> tuple[list[bytes], list[torch.Tensor]]:
    """Return input hashes and, for each row, the states behind embeddings and all layers as the library alone computes them."""
    model = AutoModel.from_pretrained(extraction.inputs["base"][0]).eval()
    tokenizer = AutoTokenizer.from_pretrained(extraction.inputs["base"][0])
    table = pq.read_table(extraction.inputs["train"][0])
    with torch.inference_mode():
        states = [
            torch.stack(model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states)[:, 0]
            for text in table["text"].to_pylist()
        ]
    return table["_input_hash"].to_pylist(), states


POOLED = {
    "mean": lambda states: states.mean(dim=0),
    "cls": lambda states: states[0],
    "max": lambda states: states.amax(dim=0),
    "last_token": lambda states: states[-1],
    "concat": lambda states: torch.cat([states.amax(dim=0), states.mean(dim=0), states[-1]]),
}


@pytest.mark.parametrize("pooling", POOLED)
def test_a_pooling_is_that_of_the_librarys_own_states(extraction: Extraction, pooling: str) -> None:
    extraction.run(pooling=pooling)

    hashes, states = library_states(extraction)
    expected = torch.stack([POOLED[pooling](row[-1]) for row in states])
    found = extraction.features(np.array(hashes, dtype="S32"), expected.shape[1])
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("layer", "number"), [(0, 0), (1, 1), (-1, 3), (-3, 1), ("embeddings", 0), ("encoder.layer.1", 2)])
def test_a_layer_is_named_by_number_from_either_end_or_by_its_module(
    extraction: Extraction, layer: int | str, number: int
) -> None:
    extraction.run(layers=(layer,))

    hashes, states = library_states(extraction)
    expected = torch.stack([row[number].mean(dim=0) for row in states])
    assert torch.allclose(extraction.features(np.array(hashes, dtype="S32")), expected, atol=1e-5)


def test_several_layers_stand_side_by_side_in_the_order_given(extraction: Extraction) -> None:
    extraction.run(layers=(-1, 1), normalize=True)

    hashes, states = library_states(extraction)
    unit = torch.nn.functional.normalize
    expected = torch.stack([torch.cat([unit(row[n].mean(dim=0), dim=0) for n in (3, 1)]) for row in states])
    assert torch.allclose(extraction.features(np.array(hashes, dtype="S32"), 2 * WIDTH), expected, atol=1e-5)


@pytest.mark.parametrize("layer", [4, -5, "encoder.layer.3"])
def test_a_layer_that_is_not_there_is_one_line(extraction: Extraction, layer: int | str) -> None:
    with pytest.raises(BadInput, match="NO_LAYER the model has no layer"):
        extraction.run(layers=(layer,))


@pytest.mark.parametrize("layers", [("encoder.layer.2", -1), (1, "encoder.layer.0")])
def test_a_layer_given_by_name_and_by_number_is_refused_as_twice_the_same(
    extraction: Extraction, layers: tuple[int | str, ...]
) -> None:
    with pytest.raises(BadInput, match="^BAD_SETTING FeatureSpec.layers must name at least one block, and none twice"):
        extraction.run(layers=layers)


@pytest.mark.parametrize("pair", [None, "second"])
def test_a_length_that_leaves_nothing_of_a_text_is_one_line(extraction: Extraction, pair: str | None) -> None:
    extraction.give("train", make_rows(4), pairs=True)

    with pytest.raises(BadInput, match="^BAD_SETTING max_length is 4, and 3 tokens" if pair else "^BAD_SETTING max_length is 2"):
        extraction.run(max_length=4 if pair else 2, task=TaskSpec(text_pair=pair))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.03)])
def test_the_numbers_of_this_version_have_not_moved(extraction: Extraction, precision: str, tolerance: float) -> None:
    """When this turns red, raise NUMERICS_VERSIONS["feature_extract"]: stored features would be taken for others."""
    extraction.run(precision=precision)

    assert NUMERICS_VERSIONS["feature_extract"] == 3
    assert extraction.features()[0, :4].tolist() == pytest.approx([-1.98367, -2.08084, 0.67315, 0.32971], abs=tolerance)


def test_what_was_computed_once_is_found(extraction: Extraction) -> None:
    first = extraction.run()
    before = extraction.manifest["parts"]

    second = extraction.run()

    assert (first["computed"], first["found"]) == (first["rows"], 0)
    assert (second["computed"], second["found"]) == (0, first["rows"])
    assert extraction.manifest["parts"] == before


def test_only_new_rows_are_computed(extraction: Extraction) -> None:
    first = extraction.run()
    extraction.give("train", make_rows(40) + make_rows(4, seed=9))

    second = extraction.run()

    assert second["found"] == first["rows"]
    assert 0 < second["computed"] <= 4


def test_an_input_that_stands_twice_is_computed_once(extraction: Extraction) -> None:
    rows = make_rows(10)
    extraction.give("train", [*rows, *rows])
    extraction.give("validation", rows)

    found = extraction.run()

    assert found["rows"] == found["computed"] == len({text for text, _ in rows})
    assert sum(part["rows"] for part in extraction.manifest["parts"]) == found["rows"]


def test_shards_together_are_the_whole(extraction: Extraction, tmp_path: Path) -> None:
    extraction.run()
    whole, hashes = extraction.features(), extraction.hashes()
    shutil.rmtree(extraction.cache)

    shares = [extraction.run(shard=(i, 3))["rows"] for i in range(3)]

    assert all(shares)
    assert sum(shares) == len(hashes)
    assert torch.equal(extraction.features(hashes), whole)


def test_a_rows_features_do_not_depend_on_the_rows_beside_it(extraction: Extraction) -> None:
    extraction.run()
    whole, hashes = extraction.features(), extraction.hashes()
    shutil.rmtree(extraction.cache)

    for row in make_rows(40)[::5]:
        extraction.give("train", [row])
        extraction.run()

    alone = extraction.hashes()
    assert torch.equal(extraction.features(alone), whole[np.isin(hashes, alone)])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_headlines_under_a_real_model_do_not_depend_on_each_other(extraction: Extraction, precision: str) -> None:
    rows = headlines()[:200]
    extraction.inputs["base"] = [BASE]
    extraction.give("train", rows)
    extraction.run(precision=precision)
    whole, hashes = extraction.features(width=384), extraction.hashes()
    shutil.rmtree(extraction.cache)

    for start in range(0, 40, 4):
        extraction.give("train", rows[start : start + 4])
        extraction.run(precision=precision)

    few = extraction.hashes()
    assert torch.equal(extraction.features(few, 384), whole[np.isin(hashes, few)])


def test_rows_are_read_a_window_at_a_time(extraction: Extraction, monkeypatch: pytest.MonkeyPatch) -> None:
    extraction.run()
    whole, hashes = extraction.features(), extraction.hashes()
    shutil.rmtree(extraction.cache)
    monkeypatch.setattr(stage, "WINDOW", 7)
    monkeypatch.setattr(feature_parts, "PART_BYTES", 10 * 4 * WIDTH)

    extraction.run()

    assert len(extraction.manifest["parts"]) > 2
    assert torch.equal(extraction.features(hashes), whole)


def test_long_texts_make_smaller_windows(extraction: Extraction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "READ_ROWS", 2)
    monkeypatch.setattr(stage, "WINDOW_CHARACTERS", 1)
    sizes, tokenize = [], stage.tokenize
    monkeypatch.setattr(
        stage, "tokenize", lambda of, texts, *rest, **roles: sizes.append(len(texts)) or tokenize(of, texts, *rest, **roles)
    )

    extraction.run()

    assert len(sizes) > 10
    assert set(sizes) <= {1, 2}


def test_every_damaged_part_is_named_and_its_rows_computed_again(
    extraction: Extraction, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stage, "WINDOW", 7)
    monkeypatch.setattr(feature_parts, "PART_BYTES", 20 * 4 * WIDTH)
    extraction.run()
    parts = sorted(extraction.cache.glob("part-*"))
    for part in parts:
        damaged = bytearray(part.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        part.unlink()
        part.write_bytes(damaged)

    told = tmp_path / "progress.jsonl"
    found = extraction.run(Run(threads=1, cache=extraction.cache, new_cache=extraction.cache, progress_file=told))

    assert found["computed"] == found["rows"]
    assert len(parts) > 1
    assert [line for line in caplog.messages if line.startswith("FEATURES DAMAGED ")] == [
        f"FEATURES DAMAGED {part.name} is not what its name says, and is left out" for part in parts
    ]
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    assert [line["damaged"] for line in lines if "reason" in line] == [part.name for part in parts]


def test_features_of_another_arithmetic_are_not_found(extraction: Extraction) -> None:
    extraction.run(precision="fp32")

    assert extraction.run(precision="bf16")["found"] == 0


def test_half_precision_is_the_nearest_number_of_that_kind(extraction: Extraction) -> None:
    extraction.run()
    whole, hashes = extraction.features(), extraction.hashes()
    shutil.rmtree(extraction.cache)

    extraction.run(dtype="float16")

    assert torch.equal(extraction.features(hashes), whole.half().float())


def test_a_stopped_extraction_keeps_what_it_computed(extraction: Extraction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "WINDOW", 7)
    extraction.cache.mkdir()
    run = StoppingRun(threads=1, cache=extraction.cache, new_cache=extraction.cache, after=6)

    with pytest.raises(Stopped):
        extraction.run(run)
    found = extraction.run()

    assert found["found"] >= 7
    assert found["found"] + found["computed"] == found["rows"]


def test_pairs_are_one_input(extraction: Extraction) -> None:
    extraction.give("train", make_rows(10), pairs=True)

    found = extraction.run(task=TaskSpec(text_pair="second"))

    assert found["rows"] == extraction.features().shape[0]


@pytest.mark.parametrize("damage", ["cut", "empty", "no hashes"])
def test_a_part_of_the_snapshot_that_cannot_be_read_is_the_same_line_as_in_every_stage(
    extraction: Extraction, damage: str
) -> None:
    part = extraction.inputs["train"][0] / "01.parquet"
    if damage == "no hashes":
        pq.write_table(pq.read_table(part).drop_columns("_input_hash"), part)
    else:
        part.write_bytes(part.read_bytes()[:-9] if damage == "cut" else b"")
    with pytest.raises(BadInput) as elsewhere:
        next(read_texts(part, TaskSpec(), 8))

    with pytest.raises(BadInput) as caught:
        extraction.run()

    assert str(caught.value) == str(elsewhere.value)
    assert caught.value.code == ("MISSING_COLUMN" if damage == "no hashes" else "BAD_PARQUET")


def test_no_row_at_all_is_one_line(extraction: Extraction) -> None:
    with pytest.raises(BadInput, match="NO_ROWS there is no row in test"):
        extraction.run(splits=("test",))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", [{}, {"pooling": "concat", "normalize": True}, {"layer": 2, "classifier": "linear_svm"}])
def test_a_probe_on_stored_features_is_the_probe_that_computes_them(
    tmp_path: Path, settings: dict[str, Any], precision: str
) -> None:
    job = Job(tmp_path / "job", validation=9)
    extraction = Extraction(tmp_path)
    extraction.inputs = dict(job.inputs)
    pooling = {name: value for name, value in settings.items() if name in ("pooling", "normalize")}
    extraction.run(layers=(settings.get("layer", -1),), precision=precision, **pooling)

    fresh = job.run("fresh", strategy="linear_probe", precision=precision, **settings)
    job.inputs["features"] = [extraction.cache]
    stored = job.run("stored", strategy="linear_probe", precision=precision, **settings)

    assert stored == fresh
    assert weight_hashes(tmp_path / "job" / "stored") == weight_hashes(tmp_path / "job" / "fresh")


def test_features_that_lack_a_row_are_one_line(tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    extraction = Extraction(tmp_path)
    extraction.give("train", make_rows(29))
    extraction.run()
    job.inputs["features"] = [extraction.cache]

    with pytest.raises(BadInput, match=r"MISSING_FEATURES \d+ of 30 rows have no features"):
        job.run(strategy="linear_probe", precision="fp32")
