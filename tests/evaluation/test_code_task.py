"""Programs from completions, and their tests; `test_evaluate` has a model write them."""

import contextlib
import io
import pathlib
import types

import pytest

from keras_textdiff.evaluation import CodeTask, read_examples
from keras_textdiff.evaluation.code_format import FORMATS, called_function, cut, unfence

pytestmark = pytest.mark.backend_free

DATA = pathlib.Path(__file__).parents[2] / "../shared/data/code_tasks"
MBPP = {
    "task_id": 3,
    "text": "Write a function to add two numbers.",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
    "test_setup_code": "import math",
}
HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def add(x, y):\n",
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}


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
    code_format = FORMATS[format]
    for problem in read_examples(DATA / name):
        code = problem[solution]
        plain = code_format.program(problem, "", code)
        for more in ("\nprint(1)\n(", "\n```\nThis adds.", "\nassert broken("):
            assert code_format.program(problem, "", code.rstrip() + more).split() == plain.split()
        assert "".join(code.split()) in "".join(plain.split()), problem["task_id"]
        assert f"def {code_format.entry_point(problem)}(" in plain.replace(" (", "(")


def test_statuses_and_one_run_for_equal_programs():
    runner = Runner()
    task = CodeTask([MBPP, {**MBPP, "task_id": 4}], runner, num_samples=3, k=(1, 3))
    good, wrong = "def add(x, y): return x + y", "def add(x, y): return x"
    calls = []
    statuses = task.run_tests(
        [[good, wrong, good], ["def add(:", wrong, "def sub(): 0"]],
        lambda *call: calls.append(call),
    )
    assert statuses == [["pass", "fail", "pass"], ["error", "fail", "error"]]
    assert sorted(runner.programs) == sorted([good, wrong, wrong, "def add(:", "def sub(): 0"])
    assert calls == [("testing", done, 5) for done in range(1, 6)]


def test_mbpp_prompt_and_program():
    task = CodeTask([MBPP], Runner())
    assert task.prompts == [
        '"""\n' + MBPP["text"] + "\n" + "\n".join(MBPP["test_list"]) + '\n"""\n'
    ]
    sanitized = {**MBPP, "prompt": MBPP["text"], "test_imports": ["import re"]}
    del sanitized["text"]
    assert CodeTask([sanitized], Runner()).prompts == task.prompts
    completion = (
        "def helper(x):\n    return x\n\ndef add(x, y):\n    return x + y\n\nprint(add(1, 2))"
    )
    program = FORMATS["mbpp"].program(sanitized, task.prompts[0], completion)
    assert program.startswith("import re\nimport math\ndef helper(x):")
    assert "print" not in program
    assert task.run_tests([[program]]) == [["pass"]]


def test_human_eval_prompt_and_program():
    task = CodeTask([HUMAN_EVAL], Runner(), format="human_eval")
    assert task.prompts == [HUMAN_EVAL["prompt"]]
    programs = [
        FORMATS["human_eval"].program(HUMAN_EVAL, "", completion)
        for completion in ("    return x + y\n\ndef other():\n    pass", "    return x", "    (")
    ]
    assert "other" not in programs[0]
    assert task.run_tests([programs]) == [["pass", "fail", "error"]]


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


def test_called_function():
    assert called_function("assert set(similar((1, 2))) == set((1,))") == "similar"
    assert called_function("assert math.isclose(area(2), 4)") == "area"
    assert called_function("assert sum(10, 15) == 6") == "sum"  # a problem of MBPP
    with pytest.raises(ValueError, match="calls no function"):
        called_function("assert 1")


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
        ({"examples": [{"task_id": 1}]}, "test_list"),
        ({"examples": [{**MBPP, "test_list": []}]}, "Problem 3"),
        ({"examples": [{**MBPP, "test_list": ["assert ("]}]}, "Problem 3"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"examples": [MBPP], **change}
    with pytest.raises(ValueError, match=message):
        CodeTask(arguments.pop("examples"), Runner(), **arguments)
