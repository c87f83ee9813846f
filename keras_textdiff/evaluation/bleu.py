"""BLEU, as sacrebleu computes it."""

from keras_textdiff.utils.checks import check_choice


def bleu(predictions, references, *, tokenize="13a"):
    """Score translations against references.

    Args:
        predictions: list of N strings.
        references: list of N strings, or of N lists with one or more strings each.
        tokenize: str, sacrebleu's tokenizer: "13a" for most languages, "intl", "zh", "char" ...

    Returns:
        Dict of "bleu" (float, percent) and "signature" (str), which says how the number was
        made and belongs beside it wherever it is reported.

    Raises:
        ValueError: for anything but as many strings as references, or an unknown tokenizer.
        ImportError: where sacrebleu is not installed.

    Example:
    ```python
    keras_textdiff.evaluation.bleu(["Va !"], ["Va !"])["bleu"]
    ```

    Reference: Post 2018, A Call for Clarity in Reporting BLEU Scores, arXiv 1804.08771.
    """
    references = check_references(references)
    _check_predictions(predictions, len(references))
    metric = make_metric(tokenize)
    # sacrebleu wants one list per reference number, with None where a sentence has fewer.
    count = max(map(len, references))
    streams = [[row[n] if n < len(row) else None for row in references] for n in range(count)]
    score = metric.corpus_score(predictions, streams)
    return {"bleu": score.score, "signature": str(metric.get_signature())}


def make_metric(tokenize):
    """Return sacrebleu's metric, or raise an error that says what is missing or wrong."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise ImportError(
            "BLEU needs sacrebleu. Install it with `pip install 'keras_textdiff[evaluation]'`."
        ) from error
    check_choice("tokenize", tokenize, sorted(BLEU.TOKENIZERS))
    return BLEU(tokenize=tokenize)


def check_references(references):
    """Return the references as lists of strings, or raise a ValueError that says what is wrong."""
    if not isinstance(references, (list, tuple)):
        raise ValueError(f"`references` must be a list. Got {type(references).__name__}.")
    if not references:
        raise ValueError("There is nothing to score: `references` is empty.")
    references = [[row] if isinstance(row, str) else row for row in references]
    for index, row in enumerate(references):
        if not (isinstance(row, (list, tuple)) and row and all(isinstance(x, str) for x in row)):
            raise ValueError(
                "References must be strings, or lists of one or more strings. Got "
                f"{row!r} at position {index}."
            )
    return references


def _check_predictions(predictions, count):
    if not isinstance(predictions, (list, tuple)):
        raise ValueError(f"`predictions` must be a list. Got {type(predictions).__name__}.")
    if len(predictions) != count:
        raise ValueError(
            f"Every prediction needs its references. Got {len(predictions)} predictions and "
            f"{count} references."
        )
    for index, prediction in enumerate(predictions):
        if not isinstance(prediction, str):
            raise ValueError(
                f"Predictions must be strings. Got {type(prediction).__name__} at position {index}."
            )
