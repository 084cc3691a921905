"""The model card of a language model: README.md with the front matter that the hub reads, from the passport alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transfer_learning.blocks.model_card import dataset_lines, table

PIPELINES = {"masked_lm": "fill-mask", "causal_lm": "text-generation", "replaced_token": "feature-extraction"}

LOAD_LINES = {
    "masked_lm": (
        "from transformers import pipeline",
        'fill = pipeline("fill-mask", model="FOLDER", tokenizer_kwargs={"truncation": True})',
        'print(fill("some MASK text"))',
    ),
    "causal_lm": (
        "from transformers import pipeline",
        'write = pipeline("text-generation", model="FOLDER")',
        'print(write("some text", max_new_tokens=20))',
    ),
    "replaced_token": (
        "from transformers import AutoModelForPreTraining, AutoTokenizer",
        'model, tokenizer = AutoModelForPreTraining.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")',
        'print(model(**tokenizer("some text", truncation=True, return_tensors="pt")).logits > 0)',
    ),
}
"""Three lines for each objective; a test runs them in an interpreter without this project."""

DOES = {
    "masked_lm": "Tells which words fit in the place of a masked one",
    "causal_lm": "Tells which words may come next in a text",
    "replaced_token": "Tells which words of a text stand in the place of others",
}


def render(passport: Mapping[str, Any]) -> str:
    """Return the card of a published language model."""
    sections = (
        _front_matter(passport),
        f"# {passport.get('model') or 'Language model'}\n\n{_summary(passport)}",
        "## Load it\n\n```python\n" + "\n".join(load_lines(passport)) + "\n```",
        "## Data\n\n" + "\n".join(dataset_lines(passport)),
        "## Metrics\n\n" + table(("metric", "value"), passport["metrics"]),
        "## Settings\n\n" + table(("setting", "value"), passport["settings"]),
        "## Origin\n\n" + _origin(passport),
        "## Arithmetic\n\n" + table(("choice", "value"), passport["numerics"]),
    )
    return "\n\n".join(sections) + "\n"


def load_lines(passport: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the three lines that load this model."""
    return tuple(line.replace("MASK", str(passport["mask"])) for line in LOAD_LINES[passport["strategy"]])


def _front_matter(passport: Mapping[str, Any]) -> str:
    """Return YAML; every value is written as JSON, which is YAML too, so that no text can break out of its place."""
    pipeline = PIPELINES[passport["strategy"]]
    lines: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": pipeline,
        "tags": [pipeline, "transfer-learning", passport["strategy"]],
    }
    if passport["base"].get("license"):
        lines["license"] = passport["base"]["license"]
    uri = str(passport["base"].get("uri") or "")
    if uri.startswith("hf://"):
        lines["base_model"] = uri.removeprefix("hf://").partition("@")[0]
    return "---\n" + "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in lines.items()) + "\n---"


def _summary(passport: Mapping[str, Any]) -> str:
    return (
        f"{DOES[passport['strategy']]}: `{passport['architecture']}`, pretrained with the objective `{passport['strategy']}` on "
        f"plain text, for inputs of up to {passport['max_length']} tokens. Fine-tuning starts from it as it is."
    )


def _origin(passport: Mapping[str, Any]) -> str:
    base = passport["base"]
    known = f"- Base model: `{base.get('uri') or 'a local folder'}`, digest `{base.get('digest') or 'not given'}`."
    scratch = "- From scratch: every weight started at random, and the tokenizer was trained from the same text."
    return "\n".join(
        [scratch if passport["spec"]["architecture"] else known, *(f"- Note: {note}." for note in passport["notes"])]
    )
