"""The majority class and the bag of words."""

from transfer_learning.blocks.evaluation import baselines
from transfer_learning.blocks.evaluation.baselines import majority, tfidf

TEXTS = ["the cup final", "a late goal", "shares fell", "the bank said"]
LABELS = ["sport", "sport", "money", "money"]


def test_the_majority_class_answers_everywhere():
    found = majority(["b", "a", "b", "c"], 3)

    assert found.answers == ["b", "b", "b"]
    assert found.known == ["a", "b", "c"]
    assert found.rows == 4


def test_equally_frequent_labels_are_settled_by_name():
    assert majority(["b", "a"], 1).answers == ["a"]


def test_the_bag_of_words_learns_which_word_means_what():
    found = tfidf(TEXTS, LABELS, ["goal in the final", "bank shares"])

    assert found.answers == ["sport", "money"]
    assert found.known == ["money", "sport"]
    assert found.probabilities.shape == (2, 2)
    assert found.probabilities[0, 1] > 0.5


def test_words_of_one_character_count():
    assert tfidf(["x x", "y y"], ["a", "b"], ["y"]).answers == ["b"]


def test_one_label_or_no_words_give_no_bag_of_words():
    assert tfidf(TEXTS, ["sport"] * 4, ["goal"]) is None
    assert tfidf(["!", "?"], ["a", "b"], ["goal"]) is None


def test_of_very_many_rows_a_fixed_sample_is_used(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_ROWS", 3)

    assert tfidf(TEXTS, LABELS, ["goal"]).rows == 3
