"""One call from a model and a task to a table."""

import time

import keras

from keras_textdiff.evaluation.evaluation_report import EvaluationReport
from keras_textdiff.evaluation.evaluation_task import EvaluationTask
from keras_textdiff.evaluation.rows import check_class
from keras_textdiff.utils.checks import check_integer


def evaluate(lm, task, *, batch_size=32, seed=0, progress=None):
    """Evaluate a model on a task.

    Texts are generated with the sampler that the model was compiled with.

    Args:
        lm: `keras_textdiff.models.DiffusionLM`, `keras_textdiff.models.CausalLM` or
            `keras_hub.models.CausalLM`, with a preprocessor.
        task: `EvaluationTask`, for example `TranslationTask`.
        batch_size: int, prompts or rows at a time.
        seed: int of all that is drawn: the same seed gives the same table.
        progress: callable `(stage, done, total)`, called after each batch, or None.

    Returns:
        `EvaluationReport`.

    Raises:
        ValueError: for anything that is no task, or see the task.

    Example:
    ```python
    task = keras_textdiff.evaluation.TranslationTask([{"en": "Go.", "fr": "Va !"}])
    print(keras_textdiff.evaluation.evaluate(lm, task))
    ```
    """
    check_class(
        task,
        EvaluationTask,
        "`task` must be an EvaluationTask, such as keras_textdiff.evaluation.TranslationTask.",
    )
    check_integer("batch_size", batch_size, minimum=1)
    check_integer("seed", seed, minimum=0)
    start = time.perf_counter()
    result = task.run(lm, batch_size=batch_size, seed=seed, progress=progress)
    details = {
        **result.details,
        "seed": seed,
        "seconds": time.perf_counter() - start,
        "backend": keras.config.backend(),
    }
    return EvaluationReport(
        task=task.name,
        model=type(lm).__name__,
        metrics=result.metrics,
        details=details,
        outputs=result.outputs,
    )
