"""Processes that are killed, and machines that have other devices when they come back."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def run_python(*arguments, **environment):
    run = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_random_kills_and_damage():
    options = ["--kills=10", "--terms=2", "--corruptions=20", "--seed=1"]
    result = json.loads(run_python("tools/check_resume.py", *options).splitlines()[-1])
    assert result["failures"] == []
    assert (result["SIGKILL"]["sent"], result["SIGTERM"]["sent"]) == (10, 2)
