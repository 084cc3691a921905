"""What a model must be measured against: the majority class and a bag of words, trained on the same rows."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

MOST_ROWS = 100_000
"""Training rows of the bag of words; of more, the first by row key, which is a hash: a fixed random sample."""

INVERSE_REGULARISATION = 10.0
"""``C``: TF-IDF rows have length 1, for which scikit-learn's own 1.0 is too strong a prior."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """A baseline's answers on the test rows."""

    answers: list[str]
    known: list[str]
    """Labels it can answer, in the order of the columns of ``probabilities``."""
    probabilities: NDArray[np.float64] | None
    rows: int
    """Rows it was trained on."""


def majority(labels: Sequence[str], test_rows: int) -> Answers:
    """Answer the most frequent training label everywhere; of equally frequent ones the first by name."""
    counts = Counter(labels)
    winner = min(counts, key=lambda label: (-counts[label], label))
    return Answers([winner] * test_rows, sorted(counts), None, len(labels))


def tfidf(texts: Sequence[str], labels: Sequence[str], test_texts: Sequence[str]) -> Answers | None:
    """Train TF-IDF (sublinear term frequency, single words) with logistic regression and answer the test rows.

    Args:
        texts: training texts, sorted by row key.
        labels: their labels.
        test_texts: texts to answer.

    Returns:
        None where the training rows have one label only, or no word at all.
    """
    texts, labels = texts[:MOST_ROWS], labels[:MOST_ROWS]
    if len(set(labels)) < 2:
        return None
    model = make_pipeline(
        # One-letter words count too: some scripts write whole words with one character.
        TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),  # noqa: S106 - no password
        LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000),
    )
    with warnings.catch_warnings(), threadpool_limits(1):  # threads that wait for each other cost more than they save here
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline that is nearly fitted is a baseline
        try:
            model.fit(texts, labels)
        except ValueError as error:
            if "empty vocabulary" in str(error):
                return None
            raise
    probabilities = np.asarray(model.predict_proba(test_texts), dtype=np.float64)
    known = [str(label) for label in model.classes_]
    return Answers([known[column] for column in probabilities.argmax(axis=1)], known, probabilities, len(labels))
