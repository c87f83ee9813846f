"""Processes that are killed, and machines that have other devices when they come back."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_textdiff.training import ExactResume
from tests.training.runs import Run

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
    options = ["--kills=3", "--terms=1", "--corruptions=20", f"--seed={os.getpid()}"]
    result = json.loads(run_python("tools/check_resume.py", *options).splitlines()[-1])
    assert result["failures"] == []
    assert (result["SIGKILL"]["sent"], result["SIGTERM"]["sent"]) == (3, 1)


FOUR_DEVICES = """
import sys
import jax
import keras
from keras_textdiff.training import ExactResume
from tests.training.runs import Run
jax.config.update("jax_disable_most_optimizations", True)
keras.distribution.set_distribution(keras.distribution.DataParallel())
Run()(ExactResume(sys.argv[1], save_every_steps=1), kill_after=3, batch_size=4)
"""


@pytest.mark.skipif(keras.config.backend() != "jax", reason="several devices on jax only")
def test_another_number_of_devices(tmp_path, capsys):
    run_python("-c", FOUR_DEVICES, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    run = Run()
    whole = run(batch_size=4)
    resumed = run(ExactResume(tmp_path), batch_size=4)
    assert "saved on 4 devices and goes on with 1" in capsys.readouterr().out
    for name, values in whole[1].items():
        np.testing.assert_allclose(resumed[1][name], values, rtol=1e-4, err_msg=name)
    for one, other in zip(resumed[0], whole[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
