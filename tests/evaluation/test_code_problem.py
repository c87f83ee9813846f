"""Reference solutions of HumanEval and MBPP pass; forged ones do not."""

import concurrent.futures
import json
import lzma
import pathlib

import pytest

from keras_textdiff.evaluation import Sandbox, SandboxUnavailable, code_problem

pytestmark = pytest.mark.backend_free

DATA = pathlib.Path(__file__).parents[2] / "../shared/data/code_tasks"
# MBPP's references whose results or arguments are special: of other types (Counter, defaultdict,
# set, complex, match objects, classes), of the solution's own classes, named like a built-in.
HARD = {88, 902, 653, 473, 642, 945, 590, 737, 787, 794, 533, 601, 927, 126, 596, 861, 864}
# HumanEval's whose tests use a helper of the prompt.
HELPERS = {"HumanEval/10", "HumanEval/32", "HumanEval/38", "HumanEval/50"}
FAILING = {}  # id: reason


def rows(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def sandbox():
    try:
        return Sandbox(wall_seconds=20)
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "name, num_rows",
    [
        ("humaneval_visible.jsonl.xz", 20),
        ("mbpp_visible.jsonl.xz", 30),
        ("mbpp_sanitized_visible.jsonl.xz", 15),
    ],
)
def test_reference_solutions_pass(sandbox, name, num_rows):
    every = rows(name)
    special = [row for row in every if row["task_id"] in HARD | HELPERS]
    chosen = special + every[:: len(every) // num_rows]

    def run(row):
        program, tests, entry_point = code_problem(row)
        return row["task_id"], sandbox.run(program, tests, entry_point=entry_point)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, chosen))
    failed = {task: result.message for task, result in results if result.status != "pass"}
    assert failed.keys() == FAILING.keys() & {task for task, _ in results}, failed


HUMAN_EVAL = {
    "task_id": "HumanEval/x",
    "prompt": "import math\n\n\ndef encode(n: int) -> int:\n    return n + 5\n\n\n"
    'def decode(n: int) -> int:\n    """Undo encode."""\n',
    "entry_point": "decode",
    "canonical_solution": "    return n - 5\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    for n in range(10):\n"
    "        assert candidate(encode(n)) == n\n    assert math.floor(candidate(5)) == 0\n",
}
MBPP = {
    "task_id": 1,
    "text": "Write a function to find the height of a tree.",
    "code": "class Node:\n    def __init__(self): self.next = None\n"
    "def height(node): return 1 + height(node.next) if node else 0",
    "test_setup_code": "root = Node()\nroot.next = Node()",
    "test_list": ["assert height(root) == 2", "assert (height(None)) == 0"],
    "challenge_test_list": ["assert height(root.next) == 1"],
}


def status(sandbox, row, completion=None):
    program, tests, entry_point = code_problem(row, completion)
    return sandbox.run(program, tests, entry_point=entry_point).status


def test_human_eval(sandbox):
    assert status(sandbox, HUMAN_EVAL) == "pass"
    assert status(sandbox, HUMAN_EVAL, "    return n - 4\n") == "fail"
    # Neither a helper of its own nor a `check` of its own is asked.
    forged = "    return n\n\ndef encode(n):\n    return n\n\ndef check(candidate):\n    pass\n"
    assert status(sandbox, HUMAN_EVAL, forged) == "fail"


def test_mbpp(sandbox):
    assert status(sandbox, MBPP) == "pass"
    assert status(sandbox, MBPP, MBPP["code"].replace("1 +", "2 +")) == "fail"
    assert status(sandbox, MBPP, "def height(node): return 2") == "error"  # without Node
    program, tests, entry_point = code_problem(MBPP, "x = 1")
    assert (program, entry_point, len(tests)) == ("x = 1", "height", 4)


def test_sanitized_mbpp(sandbox):
    row = {**MBPP, "prompt": MBPP["text"], "test_imports": ["import math"]}
    del row["challenge_test_list"], row["test_setup_code"], row["text"]
    row["test_list"] = ["assert math.isclose(height(None), 0)"]
    assert code_problem(row)[1:] == (["import math", *row["test_list"]], "height")
    assert status(sandbox, row) == "pass"


def test_other_rows_are_refused():
    with pytest.raises(ValueError, match="keys of HumanEval or MBPP"):
        code_problem({"question": "", "answer": ""})
    with pytest.raises(ValueError, match="No test calls a function"):
        code_problem({**MBPP, "code": "x = 1"})
    with pytest.raises(ValueError, match="does not begin 'encrypt'"):
        code_problem({**HUMAN_EVAL, "entry_point": "encrypt"})
