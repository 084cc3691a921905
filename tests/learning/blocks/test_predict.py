"""Predicting from a published folder: the libraries' own numbers, independent of neighbours, and nothing hostile loaded."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tiny_classifiers import WORDS, write_classifier, write_passport, write_pooled_classifier, write_word_classifier
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.predict import load_classifier, softmax
from transfer_learning.errors import BadInput, OutOfMemory

LABELS = ["sport", "money", "culture"]
WRITERS = {"transformers": write_classifier, "sentence_transformers": write_pooled_classifier}


def sentences(count, longest=40):
    choice = random.Random(0)
    return [" ".join(choice.choices(WORDS, k=choice.randint(1, longest))) for _ in range(count)]


@pytest.fixture(params=WRITERS)
def folder(request, tmp_path):
    return WRITERS[request.param](tmp_path / "model", LABELS)


def test_a_rows_result_is_bit_identical_alone_and_in_a_batch(folder):
    classifier, texts = load_classifier(folder), sentences(60)

    together = classifier.probabilities(texts)
    alone = np.concatenate([classifier.probabilities([text]) for text in texts])
    backwards = classifier.probabilities(texts[::-1])[::-1]

    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)
    assert len(np.unique(together, axis=0)) > 50


def test_what_does_not_fit_into_memory_is_seen_in_halves(folder, monkeypatch):
    classifier, texts, told = load_classifier(folder), sentences(60), []
    expected, sizes = classifier.probabilities(texts), []
    run = TextClassifier.features

    def cramped(model, batch):
        sizes.append(len(batch["input_ids"]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(model, batch)

    monkeypatch.setattr(TextClassifier, "features", cramped)

    assert np.array_equal(classifier.probabilities(texts, on_rows=told.append), expected)
    assert max(sizes) > 3
    assert told == sorted(set(told))
    assert told[-1] == 60


def test_a_single_row_that_does_not_fit_is_one_clear_line(folder, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    classifier = load_classifier(folder)
    monkeypatch.setattr(TextClassifier, "features", full)

    with pytest.raises(OutOfMemory, match=r"^OUT_OF_MEMORY a single row does not fit"):
        classifier.probabilities(["a film"])


def change(path, name):
    weights = load_file(path)
    weights[name].view(-1)[0] += 1e-3
    save_file(weights, path, metadata={"format": "pt"})


def test_two_heads_on_the_same_frozen_backbone_look_once(tmp_path):
    one, other = (write_pooled_classifier(tmp_path / name, LABELS) for name in ("one", "other"))
    change(other / "2_Dense" / "model.safetensors", "linear.weight")
    first, second, texts = load_classifier(one), load_classifier(other), sentences(20)
    seen, rows = first.see(texts), []

    shared = second.see(texts, known=seen, on_rows=rows.append)

    assert shared is seen
    assert rows == [20]
    assert np.array_equal(second.judge(shared), second.probabilities(texts))
    assert not np.array_equal(second.judge(shared), first.judge(seen))


@pytest.mark.parametrize("difference", ["weights", "length", "texts", "head of the architecture"])
def test_what_another_backbone_saw_is_not_taken(tmp_path, difference):
    kind = "transformers" if difference.startswith("head") else "sentence_transformers"
    one, other = (WRITERS[kind](tmp_path / name, LABELS) for name in ("one", "other"))
    if difference == "weights":
        change(other / "model.safetensors", "embeddings.LayerNorm.bias")
    first, second, texts = load_classifier(one), load_classifier(other), sentences(20)
    if difference == "length":
        second.max_length = 16
    seen = first.see(texts)
    texts = texts[::-1] if difference == "texts" else texts

    assert second.see(texts, known=seen) is not seen


def test_the_answers_are_those_of_the_plain_library(tmp_path):
    folder, text = write_classifier(tmp_path / "model", LABELS), " ".join(WORDS * 5)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        expected = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=32)).logits

    found = load_classifier(folder).probabilities([text])

    assert np.allclose(found, softmax(expected.double().numpy()), atol=1e-6)


def test_a_pooled_head_is_the_linear_layer_on_the_mean_state(tmp_path):
    folder = write_word_classifier(tmp_path / "model", {"bank": "money", "film": "culture"}, LABELS)

    classifier = load_classifier(folder)
    probabilities = classifier.probabilities(["goal", "bank", "film", "unheard"])

    assert [classifier.labels[i] for i in probabilities.argmax(axis=1)] == ["sport", "money", "culture", "sport"]
    assert np.allclose(probabilities.sum(axis=1), 1)


def test_pairs_are_read_together(folder):
    classifier = load_classifier(folder)

    one, other = classifier.probabilities(["goal match", "goal match"], ["bank", "vote law"])

    assert not np.array_equal(one, other)


def test_texts_are_cut_to_the_length_trained_with(folder):
    classifier = load_classifier(folder)
    long = " ".join(WORDS * 10)

    assert classifier.max_length == 32
    assert np.array_equal(classifier.probabilities([long]), classifier.probabilities([long + " goal"]))


def test_a_plain_folder_without_passport_loads_with_its_own_labels(tmp_path):
    folder = write_classifier(tmp_path / "model", LABELS, passport=False)

    assert load_classifier(folder).labels == LABELS


def test_nothing_to_predict_is_an_empty_table(folder):
    assert load_classifier(folder).probabilities([]).shape == (0, 3)


def test_progress_counts_rows_and_may_end_the_prediction(folder):
    done = []

    load_classifier(folder).probabilities(sentences(30), on_rows=done.append)

    assert done == sorted(done)
    assert done[-1] == 30


def rewrite(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def hostile_config(**keys):
    return lambda folder: rewrite(folder / "config.json", lambda values: values.update(keys))


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def pickled_shard(folder):
    (folder / "model.safetensors").unlink()
    (folder / "evil.bin").write_bytes(b"cos\nsystem\n(S'exit'\ntR.")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": "evil.bin"}}))
    save_file({"a": torch.zeros(1)}, folder / "extra.safetensors")


def outside_shard(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "../model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.zeros(1)}, folder / "extra.safetensors")


def oversize_header(folder):
    (folder / "model.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


def doubled_tensor(folder):
    one = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b"{" + one + b"," + one + b"}"
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def nan_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def headless(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "classifier" not in k}, folder / "model.safetensors", metadata={"format": "pt"}
    )


def head_elsewhere(folder):
    head = {"linear.weight": torch.zeros(3, 16), "linear.bias": torch.zeros(3)}
    save_file(head, folder.parent / "head.safetensors")
    write_passport(folder, LABELS, "sentence_transformers", "mean", "../head.safetensors")


def cut_head(folder):
    path = folder / "head" / "model.safetensors"
    path.parent.mkdir()
    save_file({"linear.weight": torch.zeros(3, 16), "linear.bias": torch.zeros(3)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    write_passport(folder, LABELS, "sentence_transformers", "mean", "head/model.safetensors")


def broken_passport(folder):
    (folder / "passport.json").write_text("{")


def unknown_format(folder):
    write_passport(folder, LABELS, "native", "mean", "x")


def choice_without_strategy(folder):
    write_passport(folder, LABELS, "transformers", "architecture", "model.safetensors")
    told = json.loads((folder / "passport.json").read_text())
    (folder / "passport.json").write_text(json.dumps(told | {"choice": {"sentences": ["So: full."]}}))


def doubled_label(folder):
    write_passport(folder, ["sport", "sport", "culture"], "transformers", "architecture", "model.safetensors")


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (hostile_config(auto_map={"AutoModel": "evil.Model"}), "REMOTE_CODE"),
        (hostile_config(_attn_implementation="org/evil-kernel"), "REMOTE_CODE"),
        (hostile_config(_attn_implementation_internal="org/evil-kernel"), "REMOTE_CODE"),
        (pickled, "NO_SAFETENSORS"),
        (pickled_shard, "BAD_WEIGHTS"),
        (outside_shard, "BAD_WEIGHTS"),
        (oversize_header, "BAD_WEIGHTS"),
        (doubled_tensor, "BAD_WEIGHTS"),
        (nan_weights, "BAD_WEIGHTS"),
        (headless, "NO_HEAD"),
        (head_elsewhere, "NO_HEAD"),
        (cut_head, "BAD_WEIGHTS"),
        (broken_passport, "BAD_PASSPORT"),
        (unknown_format, "BAD_PASSPORT"),
        (doubled_label, "BAD_PASSPORT"),
        (choice_without_strategy, "BAD_PASSPORT"),
    ],
)
def test_a_folder_that_cannot_be_trusted_is_refused_in_one_line(tmp_path, harm, code):
    folder = write_classifier(tmp_path / "model", LABELS)
    harm(folder)

    with pytest.raises(BadInput) as caught:
        load_classifier(folder)

    assert caught.value.code == code
    assert "\n" not in str(caught.value)
