"""Refs cross XCom as plain dicts."""

import json

import pytest

from transfer_learning.errors import BadInput
from transfer_learning.refs import DatasetRef, ModelRef, version_of

DATASET = DatasetRef(
    name="news", digest="d", rows=3, splits={"train": 3}, schema={"text": "string"}, as_of="2026-01-01T00:00:00+00:00"
)


def test_a_ref_survives_json():
    crossed = json.loads(json.dumps(DATASET.to_dict()))

    assert crossed["kind"] == "dataset"
    assert DatasetRef.from_dict(crossed) == DATASET


def test_a_ref_of_another_kind_is_refused():
    with pytest.raises(
        BadInput, match=r"^WRONG_REF expected a 'model' ref, found 'dataset' — pass the output of the task that makes one$"
    ):
        ModelRef.from_dict(DATASET.to_dict())


def test_a_ref_that_lacks_fields_is_refused():
    with pytest.raises(BadInput, match=r"^WRONG_REF the 'dataset' ref lacks digest, rows"):
        DatasetRef.from_dict({"kind": "dataset", "name": "news", "splits": {}, "schema": {}, "as_of": ""})


def test_something_that_is_no_ref_is_refused():
    with pytest.raises(BadInput, match=r"^WRONG_REF expected a 'dataset' ref, found 'NoneType'"):
        DatasetRef.from_dict(None)


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("model://news@3", ("news", 3)),
        ("model://news@champion", None),
        ("model://news", None),
        ("hf://org/news@3", None),
        ("news@3", None),
        ("", None),
    ],
)
def test_a_version_of_the_store_is_told_from_other_bases(uri, found):
    assert version_of(uri) == found
