"""The trigger forms of the shipped DAGs, as somebody meets them who has not read the code."""

import re
from pathlib import Path

import pytest
from airflow.sdk.exceptions import ParamValidationError


@pytest.fixture(scope="module")
def fields(shipped_dags):
    """Every field of every form: DAG, name, schema and default."""
    found = [
        (dag_id, name, dag.params.get_param(name).schema, dag.params.get_param(name).value)
        for dag_id, dag in shipped_dags.items()
        for name in dag.params
    ]
    assert len(found) > 40
    return found


def test_every_field_has_a_title_in_words(fields):
    """Without one the form shows the name of the parameter."""
    without = [(dag, name) for dag, name, schema, _ in fields if not re.match("[A-Z][^_]*$", schema.get("title", ""))]

    assert without == []


def test_every_choice_is_told_in_words(fields):
    for dag, name, schema, _ in fields:
        choices = schema.get("enum") or schema.get("items", {}).get("enum") or []
        assert set(choices) == set(schema.get("values_display", {})), (dag, name)


def test_every_number_has_a_range(fields):
    for dag, name, schema, _ in fields:
        kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        if {"integer", "number"} & set(kinds):
            assert {"minimum", "exclusiveMinimum"} & set(schema), (dag, name)
            assert {"maximum", "exclusiveMaximum"} & set(schema), (dag, name)


def test_no_field_that_needs_words_may_be_empty(fields):
    for dag, name, schema, _ in fields:
        assert schema["type"] != "string" or "enum" in schema or schema.get("minLength"), (dag, name)


def test_every_field_reaches_a_task(shipped_dags, fields):
    for dag, name, _, _ in fields:
        code = Path(shipped_dags[dag].fileloc).read_text(encoding="utf-8")
        assert re.search(rf"""params\.{name}\b|params\["{name}"\]""", code), (dag, name)


@pytest.mark.parametrize(
    ("dag", "name", "wrong"),
    [
        ("pretrain_then_fine_tune", "reading_epochs", 0),
        ("pretrain_then_fine_tune", "train_source", ""),
        ("retrain_text_classifier", "strategy", "fulll"),
        ("retrain_text_classifier", "replay", 1),
        ("compare_strategies", "strategies", ["read"]),
        ("compare_strategies", "labels", [160, 160]),
        ("ulmfit", "hidden_size", 127),
        ("probe_many_rows", "classifier", None),
    ],
)
def test_a_wrong_value_is_refused_by_name(shipped_dags, dag, name, wrong):
    with pytest.raises(ParamValidationError):
        shipped_dags[dag].params.get_param(name).resolve(wrong)
