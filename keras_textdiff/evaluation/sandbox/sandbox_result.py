"""What came of one program."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SandboxResult:
    """What came of one program and its tests.

    Attributes:
        status: "pass" where every test passed; otherwise the status of the first that did not:
            "fail", "error", "timeout", "memory" or "output".
        message: str, the reason in a line; "" after a pass.
        tests: tuple with a `Outcome` per test.
        output: str, what the program printed, up to the limit.
        seconds: float, wall-clock seconds from the program's first line to the verdict.

    Example:
    ```python
    result = keras_textdiff.evaluation.Sandbox().run(
        "def add(a, b): return a - b", ["assert add(1, 2) == 3"], entry_point="add"
    )
    result.status  # "fail"
    result.tests[0].message  # "AssertionError: assert add(1, 2) == 3"
    ```
    """

    status: str
    message: str
    tests: tuple
    output: str
    seconds: float
