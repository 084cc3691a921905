"""Models of a few thousand parameters, written as the project publishes them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

WORDS = ("goal", "match", "team", "bank", "profit", "market", "film", "music", "star", "vote", "law", "minister")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_tokenizer(folder: Path) -> int:
    """Write a word tokenizer and return the size of its vocabulary."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **names).save_pretrained(folder)
    return len(vocabulary)


def config(vocabulary: int, labels: list[str]) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )


def write_classifier(folder: Path, labels: list[str], seed: int = 0, passport: bool = True) -> Path:
    """Write a plain BertForSequenceClassification whose answers differ from text to text."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = BertForSequenceClassification(config(write_tokenizer(folder), labels))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5)
    model.save_pretrained(folder)
    if passport:
        write_passport(folder, labels, "transformers", "architecture", "model.safetensors")
    return folder


def write_pooled_classifier(folder: Path, labels: list[str], seed: int = 0) -> Path:
    """Write encoder, mean pooling and linear layer in the layout of sentence-transformers."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = BertModel(config(write_tokenizer(folder), labels), add_pooling_layer=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5)
    model.save_pretrained(folder)
    (folder / "2_Dense").mkdir()
    weights = {"linear.weight": torch.randn(len(labels), 16), "linear.bias": torch.randn(len(labels))}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    write_passport(folder, labels, "sentence_transformers", "mean", "2_Dense/model.safetensors")
    return folder


def write_word_classifier(folder: Path, answers: dict[str, str], labels: list[str]) -> Path:
    """Write a pooled classifier whose answer to a text of one known word is ``answers[word]``; any other word means labels[0].

    The encoder's layers add nothing, so a state is its word's own embedding, and the linear layer reads the word off it.
    """
    folder.mkdir(parents=True)
    vocabulary = write_tokenizer(folder)
    width = 24
    shape = config(vocabulary, labels)
    shape.hidden_size = width
    model = BertModel(shape, add_pooling_layer=False)
    weight = torch.zeros(len(labels), width)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name:
                parameter.zero_()
        model.embeddings.word_embeddings.weight.copy_(torch.eye(vocabulary, width))
        for place, word in enumerate(WORDS, start=len(SPECIAL)):
            weight[labels.index(answers.get(word, labels[0])), place] = 2.0
    model.save_pretrained(folder)
    (folder / "2_Dense").mkdir()
    # A normalised one-hot vector of 24 is 4.80 at its place and -0.21 elsewhere: the bias takes out what the other words add.
    bias = weight.sum(dim=1) / 23**0.5
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    write_passport(folder, labels, "sentence_transformers", "mean", "2_Dense/model.safetensors")
    return folder


def write_passport(folder: Path, labels: list[str], kind: str, pooling: str, file: str) -> None:
    head = {"name": "label", "kind": "classification", "labels": labels, "pooling": pooling, "layers": [-1], "file": file}
    passport = {"format": 1, "model_format": kind, "labels": labels, "max_length": 32, "heads": [head]}
    (folder / "passport.json").write_text(json.dumps(passport))
