"""Each backend's run loads what it saved under all three: nine pairs over the three runs."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_textdiff.presets import save_preset
from tests import tiny
from tests.presets.presets import load, logits

SCRIPT = """
import sys
import numpy as np
from tests.presets.presets import load, logits
np.save(sys.argv[2], logits(load(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A preset whose logits are near 1, as 1e-5 is meant for such."""
    directory = tmp_path_factory.mktemp("presets") / "preset"
    save_preset(tiny.diffusion_lm(scale=0.1), directory)
    return directory


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_logits_are_the_same_on(backend, preset, tmp_path):
    expected = logits(load(preset))
    if backend == keras.config.backend():
        found = logits(load(preset))
    else:
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-c", SCRIPT, str(preset), str(tmp_path / "logits.npy")]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, result.stderr[-3000:]
        found = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(found, expected, atol=1e-5)
