"""The model card: README.md with the front matter that the hub reads, from the passport alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

LOAD_LINES = {
    "transformers": (
        "from transformers import pipeline",
        'classify = pipeline("text-classification", model="FOLDER", truncation=True)',
        "print(classify(TEXT))",
    ),
    "sentence_transformers": (
        "from sentence_transformers import SentenceTransformer",
        'model = SentenceTransformer("FOLDER")',
        "print(model[0].config.id2label[int(model.encode(TEXT).argmax())])",
    ),
    "adapter": (
        "import json",
        "from peft import PeftModel",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline",
        'labels = dict(enumerate(json.load(open("FOLDER/passport.json", encoding="utf-8"))["labels"]))',
        "base = AutoModelForSequenceClassification.from_pretrained(BASE, id2label=labels, ignore_mismatched_sizes=True)",
        'model = PeftModel.from_pretrained(base, "FOLDER").merge_and_unload()',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        'classify = pipeline("text-classification", model=model, tokenizer=tokenizer, truncation=True)',
        "print(classify(TEXT))",
    ),
}
"""Three lines for each format, and some more for adapters, which need their base; a test runs them in an interpreter without this
project."""

LIBRARIES = {"transformers": "transformers", "sentence_transformers": "sentence-transformers", "adapter": "peft"}
"""What the hub calls them."""

ADAPTERS = (
    "It is adapters and head alone, for the very base model named below: `BASE` is a folder with it. "
    'With `model.save_pretrained("MERGED")`, and the same of the tokenizer, these lines leave one plain model.'
)


def render(passport: Mapping[str, Any]) -> str:
    """Return the card of a published classifier."""
    return assemble(
        passport,
        front=_front_matter(passport),
        title="Text classifier",
        summary=_summary(passport),
        load=load_lines(passport),
        data=_data(passport),
        origin=_origin(passport),
    )


def assemble(
    passport: Mapping[str, Any],
    *,
    front: Mapping[str, Any],
    title: str,
    summary: str,
    load: Sequence[str],
    data: str,
    origin: Sequence[str],
) -> str:
    """Return the card of any published model.

    Args:
        passport: the model's.
        front: what the front matter tells beside license and base model.
        title: of a model without a name.
        summary: what the model does.
        load: the lines that load it.
        data: what it was trained on.
        origin: what it was made of, one sentence each.
    """
    sections = (
        _yaml(passport["base"], front, scratch=_from_scratch(passport)),
        f"# {passport.get('model') or title}\n\n{summary}",
        "## Load it\n\n```python\n" + "\n".join(load) + "\n```",
        f"## Data\n\n{data}",
        "## Metrics\n\n" + _table(("metric", "value"), passport["metrics"]),
        "## Settings\n\n" + _table(("setting", "value"), passport["settings"]),
        *_reasons(passport),
        "## Origin\n\n" + "\n".join(f"- {line}" for line in (*origin, *(f"Note: {note}." for note in passport["notes"]))),
        "## Arithmetic\n\n" + _table(("choice", "value"), passport["numerics"]),
    )
    return "\n\n".join(sections) + "\n"


def _reasons(passport: Mapping[str, Any]) -> list[str]:
    """Return the section that tells why ``auto`` chose as it did, if it did."""
    if "choice" not in passport:
        return []
    return ["## Why this strategy\n\n" + "\n".join(f"- {sentence}" for sentence in passport["choice"]["sentences"])]


def start_line(passport: Mapping[str, Any]) -> str:
    """Return what training started from."""
    if not passport["spec"].get("architecture"):
        return _base_line(passport["base"])
    tokenizer = passport.get("tokenizer")
    whose = "was trained from the same text" if tokenizer is None else f"is that of {_named(tokenizer)}"
    return f"From scratch: every weight started at random, and the tokenizer {whose}."


def _base_line(base: Mapping[str, Any]) -> str:
    """Return which base model it is."""
    return f"Base model: {_named(base)}."


def _named(base: Mapping[str, Any]) -> str:
    return f"`{base.get('uri') or 'a local folder'}`, digest `{base.get('digest') or 'not given'}`"


def _from_scratch(passport: Mapping[str, Any]) -> bool:
    """Return whether the base gave its architecture and tokenizer only."""
    return bool(passport["settings"].get("init_from") == "scratch")


def load_lines(passport: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the lines that load this model; a pair of texts goes in as a dict."""
    pairs = passport["task"].get("text_pair") is not None
    text = '{"text": "first text", "text_pair": "second text"}' if pairs else '"some text"'
    name, revision = hub_name(passport["base"])
    base = json.dumps(name or "BASE") + (f", revision={json.dumps(revision)}" if revision else "")
    return tuple(line.replace("TEXT", text).replace("BASE", base) for line in LOAD_LINES[passport["model_format"]])


def hub_name(base: Mapping[str, Any]) -> tuple[str, str]:
    """Return name and revision of a base model of the hub; empty for any other."""
    scheme, _, rest = str(base.get("uri") or "").partition("://")
    name, _, revision = rest.partition("@")
    return (name, revision) if scheme == "hf" else ("", "")


def _front_matter(passport: Mapping[str, Any]) -> dict[str, Any]:
    lines: dict[str, Any] = {
        "library_name": LIBRARIES[passport["model_format"]],
        "pipeline_tag": "text-classification",
        "tags": ["text-classification", "transfer-learning", passport["strategy"]],
    }
    accuracy = passport["metrics"].get("validation_accuracy")
    if accuracy is not None:
        result: dict[str, Any] = {"task": {"type": "text-classification"}, "dataset": _dataset(passport)}
        result["metrics"] = [{"type": "accuracy", "name": "validation accuracy", "value": accuracy}]
        lines["model-index"] = [{"name": passport.get("model") or "model", "results": [result]}]
    return lines


def _yaml(base: Mapping[str, Any], lines: Mapping[str, Any], *, scratch: bool) -> str:
    """Return YAML; every value is written as JSON, which is YAML too, so that no text can break out of its place."""
    known = dict(lines)
    if base.get("license"):
        known["license"] = base["license"]
    name, _ = hub_name(base)
    if name and not scratch:
        known["base_model"] = name
    return "---\n" + "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in known.items()) + "\n---"


def _dataset(passport: Mapping[str, Any]) -> dict[str, str]:
    name = str(passport["dataset"].get("name") or "unnamed")
    return {"name": name, "type": name}


def _summary(passport: Mapping[str, Any]) -> str:
    texts = "pairs of texts" if passport["task"].get("text_pair") else "texts"
    sorts = f"Sorts {texts} into {len(passport['labels'])} classes: {', '.join(passport['labels'])}."
    cut = f"on inputs of up to {passport['max_length']} tokens; longer ones are cut there."
    if passport["strategy"] == "supervised":
        transfer = "Fine-tuning that starts from it takes its backbone and throws this head away."
        return f"{sorts} The model of a source task, pretrained on its labels, {cut} {transfer}"
    how = "Trained from scratch" if _from_scratch(passport) else "Made by transfer learning"
    made = f"{sorts} {how}, strategy `{passport['strategy']}`, {cut}"
    return f"{made} {ADAPTERS}" if passport["model_format"] == "adapter" else made


def dataset_lines(passport: Mapping[str, Any]) -> list[str]:
    """Return what is known of the data, one sentence to a line."""
    dataset = passport["dataset"]
    named = (
        f"Dataset `{dataset['name']}`, snapshot `{dataset.get('digest', '')}`."
        if dataset.get("name")
        else "Dataset without a name."
    )
    splits = ", ".join(f"{split} {count}" for split, count in (dataset.get("splits") or {}).items())
    lines = [named, *([f"Rows by split in the snapshot: {splits}."] if splits else [])]
    return [*lines, *([f"Data as of {passport['as_of']}."] if passport.get("as_of") else [])]


def _data(passport: Mapping[str, Any]) -> str:
    counts = passport["label_counts"]
    rows = {label: " / ".join(str(counts[split].get(label, 0)) for split in counts) for label in passport["labels"]}
    return "\n".join(dataset_lines(passport)) + "\n\n" + _table(("label", " / ".join(counts)), rows)


def _origin(passport: Mapping[str, Any]) -> list[str]:
    base, frozen, scratch = passport["base"], passport["frozen"], _from_scratch(passport)
    lines = [start_line(passport)]
    if scratch:
        lines = [f"Random weights, drawn from seed {passport['settings']['seed']}; architecture and tokenizer: {_named(base)}."]
    if frozen["tensors"]:
        whose = "those that were drawn" if scratch else "those of the base model"
        lines.append(f"{frozen['tensors']} tensors were frozen; their hashes are {whose}.")
    if known := base.get("head_labels"):
        new = [label for label in passport["labels"] if label not in known]
        for_which = f"for {', '.join(known)}; new in it: {', '.join(new)}" if new else "for the same labels"
        lines.append(f"Training started from the base model's own head {for_which}.")
    return lines


def _table(head: tuple[str, str], values: Mapping[str, Any]) -> str:
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items()]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
