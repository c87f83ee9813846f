"""What came of one test."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one test.

    Attributes:
        status: "pass", "fail" (its assertion did not hold), "error" (the program or the test raised
            something else), "timeout", "memory", "output", or "not run" where the program had
            ended before.
        message: str, what was raised; "" after a pass.
    """

    status: str
    message: str = ""
