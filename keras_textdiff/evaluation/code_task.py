"""Programming problems, scored by running the programs."""

import collections
import concurrent.futures
import os

from keras_textdiff.evaluation.code_format import FORMATS
from keras_textdiff.evaluation.evaluation_task import EvaluationTask, TaskResult
from keras_textdiff.evaluation.generate_texts import generate_texts
from keras_textdiff.evaluation.pass_at_k import pass_at_k
from keras_textdiff.evaluation.prompts import check_response_length, fill_prompts
from keras_textdiff.evaluation.read_examples import check_keys, read_examples
from keras_textdiff.evaluation.rows import report
from keras_textdiff.utils.checks import check_choice, check_integer


class CodeTask(EvaluationTask):
    """Writes Python programs and scores them by their tests.

    A completion is cut where the program ends: at the first line that begins something else (a
    test, a call of print, a Markdown fence; behind a HumanEval function body also another
    function or class). A HumanEval program begins with its prompt, an MBPP program does not.

    Args:
        examples: list of problems, dicts with the keys of MBPP ("text" or "prompt",
            "test_list", ...) or of HumanEval, or the path of a file of them, see
            `read_examples`.
        sandbox: runs the programs: an object with `run(program, tests, entry_point=...)` whose
            result has a `status`, "pass" where all tests passed.
        format: "mbpp" or "human_eval".
        prompt: str, template of the prompt; its fields in braces are keys of a problem, and for
            MBPP "text" and "tests". None gives the description and the tests as a docstring
            (MBPP), or the problem's own prompt (HumanEval).
        num_samples: int n, programs per problem, each with a seed of its own.
        k: int or tuple of ints, at most `num_samples`.
        response_length: int or None, tokens for each program; None lets it fill the model's
            `sequence_length`, as in training.
        num_workers: int, programs that run at a time; None for one per CPU.

    Metrics: "pass@k" for each k, percent, the mean over problems of `pass_at_k`. How often each
    status came up is among the details.

    Raises:
        ValueError: for a missing file, a problem without its keys or tests, or a `k` above
            `num_samples`.

    Example:
    ```python
    task = keras_textdiff.evaluation.CodeTask(
        "mbpp.jsonl", keras_textdiff.evaluation.Sandbox(), num_samples=80, k=(1, 80)
    )
    keras_textdiff.evaluation.evaluate(lm, task)
    ```

    Reference: Austin et al. 2021, arXiv 2108.07732 (MBPP); Chen et al. 2021, arXiv 2107.03374
    (HumanEval, pass@k).
    """

    def __init__(
        self,
        examples,
        sandbox,
        *,
        format="mbpp",
        prompt=None,
        num_samples=1,
        k=1,
        response_length=None,
        num_workers=None,
    ):
        self.format = FORMATS[check_choice("format", format, sorted(FORMATS))]
        files = {"mbpp": "MBPP's mbpp.jsonl", "human_eval": "HumanEval.jsonl.gz"}
        self.examples = read_examples(examples, files[format])
        check_keys(self.examples, self.format.keys, f"the format {format!r}")
        self.problems = [_problem(self.format, example) for example in self.examples]
        template = self.format.prompt if prompt is None else prompt
        self.prompts = fill_prompts(template, [self.format.fields(row) for row in self.examples])
        self.sandbox = sandbox
        self.num_samples = check_integer("num_samples", num_samples, minimum=1)
        k = (k,) if isinstance(k, int) else tuple(k)
        self.k = [check_integer("k", size, minimum=1, maximum=self.num_samples) for size in k]
        self.response_length = check_response_length(response_length)
        num_workers = os.cpu_count() if num_workers is None else num_workers
        self.num_workers = check_integer("num_workers", num_workers, minimum=1)

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
        programs = [
            [self.format.program(example, prompt, text) for text in samples]
            for example, prompt, samples in zip(self.examples, self.prompts, texts, strict=True)
        ]
        statuses = self.run_tests(programs, progress)
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
                "programs": row,
                "statuses": results,
            }
            for example, prompt, row, results in zip(
                self.examples, self.prompts, programs, statuses, strict=True
            )
        ]
        return TaskResult(metrics, details, outputs)

    def run_tests(self, programs, progress=None):
        """Run programs against their problems' tests, equal ones once.

        Args:
            programs: list with a list of programs per problem.
            progress: callable `(stage, done, total)` or None.

        Returns:
            List with a list of statuses per problem.
        """
        jobs = dict.fromkeys(
            (index, program) for index, row in enumerate(programs) for program in row
        )
        tell = report(progress, "testing", len(jobs))
        with concurrent.futures.ThreadPoolExecutor(self.num_workers) as pool:
            futures = {pool.submit(self._run_one, *job): job for job in jobs}
            for done, future in enumerate(concurrent.futures.as_completed(futures), start=1):
                jobs[futures[future]] = future.result().status
                if tell is not None:
                    tell(done)
        return [[jobs[index, program] for program in row] for index, row in enumerate(programs)]

    def _run_one(self, index, program):
        tests, entry_point = self.problems[index]
        return self.sandbox.run(program, tests, entry_point=entry_point)


def _problem(code_format, example):
    """Return a problem's tests and the name of the function that they test."""
    try:
        return code_format.tests(example), code_format.entry_point(example)
    except (IndexError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"Problem {example['task_id']!r} has no usable tests: {error}") from error
