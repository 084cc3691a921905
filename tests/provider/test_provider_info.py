"""What Airflow shows of the provider."""

import importlib
import json
from importlib.metadata import entry_points
from pathlib import Path

import airflow
from airflow.sdk import BaseHook, BaseOperator
from jsonschema.validators import validator_for

from airflow_transfer_learning import operators
from airflow_transfer_learning.provider_info import get_provider_info


def test_the_provider_info_follows_airflows_schema():
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())

    assert list(validator_for(schema)(schema).iter_errors(get_provider_info())) == []


def test_every_named_module_and_class_exists():
    info = get_provider_info()

    modules = [name for section in ("operators", "hooks") for entry in info[section] for name in entry["python-modules"]]
    found = [importlib.import_module(name) for name in modules]
    module, _, name = info["connection-types"][0]["hook-class-name"].rpartition(".")

    assert len(found) == len(modules)
    assert issubclass(getattr(importlib.import_module(module), name), BaseHook)


def test_every_public_operator_stands_in_a_named_module():
    named = {name for entry in get_provider_info()["operators"] for name in entry["python-modules"]}

    public = [getattr(operators, name) for name in operators.__all__]
    modules = {cls.__module__ for cls in public if isinstance(cls, type) and issubclass(cls, BaseOperator)}

    assert modules == named


def test_the_entry_points_name_the_provider_and_the_plugin_once():
    providers = [e.value for e in entry_points(group="apache_airflow_provider") if "transfer_learning" in e.value]
    plugins = [e.value for e in entry_points(group="airflow.plugins") if "transfer_learning" in e.value]

    assert providers == ["airflow_transfer_learning.provider_info:get_provider_info"]
    assert plugins == ["airflow_transfer_learning.plugin:TransferLearningPlugin"]
