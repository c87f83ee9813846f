"""Programs from completions, and their tests; `test_evaluate` has a model write them."""

import contextlib
import io
import pathlib
import types

import pytest

from keras_textdiff.evaluation import CodeTask, Sandbox, SandboxUnavailable
from keras_textdiff.evaluation.code_format import cut, unfence
from keras_textdiff.evaluation.code_problem import code_problem

pytestmark = pytest.mark.backend_free

DATA = pathlib.Path(__file__).parents[2] / "../shared/data/code_tasks"
MBPP = {
    "task_id": 3,
    "text": "Write a function to add two numbers.",
    "code": "def add(x, y): return x + y",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == zero"],
    "test_setup_code": "zero = 0",
    "challenge_test_list": ["assert add('a', 1) == 'a1'"],
}
HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(x, y):\n    """Add."""\n',
    "canonical_solution": "    return x + y\n",
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}


def sandbox():
    try:
        return Sandbox(wall_seconds=10)
    except SandboxUnavailable as error:
        pytest.skip(str(error))


class Runner:
    """Runs trusted programs in this process."""

    def __init__(self):
        self.programs = []

    def run(self, program, tests, entry_point):
        self.programs.append(program)
        namespace = {"__name__": "program"}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(program, namespace)
                assert callable(namespace[entry_point])
                exec("\n".join(tests), namespace)
        except AssertionError:
            return types.SimpleNamespace(status="fail")
        except Exception:
            return types.SimpleNamespace(status="error")
        return types.SimpleNamespace(status="pass")


@pytest.mark.skipif(not DATA.exists(), reason="the programming problems are not here")
@pytest.mark.parametrize(
    ("name", "format", "solution"),
    [
        ("mbpp_visible.jsonl.xz", "mbpp", "code"),
        ("mbpp_sanitized_visible.jsonl.xz", "mbpp", "code"),
        ("humaneval_visible.jsonl.xz", "human_eval", "canonical_solution"),
    ],
)
def test_reference_solutions_survive_being_cut(name, format, solution):
    """Real programs are cut where they end, not before, whatever the model goes on to write."""
    task = CodeTask(DATA / name, format, sandbox=Runner())
    assert len(task.prompts) == len(task.examples) > 80
    for problem in task.examples:
        code = problem[solution].rstrip()
        assert task.format.cut(code) == code
        for more in ("\nprint(1)\n(", "\n```\nThis adds.", "\nassert broken("):
            assert task.format.cut(code + more).rstrip() == code


def test_statuses_and_one_run_for_equal_programs():
    runner = Runner()
    task = CodeTask([MBPP, {**MBPP, "task_id": 4}], "mbpp", sandbox=runner, num_samples=3, k=(1, 3))
    good, wrong = "def add(x, y): return x + y", "def add(x, y): return x"
    calls = []
    programs = [[good, wrong, good], ["def add(:", wrong, "def sub(): 0"]]
    statuses = task.run_tests(programs, lambda *call: calls.append(call))
    assert statuses == [["pass", "fail", "pass"], ["error", "fail", "error"]]
    assert sorted(runner.programs) == sorted([good, wrong, wrong, "def add(:", "def sub(): 0"])
    assert calls == [("testing", done, 5) for done in range(1, 6)]


def test_a_failing_sandbox_is_heard():
    class Broken:
        calls = 0

        def run(self, program, tests, entry_point):
            self.calls += 1
            raise RuntimeError("no sandbox today")

    broken = Broken()
    task = CodeTask([MBPP], "mbpp", sandbox=broken, num_samples=50, num_workers=1)
    with pytest.raises(RuntimeError, match="today"):
        task.run_tests([[f"def add(x, y): return {n}" for n in range(50)]])
    assert broken.calls < 50


def test_mbpp_in_the_sandbox():
    task = CodeTask([MBPP], "mbpp", sandbox=sandbox())
    quotes = '"""'
    assert task.prompts == ["\n".join([quotes, MBPP["text"], *MBPP["test_list"], quotes, ""])]
    helper = "def helper(x):\n    return x\n\n"
    completion = helper + "def add(x, y):\n    return helper(x) + y\n\nprint(add(1, 2))"
    assert task.format.cut(completion) == completion.removesuffix("\nprint(add(1, 2))")
    completions = [task.format.cut(completion), "def add(x, y):\n    return x", "def add(", ""]
    # The challenge test, which no completion passes, is left out.
    assert task.run_tests([completions]) == [["pass", "fail", "error", "error"]]


def test_sanitized_mbpp_has_the_same_prompt():
    sanitized = {**MBPP, "prompt": MBPP["text"], "test_imports": ["import re"]}
    del sanitized["text"]
    tasks = [CodeTask([row], "mbpp", sandbox=Runner()) for row in (MBPP, sanitized)]
    assert tasks[0].prompts == tasks[1].prompts
    assert code_problem(sanitized)[1][0] == "import re"


def test_human_eval_in_the_sandbox():
    task = CodeTask([HUMAN_EVAL], "human_eval", sandbox=sandbox())
    assert task.prompts == [HUMAN_EVAL["prompt"]]
    texts = ["    return x + y\n\ndef other(", "    return x", "    ("]
    completions = [task.format.cut(text) for text in texts]
    assert completions[0] == "    return x + y\n"
    assert task.run_tests([completions]) == [["pass", "fail", "error"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\nx = 1\n```\nThis is it.", "x = 1\n"),
        ("Here:\n```\nx = 1\n```", "x = 1\n"),
        ("x = 1\n", "x = 1\n"),
        ("x = 1\n```\nThis is it.\n", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
    ],
)
def test_unfence(text, expected):
    assert unfence(text) == expected


def test_cut_keeps_the_first_line():
    assert cut("def f():\n  x\ndef g():", ("def ",)) == "def f():\n  x"
    assert cut("a\n b\n", ("b",)) == "a\n b\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "apps"}, "format"),
        ({"num_samples": 0}, "num_samples"),
        ({"k": 2}, "`k`"),
        ({"k": (1, 0), "num_samples": 2}, "`k`"),
        ({"num_workers": 0}, "num_workers"),
        ({"response_length": 0}, "response_length"),
        ({"prompt": "{nothing}"}, "nothing"),
        ({"prompt": "no field"}, "at least one field"),
        ({"prompt": "{text"}, "template"),
        ({"examples": "nowhere/mbpp.jsonl"}, "Put MBPP"),
        ({"examples": [{"task_id": 1, "code": ""}]}, "test_list"),
        ({"examples": [{**MBPP, "test_list": []}]}, "Problem 3"),
        ({"examples": [HUMAN_EVAL]}, "test_list"),
        ({"examples": [{**MBPP, "test_list": ["assert ("]}]}, "Problem 3"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"examples": [MBPP], "format": "mbpp", "sandbox": Runner(), **change}
    with pytest.raises(ValueError, match=message):
        CodeTask(**arguments)
