"""The model card of a language model: README.md with the front matter that the hub reads, from the passport alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfer_learning.blocks.model_card import assemble, dataset_lines, start_line

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
    pipeline = PIPELINES[passport["strategy"]]
    return assemble(
        passport,
        front={
            "library_name": "transformers",
            "pipeline_tag": pipeline,
            "tags": [pipeline, "transfer-learning", passport["strategy"]],
        },
        title="Language model",
        summary=_summary(passport),
        load=load_lines(passport),
        data="\n".join(dataset_lines(passport)),
        origin=[start_line(passport)],
    )


def load_lines(passport: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the three lines that load this model."""
    return tuple(line.replace("MASK", str(passport["mask"])) for line in LOAD_LINES[passport["strategy"]])


def _summary(passport: Mapping[str, Any]) -> str:
    generator = " Its generator, which fills masked places, lies in `generator/` and loads with `AutoModelForMaskedLM`."
    generator = generator if passport["strategy"] == "replaced_token" else ""
    return (
        f"{DOES[passport['strategy']]}: `{passport['architecture']}`, pretrained with the objective `{passport['strategy']}` on "
        f"plain text, for inputs of up to {passport['max_length']} tokens. Fine-tuning starts from it as it is.{generator}"
    )
