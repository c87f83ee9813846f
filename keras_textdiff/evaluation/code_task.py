"""Programming problems, scored by running the programs."""

import collections
import concurrent.futures
import os
import warnings

from keras_textdiff.evaluation.code_format import FORMATS
from keras_textdiff.evaluation.code_problem import code_problem
from keras_textdiff.evaluation.evaluation_task import EvaluationTask, TaskResult
from keras_textdiff.evaluation.generate_texts import generate_texts
from keras_textdiff.evaluation.pass_at_k import pass_at_k
from keras_textdiff.evaluation.prompts import check_response_length, fill_prompts
from keras_textdiff.evaluation.read_examples import check_keys, read_examples
from keras_textdiff.evaluation.rows import report
from keras_textdiff.evaluation.sandbox.sandbox import Sandbox
from keras_textdiff.utils.checks import check_choice, check_integer


class CodeTask(EvaluationTask):
    """Writes Python programs and scores them by their tests.

    A completion is cut where the program ends: at the first line that begins something else (a
    test, a call of print, a Markdown fence; behind a HumanEval function body also another
    function or class). A HumanEval program begins with the problem's own prompt, an MBPP
    program does not.

    Args:
        examples: list of problems, dicts with the original keys of MBPP, sanitized MBPP or
            HumanEval, or the path of a file of them, see `read_examples`. MBPP's challenge
            tests are left out, as usual. MBPP's test problems are those with a task_id from 11
            to 510.
        format: "mbpp" or "human_eval".
        sandbox: `Sandbox` that runs the programs; None for one with the default limits.
        prompt: str, template of the prompt; its fields in braces are keys of a problem, and for
            MBPP "text" and "tests". None gives the description and the tests as a docstring
            (MBPP), or the problem's own prompt (HumanEval).
        num_samples: int n, programs per problem, each with a seed of its own.
        k: int or tuple of ints, at most `num_samples`.
        response_length: int or None, tokens for each program; None lets it fill the model's
            `sequence_length`, as in training.
        num_workers: int or None, programs that run at a time; None for one per CPU.

    Metrics: "pass@k" for each k, percent, the mean over problems of `pass_at_k`. How often each
    status came up is among the details.

    Raises:
        ValueError: for a missing file, a problem without its keys or tests, or a `k` above
            `num_samples`.
        SandboxUnavailable: where programs cannot be isolated.

    Example:
    ```python
    task = keras_textdiff.evaluation.CodeTask(
        "mbpp.jsonl", "mbpp", num_samples=80, k=(1, 80)
    )
    keras_textdiff.evaluation.evaluate(lm, task)
    ```

    Reference: Austin et al. 2021, arXiv 2108.07732 (MBPP); Chen et al. 2021, arXiv 2107.03374
    (HumanEval, pass@k).
    """

    def __init__(
        self,
        examples,
        format,
        *,
        sandbox=None,
        prompt=None,
        num_samples=1,
        k=1,
        response_length=None,
        num_workers=None,
    ):
        self.format = FORMATS[check_choice("format", format, sorted(FORMATS))]
        self.examples = read_examples(examples, self.format.file)
        check_keys(self.examples, self.format.keys, f"the format {format!r}")
        # The challenge tests are no part of what is reported for MBPP.
        self.problems = [_read({**row, "challenge_test_list": ()}) for row in self.examples]
        template = self.format.prompt if prompt is None else prompt
        self.prompts = fill_prompts(template, [self.format.fields(row) for row in self.examples])
        self.num_samples = check_integer("num_samples", num_samples, minimum=1)
        k = (k,) if isinstance(k, int) else tuple(k)
        self.k = [check_integer("k", size, minimum=1, maximum=self.num_samples) for size in k]
        self.response_length = check_response_length(response_length)
        num_workers = os.cpu_count() if num_workers is None else num_workers
        self.num_workers = check_integer("num_workers", num_workers, minimum=1)
        self.sandbox = Sandbox() if sandbox is None else sandbox

    def run(self, lm, *, batch_size, seed, progress):
        """Write and test all programs, see `EvaluationTask`."""
        texts = generate_texts(
            lm,
            self.prompts,
            response_length=self.response_length,
            num_samples=self.num_samples,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        completions = [[self.format.cut(text) for text in samples] for samples in texts]
        statuses = self.run_tests(completions, progress)
        correct = [row.count("pass") for row in statuses]
        metrics = {}
        for k in self.k:
            shares = [
                pass_at_k(num_samples=self.num_samples, num_correct=count, k=k) for count in correct
            ]
            metrics[f"pass@{k}"] = 100.0 * sum(shares) / len(shares)
        counts = collections.Counter(status for row in statuses for status in row)
        details = {
            "examples": len(self.examples),
            "samples per example": self.num_samples,
            "statuses": dict(counts.most_common()),
        }
        outputs = [
            {
                "task_id": example["task_id"],
                "prompt": prompt,
                "completions": row,
                "statuses": results,
            }
            for example, prompt, row, results in zip(
                self.examples, self.prompts, completions, statuses, strict=True
            )
        ]
        return TaskResult(metrics, details, outputs)

    def run_tests(self, completions, progress=None):
        """Run completions against their problems' tests, equal ones once.

        Args:
            completions: list with a list of strings per problem, see `code_problem`.
            progress: callable `(stage, done, total)` or None.

        Returns:
            List with a list of statuses per problem, see `Sandbox.run`.
        """
        jobs = dict.fromkeys((index, text) for index, row in enumerate(completions) for text in row)
        tell = report(progress, "testing", len(jobs))
        with concurrent.futures.ThreadPoolExecutor(self.num_workers) as pool:
            futures = {pool.submit(self._run_one, *job): job for job in jobs}
            try:
                for done, future in enumerate(concurrent.futures.as_completed(futures), start=1):
                    jobs[futures[future]] = future.result().status
                    if tell is not None:
                        tell(done)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # the rest would run before the error is seen
                raise
        return [[jobs[index, text] for text in row] for index, row in enumerate(completions)]

    def _run_one(self, index, completion):
        start, tests, entry_point = self.problems[index]
        return self.sandbox.run(start + completion, tests, entry_point=entry_point)


def _read(problem):
    """Return what a problem's program begins with, its tests and its entry point."""
    try:
        with warnings.catch_warnings():  # Python warns of escapes in the benchmarks' own code
            warnings.simplefilter("ignore")
            return code_problem(problem, "")
    except (AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"Problem {problem['task_id']!r} has no usable tests: {error}") from error
