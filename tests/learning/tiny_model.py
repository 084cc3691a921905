"""Base models of a few thousand parameters, and labelled rows that they can learn. Offline, built from configs."""

import hashlib
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from transfer_learning.blocks.data.hashing import content_key, input_hash
from transfer_learning.hashes import fixed_binary

TOPICS = {
    "sport": ("goal", "match", "team", "cup"),
    "business": ("bank", "profit", "market", "price"),
    "film": ("actor", "film", "star", "scene"),
}
FILLERS = ("the", "a", "on", "new", "old", "big", "says", "in")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, *FILLERS, *(word for words in TOPICS.values() for word in words))
END = "<|endoftext|>"
POSITIONS = 48

SHARED = {"vocab_size": len(WORDS), "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "pad_token_id": 0}
CONFIGS = {
    "bert": BertConfig(**SHARED, num_hidden_layers=3, max_position_embeddings=POSITIONS),
    "roberta": RobertaConfig(**SHARED, num_hidden_layers=3, max_position_embeddings=POSITIONS + 1, type_vocab_size=1),
    "electra": ElectraConfig(**SHARED, num_hidden_layers=3, max_position_embeddings=POSITIONS, embedding_size=8),
    "albert": AlbertConfig(**SHARED, num_hidden_layers=3, max_position_embeddings=POSITIONS, embedding_size=8),
    "distilbert": DistilBertConfig(
        vocab_size=len(WORDS), dim=16, n_heads=2, hidden_dim=32, n_layers=3, max_position_embeddings=POSITIONS, pad_token_id=0
    ),
    "gpt2": GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_head=2, n_inner=32, n_layer=3, n_positions=POSITIONS, bos_token_id=0, eos_token_id=0
    ),
}


def write_base(folder: Path, kind: str = "bert") -> Path:
    """Write a headless base model with tokenizer, as ``save_pretrained`` does."""
    folder.mkdir(parents=True)
    write_tokenizer(folder, kind=kind)
    torch.manual_seed(7)
    model = AutoModel.from_config(CONFIGS[kind])
    enlarge(model)
    model.save_pretrained(folder)
    return folder


def enlarge(model: torch.nn.Module) -> None:
    """Draw larger matrices than usual, so that texts differ visibly in a model this small."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)


def write_tokenizer(folder: Path, extra: int = 0, kind: str = "bert") -> None:
    """Write a word tokenizer; ``extra`` words are more than the models embed. GPT-2's knows no padding and frames nothing."""
    words = (*WORDS, *(f"extra{i}" for i in range(extra)))
    if kind == "gpt2":
        plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate((END, *words[1:]))}, unk_token=END))
        plain.pre_tokenizer = pre_tokenizers.Whitespace()
        names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
        PreTrainedTokenizerFast(tokenizer_object=plain, model_max_length=POSITIONS, **names).save_pretrained(folder)
        return
    inner = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=POSITIONS, **names).save_pretrained(folder)


def make_rows(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return (text, topic): words of the topic among fillers, 3 to 20 of them."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        topic = sorted(TOPICS)[number % len(TOPICS)]
        words = rng.choices(FILLERS, k=rng.randint(1, 6)) + rng.choices(TOPICS[topic], k=rng.randint(2, 14))
        rng.shuffle(words)
        rows.append((" ".join(words), topic))
    return rows


def write_rows(
    folder: Path, rows: list[tuple[str, str]], *, parts: int = 1, labels: pa.DataType | None = None, pairs: bool = False
) -> Path:
    """Write rows as the Parquet parts of a snapshot's split."""
    folder.mkdir(parents=True)
    for part in range(parts):
        mine = rows[part::parts]
        columns = {
            "text": pa.array([text for text, _ in mine], type=pa.string()),
            "label": pa.array([label for _, label in mine], type=labels),
            "_row_key": keys("row", mine),
            "_row_hash": keys("hash", mine),
        }
        if pairs:
            columns["second"] = pa.array([f"{text.split()[0]} says" for text, _ in mine])
        columns["_input_hash"] = fixed_binary(input_hash(columns["text"], columns.get("second")))
        columns["_content_key"] = fixed_binary(content_key(columns["text"], columns.get("second")))
        pq.write_table(pa.table(columns), folder / f"{part:02d}.parquet")
    return folder


def keys(kind: str, rows: list[tuple[str, str]]) -> pa.Array:
    return pa.array([hashlib.sha256(f"{kind} {row}".encode()).digest() for row in rows], type=pa.binary(32))
