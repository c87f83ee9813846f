"""Milliseconds that the sandbox takes for a small program, start to verdict.

python tools/benchmarks/sandbox.py

Beside the wall-clock time, which other work on the machine lengthens, it prints the CPU time of all
processes of a run, which it hardly does, and the time that starting a bare interpreter takes.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time

from keras_textdiff.evaluation import Sandbox

NUM_PROGRAMS = 100
PROGRAM = "def add(a, b):\n    return a + b"
TESTS = ["assert add(1, 2) == 3", "assert add(20, 22) == 42", "assert add('a', 'b') == 'ab'"]


def measure(action):
    """Return wall-clock and CPU milliseconds of one of `NUM_PROGRAMS` calls."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    walls = []
    for _ in range(NUM_PROGRAMS):
        start = time.perf_counter()
        action()
        walls.append(1000 * (time.perf_counter() - start))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "median_ms": round(statistics.median(walls), 1),
        "fastest_ms": round(min(walls), 1),
        "cpu_ms": round(1000 * spent / NUM_PROGRAMS, 1),
    }


def main():
    sandbox = Sandbox()
    assert sandbox.run(PROGRAM, TESTS, entry_point="add").status == "pass"
    report = {
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "sandbox": measure(lambda: sandbox.run(PROGRAM, TESTS, entry_point="add")),
        "python -I -S -c pass": measure(
            lambda: subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
        ),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
