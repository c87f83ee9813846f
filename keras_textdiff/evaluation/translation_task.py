"""Translation, scored by BLEU."""

from keras_textdiff.evaluation.bleu import bleu, check_references, make_metric
from keras_textdiff.evaluation.evaluation_task import EvaluationTask, TaskResult
from keras_textdiff.evaluation.generate_texts import generate_texts
from keras_textdiff.evaluation.prompts import check_response_length, fill_prompts
from keras_textdiff.evaluation.read_examples import check_keys, read_examples


class TranslationTask(EvaluationTask):
    """Translates sentences and scores them by BLEU.

    Args:
        examples: list of dicts, or the path of a file of them, see `read_examples`.
        target: str, key of the translation in an example, a string or a list of strings.
        prompt: str, template of the prompt; its fields in braces are keys of an example, the
            sentence to translate among them.
        response_length: int or None, tokens for each translation; None lets it fill the model's
            `sequence_length`, as in training.
        tokenize: str, sacrebleu's tokenizer, see `bleu`.

    Metrics: "bleu", percent; its signature is among the details.

    Raises:
        ValueError: for a missing file, an example without its keys, or a field that no example
            has.

    Example:
    ```python
    task = keras_textdiff.evaluation.TranslationTask(
        [{"en": "Go.", "fr": "Va !"}], prompt="translate English to French: {en}"
    )
    keras_textdiff.evaluation.evaluate(lm, task)
    ```

    Reference: Han et al. 2024, arXiv 2401.17181, section 4; the prompt is that of Raffel et al.
    2019, arXiv 1910.10683, appendix D.
    """

    def __init__(
        self,
        examples,
        *,
        target="fr",
        prompt="translate English to French: {en}",
        response_length=None,
        tokenize="13a",
    ):
        self.examples = read_examples(
            examples, f"JSON lines with the source and, as {target!r}, its translation"
        )
        check_keys(self.examples, (target,), "translation")
        self.references = check_references([example[target] for example in self.examples])
        make_metric(tokenize)
        self.prompts = fill_prompts(prompt, self.examples)
        self.response_length = check_response_length(response_length)
        self.tokenize = tokenize

    def run(self, lm, *, batch_size, seed, progress):
        """Translate all examples, see `EvaluationTask`."""
        texts = generate_texts(
            lm,
            self.prompts,
            response_length=self.response_length,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        predictions = [samples[0].strip() for samples in texts]
        score = bleu(predictions, self.references, tokenize=self.tokenize)
        outputs = [
            {"prompt": prompt, "prediction": prediction, "references": references}
            for prompt, prediction, references in zip(
                self.prompts, predictions, self.references, strict=True
            )
        ]
        details = {"signature": score["signature"], "examples": len(outputs)}
        return TaskResult({"bleu": score["bleu"]}, details, outputs)
