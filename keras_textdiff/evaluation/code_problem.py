"""Problems of HumanEval and MBPP, as the sandbox takes them."""

import re


def code_problem(row, completion=None):
    """Return a program, its tests and its entry point.

    What HumanEval's prompt defines beside the function to write (a helper, an import) belongs to
    the tests as well: a program that defines such a helper anew is not judged by its own version.

    Args:
        row: dict, a problem of HumanEval, MBPP or sanitized MBPP with the original keys.
        completion: str, what a model wrote: for HumanEval what follows "prompt", for MBPP a whole
            program. None takes the reference solution.

    Returns:
        Tuple (program, tests, entry_point): str, list of str and str, as `Sandbox.run` takes them.
        MBPP's tests are "test_list" and "challenge_test_list".

    Raises:
        ValueError: for a row of another kind.

    Example:
    ```python
    program, tests, entry_point = keras_textdiff.evaluation.code_problem(row, completion)
    keras_textdiff.evaluation.Sandbox().run(program, tests, entry_point=entry_point)
    ```

    Reference: Chen et al. 2021, arXiv 2107.03374 (HumanEval); Austin et al. 2021,
    arXiv 2108.07732 (MBPP).
    """
    if {"prompt", "canonical_solution", "test", "entry_point"} <= row.keys():
        entry_point = row["entry_point"]
        program = row["prompt"] + (row["canonical_solution"] if completion is None else completion)
        helpers = _helpers(row["prompt"], entry_point)
        return program, [f"{helpers}\n{row['test']}\ncheck({entry_point})"], entry_point
    if {"code", "test_list"} <= row.keys():
        setup = [*row.get("test_imports", ()), row.get("test_setup_code", "")]
        tests = [*row["test_list"], *row.get("challenge_test_list", ())]
        program = row["code"] if completion is None else completion
        entry_point = _tested_function(tests, row["code"])
        # A statement of the setup can fail like a test, where it uses a class of the program.
        return program, [line for line in setup if line.strip()] + tests, entry_point
    raise ValueError(
        f"A problem has the keys of HumanEval or MBPP. Got {sorted(row)}. Pass a row of one of "
        "those files."
    )


# Source is searched rather than parsed: some of it has escapes that Python warns of.
def _helpers(prompt, entry_point):
    """Return what a prompt defines before the function that is to be completed; "" for nothing."""
    found = re.search(rf"^def {entry_point}\b", prompt, re.MULTILINE)
    if found is None:
        raise ValueError(f"The prompt does not begin {entry_point!r}. Got {prompt!r}.")
    before = prompt[: found.start()]
    return before if re.search(r"^(def|class)\b", before, re.MULTILINE) else ""


def _tested_function(tests, solution):
    """Return the name of the solution's function that tests call first."""
    functions = re.findall(r"^def\s+(\w+)", solution, re.MULTILINE)
    for test in tests:
        for name in re.findall(r"\b(\w+)\s*\(", test):
            if name in functions:
                return name
    raise ValueError(f"No test calls a function of the solution. Got {tests[:1]}.")
