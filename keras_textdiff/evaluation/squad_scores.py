"""Exact match and F1 of question answering, as SQuAD v1.1 defines them."""

import collections
import re
import string

from absl import logging

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def squad_scores(predictions, references):
    """Score answers against all their references, like SQuAD's own evaluation of v1.1.

    Answers are compared in lower case, without punctuation, English articles and extra spaces.
    An answer counts by its best reference: exact match is 1 where they are equal; F1 is that
    of their words as bags.

    A question without a prediction scores 0 and is logged, and predictions of other questions
    are ignored, as in the official evaluation.

    Args:
        predictions: dict from question id to answer, a string.
        references: dict from question id to a list of one or more strings.

    Returns:
        Dict of "exact_match" and "f1", floats in percent: means over all of `references`.

    Raises:
        ValueError: for other types, empty references, or predictions that share no id with the
            references.

    Example:
    ```python
    keras_textdiff.evaluation.squad_scores({"q1": "The Seine"}, {"q1": ["Seine", "river Seine"]})
    # {"exact_match": 100.0, "f1": 100.0}
    ```

    Reference: Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1.
    """
    check_references(references)
    _check_predictions(predictions, references)
    missing = [question for question in references if question not in predictions]
    if missing:
        logging.warning(
            "%d of %d questions have no prediction and score 0: %s",
            len(missing),
            len(references),
            _shorten(missing),
        )
    exact_match = f1 = 0.0
    for question, answers in references.items():
        if question in predictions:
            prediction = _words(predictions[question])
            answers = [_words(answer) for answer in answers]
            exact_match += max(prediction == answer for answer in answers)
            f1 += max(_f1(prediction, answer) for answer in answers)
    return {
        "exact_match": 100.0 * exact_match / len(references),
        "f1": 100.0 * f1 / len(references),
    }


def _words(text):
    text = text.lower().translate(_PUNCTUATION)
    return _ARTICLES.sub(" ", text).split()


def _f1(prediction, answer):
    shared = sum((collections.Counter(prediction) & collections.Counter(answer)).values())
    if shared == 0:
        return 0.0
    precision = shared / len(prediction)
    recall = shared / len(answer)
    return 2 * precision * recall / (precision + recall)


def check_references(references):
    """Raise a ValueError unless `references` is a dict of lists of strings."""
    _check_dict("references", references)
    for question, answers in references.items():
        if not (
            isinstance(answers, (list, tuple))
            and answers
            and all(isinstance(answer, str) for answer in answers)
        ):
            raise ValueError(
                "References must be lists of one or more strings. Got "
                f"{answers!r} for {question!r}."
            )


def _check_predictions(predictions, references):
    _check_dict("predictions", predictions)
    for question, prediction in predictions.items():
        if not isinstance(prediction, str):
            raise ValueError(
                f"Predictions must be strings. Got {type(prediction).__name__} for {question!r}."
            )
    if not predictions.keys() & references.keys():
        raise ValueError(
            "None of the predictions belongs to a reference. Got predictions of "
            f"{_shorten(predictions)}, expected {_shorten(references)}."
        )


def _check_dict(name, value):
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a dict from question id. Got {type(value).__name__}.")
    if not value:
        raise ValueError(f"There is nothing to score: `{name}` is empty.")


def _shorten(names, limit=5):
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + rest
