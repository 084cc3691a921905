"""What a skilled user would write with the peers' own tools. Runs in an environment of its own, without this project.

``python peers.py JOB.json`` prints one JSON line. ``seconds`` is the work without the start of the interpreter and its imports:
loading the model, tokenising, computing; never the judging. Where there is an accelerator all of them use it, as we do.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


def encode(job: dict[str, Any]) -> dict[str, Any]:
    """Embed texts with ``SentenceTransformer.encode``, as it comes or with its model in bf16."""
    from sentence_transformers import SentenceTransformer, models

    started = time.monotonic()
    transformer = models.Transformer(job["base"], max_seq_length=job["max_length"])
    model = SentenceTransformer(modules=[transformer, models.Pooling(transformer.get_word_embedding_dimension())])
    if job["bf16"]:
        model.bfloat16()
    vectors = model.encode(job["texts"], show_progress_bar=False, convert_to_tensor=True).float().cpu().numpy()
    seconds = time.monotonic() - started
    np.save(job["out"], vectors)
    return {"seconds": seconds, "rows": len(vectors)}


def trainer(job: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune with ``Trainer``: as it comes, or with the faster attention, bf16 and batches of like length.

    The ``frozen`` lower layers do not train.
    """
    import datasets
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    rows = json.loads(Path(job["rows"]).read_text())
    labels = sorted({label for _, label in rows["train"]})
    datasets.disable_progress_bars()
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    kind = {"attn_implementation": _attention()} if job["best"] else {}
    model = AutoModelForSequenceClassification.from_pretrained(job["base"], num_labels=len(labels), **kind)
    if job["frozen"]:
        lower = [model.base_model.embeddings, *model.base_model.encoder.layer[: job["frozen"]]]
        for parameter in (parameter for module in lower for parameter in module.parameters()):
            parameter.requires_grad_(False)

    def tokenized(part: list[list[str]]) -> Any:
        table = datasets.Dataset.from_dict({"text": [t for t, _ in part], "labels": [labels.index(name) for _, name in part]})
        cut = {"truncation": True, "max_length": rows["max_length"]}
        return table.map(lambda batch: tokenizer(batch["text"], **cut), batched=True, remove_columns=["text"])

    best = {"bf16": True, "train_sampling_strategy": "group_by_length"} if job["best"] else {}
    arguments = TrainingArguments(
        output_dir=job["out"],
        num_train_epochs=job["epochs"],
        per_device_train_batch_size=job["batch_size"],
        learning_rate=job["rate"],
        weight_decay=0.01,
        warmup_steps=0.1,
        seed=job["seed"],
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        **best,
    )
    train = tokenized(rows["train"])
    made = Trainer(model=model, args=arguments, train_dataset=train, data_collator=DataCollatorWithPadding(tokenizer))
    made.train()
    seconds = time.monotonic() - started
    if job.get("save"):
        made.save_model(job["save"])
        tokenizer.save_pretrained(job["save"])
    found = made.predict(tokenized(rows["test"]))  # in an order of its own where batches have like lengths
    return {"seconds": seconds, "accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def _attention() -> str:
    """Return the implementation that trains faster: on a processor "sdpa" knows no dropout, and its stand-in is slow."""
    return "sdpa" if torch.cuda.is_available() else "eager"


def language_model(job: dict[str, Any]) -> dict[str, Any]:
    """Go on with masked language modelling as ``run_mlm.py`` of transformers does: text grouped into full blocks, in bf16."""
    import datasets
    from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments

    datasets.disable_progress_bars()
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    model = AutoModelForMaskedLM.from_pretrained(job["base"], attn_implementation=_attention())

    def grouped(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: list(itertools.chain(*lists)) for name, lists in batch.items()}
        length, total = job["max_length"], len(joined["input_ids"])
        return {name: [tokens[i : i + length] for i in range(0, total - length + 1, length)] for name, tokens in joined.items()}

    table = datasets.Dataset.from_dict({"text": job["texts"]})
    tokens = table.map(
        lambda batch: tokenizer(batch["text"], return_special_tokens_mask=True), batched=True, remove_columns=["text"]
    )
    blocks = tokens.map(grouped, batched=True)
    ordinary = sum(len(mask) - sum(mask) for mask in blocks["special_tokens_mask"])
    arguments = TrainingArguments(
        output_dir=job["out"],
        max_steps=job["steps"],
        per_device_train_batch_size=job["batch_size"],
        learning_rate=job["rate"],
        weight_decay=0.01,
        warmup_steps=0.1,
        seed=job["seed"],
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    made = Trainer(model=model, args=arguments, train_dataset=blocks, data_collator=DataCollatorForLanguageModeling(tokenizer))
    training = time.monotonic()
    made.train()
    ended = time.monotonic()
    made.save_model(job["save"])
    tokenizer.save_pretrained(job["save"])
    return {"seconds": ended - started, "training_seconds": ended - training, "tokens": made.state.epoch * ordinary}


def setfit(job: dict[str, Any]) -> dict[str, Any]:
    """Train SetFit with its documented fixed number of pairs for each text."""
    import datasets
    from setfit import SetFitModel, Trainer, TrainingArguments

    rows = json.loads(Path(job["rows"]).read_text())
    labels = sorted({label for _, label in rows["train"]})
    started = time.monotonic()
    model = SetFitModel.from_pretrained(job["base"], labels=labels)
    model.model_body.max_seq_length = rows["max_length"]
    train = datasets.Dataset.from_dict({"text": [t for t, _ in rows["train"]], "label": [name for _, name in rows["train"]]})
    arguments = TrainingArguments(
        output_dir=job["out"], num_iterations=20, num_epochs=1, batch_size=16, seed=job["seed"], report_to="none"
    )
    Trainer(model=model, args=arguments, train_dataset=train).train()
    seconds = time.monotonic() - started
    answers = list(model.predict([text for text, _ in rows["test"]]))
    right = [str(answer) == label for answer, (_, label) in zip(answers, rows["test"], strict=True)]
    return {"seconds": seconds, "accuracy": sum(right) / len(right)}


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    torch.manual_seed(asked.get("seed", 0))
    tasks = {"encode": encode, "trainer": trainer, "language_model": language_model, "setfit": setfit}
    print("RESULT " + json.dumps(tasks[asked["task"]](asked)))
