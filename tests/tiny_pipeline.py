"""A base model of a few thousand weights and headlines that it can learn in seconds."""

import csv
import random
from pathlib import Path

WORDS = {
    "business": ["shares", "bank", "profit", "market", "oil", "price", "economy", "firm"],
    "sport": ["cup", "goal", "match", "team", "coach", "final", "league", "win"],
}
COMMON = ["the", "a", "to", "of", "new", "for", "in", "after"]
ROLES = {"text": "headline", "label": "topic", "id": "id"}
"""Of the columns of ``headlines``."""


def write_base(folder: Path) -> str:
    """Write a tiny BERT with random weights and return its URI."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COMMON, *WORDS["business"], *WORDS["sport"]]
    inner = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=32, **names).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    return folder.as_uri()


def headlines(count: int, seed: int, first_id: int = 0, noise: float = 0.0) -> list[dict[str, str]]:
    """Return labelled headlines; ``noise`` is the share of labels that are wrong."""
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        topic = ("business", "sport")[number % 2]
        words = generator.sample(WORDS[topic], 3) + generator.sample(COMMON, 2)
        generator.shuffle(words)
        told = topic if generator.random() >= noise else ("business" if topic == "sport" else "sport")
        rows.append({"id": f"h{first_id + number}", "headline": " ".join(words), "topic": told})
    return rows


def write_csv(path: Path, rows: list[dict[str, str]]) -> str:
    """Write rows and return the file's URI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path.as_uri()
