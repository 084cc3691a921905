"""The demo on articles trains a model of its own name, through copies of the shipped recipes."""

from __future__ import annotations

import airflow_env  # noqa: F401  first of all

# isort: split
import runpy
from pathlib import Path

import pytest

from demo.__main__ import REPOSITORY, recipes

pytestmark = pytest.mark.integration


def test_the_shipped_recipes_are_used_where_they_are() -> None:
    assert recipes(Path("nowhere"), "bbc-headlines") == REPOSITORY / "dags"


def test_copies_for_another_model_name_it_in_the_plan_the_dataset_and_the_asset(tmp_path: Path) -> None:
    folder = recipes(tmp_path / "dags", "bbc-articles")

    retrain = runpy.run_path(str(folder / "retrain_text_classifier.py"))
    announce = runpy.run_path(str(folder / "announce_new_model.py"))

    assert (retrain["plan"].model, retrain["PULL"].name) == ("bbc-articles", "bbc-articles")
    assert announce["MODEL"] == "bbc-articles"
    assert '"bbc-headlines"' not in "".join(path.read_text() for path in folder.iterdir())
