"""Runs generated programs against tests without trusting them."""

import contextlib
import json
import os
import select
import subprocess
import sys

from keras_textdiff.evaluation.sandbox import python_files, python_layout
from keras_textdiff.evaluation.sandbox.outcome import Outcome
from keras_textdiff.evaluation.sandbox.sandbox_result import SandboxResult
from keras_textdiff.evaluation.sandbox.sandbox_unavailable import SandboxUnavailable
from keras_textdiff.utils.checks import check_integer, check_number

# Beyond the wall time: for starting, on however busy a machine, and for cleaning up.
_PATIENCE_SECONDS = 60
_HELP = (
    "Programs are run only where Linux lets them be isolated: allow this user to create user "
    "namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns); in a container also the system calls unshare, "
    "mount and pivot_root."
)


class Sandbox:
    """Runs generated Python programs against tests, in isolation.

    Each program runs in a fresh interpreter that sees Python's standard library, an empty work
    folder and nothing else of the machine: no files, network, environment or other processes. The
    tests run in another process and reach the program by a pipe, so a program passes by returning
    right values and in no other way. `keras_textdiff/evaluation/sandbox/__init__.py` says what is
    defended and how.

    It works as root and as an ordinary user, on Linux. Threads may share a sandbox.

    Args:
        wall_seconds: number, from the program's first line to the last test.
        memory_mb: int, MiB of address space of the program, and as much for the tests.
        cpu_seconds: number or None, CPU seconds of all threads, rounded up; None is `wall_seconds`.
        num_threads: int, threads of the program; it may start no other process.
        num_files: int, files that it may have open, and may create.
        file_mb: int, MiB that it may write to files.
        output_kb: int, KiB that it may print, and may return from one call.

    Raises:
        ValueError: for a limit out of range.
        SandboxUnavailable: where programs can not be isolated; then none is run.

    Example:
    ```python
    sandbox = keras_textdiff.evaluation.Sandbox(wall_seconds=3, memory_mb=256)
    program = "def add(a, b):\\n    return a + b"
    sandbox.run(program, ["assert add(1, 2) == 3"], entry_point="add").status  # "pass"
    ```
    """

    def __init__(
        self,
        *,
        wall_seconds=3,
        memory_mb=256,
        cpu_seconds=None,
        num_threads=16,
        num_files=64,
        file_mb=16,
        output_kb=1024,
    ):
        wall_seconds = check_number("wall_seconds", wall_seconds, minimum=0.1)
        cpu_seconds = wall_seconds if cpu_seconds is None else cpu_seconds
        self.limits = {
            "wall_seconds": wall_seconds,
            "cpu_seconds": check_number("cpu_seconds", cpu_seconds, minimum=0.1),
            # Less does not hold an interpreter.
            "memory_mb": check_integer("memory_mb", memory_mb, minimum=64),
            "num_threads": check_integer("num_threads", num_threads, minimum=1),
            "num_files": check_integer("num_files", num_files, minimum=16),
            "file_mb": check_integer("file_mb", file_mb, minimum=1),
            "output_kb": check_integer("output_kb", output_kb, minimum=1),
        }
        if not sys.platform.startswith("linux"):
            raise SandboxUnavailable(f"This system is {sys.platform}. {_HELP}")
        self._files = python_files.find()
        # Refuse now rather than at the first program.
        program = "def answer():\n    return 42"
        trial = self.run(program, ["assert answer() == 42"], entry_point="answer")
        if trial.status == "error":
            raise SandboxUnavailable(f"A trial program did not run: {trial.message}. {_HELP}")

    def run(self, program, tests, *, entry_point):
        """Run one program against tests.

        Args:
            program: str, Python source. It is loaded as a module; a part under
                `if __name__ == "__main__"` does not run.
            tests: list of str, Python statements, as a rule one assert statement each; what one
                defines, the next ones see. Every one is run, in order. They may name the entry
                point, Python's built-ins and standard library, what they define themselves, and
                classes of the program. Arguments reach the program as copies.
            entry_point: str, name of the function or class that is tested.

        Returns:
            `SandboxResult`; its `status` is "pass", "fail", "error", "timeout", "memory" or
            "output".

        Raises:
            ValueError: for arguments of another kind, no tests, or tests that are not Python.
            SandboxUnavailable: where the program could not be isolated, and was not run.
        """
        _check_arguments(program, tests, entry_point)
        package = os.path.dirname(os.path.realpath(__file__))
        job = {
            "program": program,
            "tests": tests,
            "entry_point": entry_point,
            "limits": self.limits,
            "files": self._files,
            "boot": python_layout.boot(python_layout.HOME, "guest.serve"),
        }
        result = self._supervise(python_layout.boot(package, "supervisor"), json.dumps(job))
        if "bad_tests" in result:
            raise ValueError(
                f"`tests` must be Python statements. Got {result['bad_tests']}. Correct the tests."
            )
        if "unavailable" in result:
            raise SandboxUnavailable(f"The program was not run: {result['unavailable']}. {_HELP}")
        tests = tuple(Outcome(*outcome) for outcome in result.pop("tests"))
        return SandboxResult(tests=tests, **result)

    def _supervise(self, code, job):
        """Run a supervisor and return its answer; see to it that none stays behind."""
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        supervisor = subprocess.Popen(
            [os.path.realpath(sys.executable), *python_layout.FLAGS, "-c", code, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"LC_ALL": "C.UTF-8", **kept},  # an interpreter may need it to start
            start_new_session=True,  # interrupting the caller at a terminal is the caller's to see
            text=True,
            encoding="utf-8",
        )
        try:
            answer, errors = self._talk(supervisor, job)
        finally:
            # A supervisor that has not answered, because the caller was interrupted, ends what it
            # started when its input closes.
            for stream in (supervisor.stdin, supervisor.stdout, supervisor.stderr):
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
            try:
                supervisor.wait(timeout=5)
            except subprocess.TimeoutExpired:
                supervisor.kill()
                supervisor.wait()
        if not answer:
            raise RuntimeError(f"The sandbox's supervisor failed: {errors.strip()}")
        return json.loads(answer)

    def _talk(self, supervisor, job):
        """Return all that a supervisor writes: its answer, and errors."""
        with contextlib.suppress(BrokenPipeError):  # where it failed at once; it says why
            supervisor.stdin.write(f"{job}\n")
            supervisor.stdin.flush()
        poll = select.poll()
        poll.register(supervisor.stdout, select.POLLIN)
        patience = self.limits["wall_seconds"] + _PATIENCE_SECONDS
        if not poll.poll(1000 * patience):
            raise RuntimeError(f"The sandbox's supervisor said nothing for {patience} s.")
        return supervisor.stdout.read(), supervisor.stderr.read()


def _check_arguments(program, tests, entry_point):
    if not isinstance(program, str):
        raise ValueError(f"`program` must be Python source, a str. Got {type(program).__name__}.")
    if not isinstance(tests, (list, tuple)) or not all(isinstance(test, str) for test in tests):
        raise ValueError(f"`tests` must be a list of Python statements, str. Got {tests!r}.")
    if not tests:
        raise ValueError("`tests` is empty, so that every program would pass. Pass at least one.")
    if not isinstance(entry_point, str) or not entry_point.isidentifier():
        raise ValueError(
            f"`entry_point` must be the name of a function or class. Got {entry_point!r}."
        )
