"""Question answering, scored like SQuAD."""

from keras_textdiff.evaluation.evaluation_task import EvaluationTask, TaskResult
from keras_textdiff.evaluation.generate_texts import generate_texts
from keras_textdiff.evaluation.prompts import check_response_length, fill_prompts
from keras_textdiff.evaluation.read_examples import check_keys, read_examples
from keras_textdiff.evaluation.squad_scores import check_references, squad_scores


class QuestionAnsweringTask(EvaluationTask):
    """Answers questions about a context and scores them by exact match and F1.

    Args:
        examples: list of dicts with "question", "context" and "answers" (a list of strings),
            or the path of a file of them or of SQuAD's JSON, see `read_examples`.
        prompt: str, template of the prompt; its fields in braces are keys of an example.
        response_length: int or None, tokens for each answer; None lets it fill the model's
            `sequence_length`, as in training.

    Metrics: "exact_match" and "f1", percent, see `squad_scores`.

    Raises:
        ValueError: for a missing file, an example without its keys, or a field that no example
            has.

    Example:
    ```python
    task = keras_textdiff.evaluation.QuestionAnsweringTask("squad/dev-v1.1.json")
    keras_textdiff.evaluation.evaluate(lm, task)
    ```

    Reference: Han et al. 2024, arXiv 2401.17181, section 4; the prompt is that of Raffel et al.
    2019, arXiv 1910.10683, appendix D.
    """

    def __init__(
        self,
        examples,
        *,
        prompt="question: {question} context: {context}",
        response_length=None,
    ):
        self.examples = read_examples(examples, "SQuAD's JSON, such as dev-v1.1.json,")
        check_keys(self.examples, ("question", "context", "answers"), "question answering")
        # Ids may be missing or repeated; the position is enough.
        self.references = dict(enumerate(example["answers"] for example in self.examples))
        check_references(self.references)
        self.prompts = fill_prompts(prompt, self.examples)
        self.response_length = check_response_length(response_length)

    def run(self, lm, *, batch_size, seed, progress):
        """Answer all questions, see `EvaluationTask`."""
        texts = generate_texts(
            lm,
            self.prompts,
            response_length=self.response_length,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        predictions = {index: samples[0].strip() for index, samples in enumerate(texts)}
        outputs = [
            {
                "id": example.get("id", index),
                "prompt": self.prompts[index],
                "prediction": predictions[index],
                "answers": example["answers"],
            }
            for index, example in enumerate(self.examples)
        ]
        scores = squad_scores(predictions, self.references)
        return TaskResult(scores, {"examples": len(outputs)}, outputs)
