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
for directory in sys.argv[1:]:
    np.save(directory + ".npy", logits(load(directory)))
"""


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Presets of both kinds whose logits are near 1, as 1e-5 is meant for such."""
    directory = tmp_path_factory.mktemp("presets")
    save_preset(tiny.diffusion_lm(scale=0.1), directory / "decoder")
    save_preset(tiny.encoder_decoder_lm("diffusion", scale=0.1), directory / "encoder_decoder")
    return [str(directory / "decoder"), str(directory / "encoder_decoder")]


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_logits_are_the_same_on(backend, presets):
    expected = [logits(load(preset)) for preset in presets]
    if backend == keras.config.backend():
        found = [logits(load(preset)) for preset in presets]
    else:
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-c", SCRIPT, *presets]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, result.stderr[-3000:]
        found = [np.load(f"{preset}.npy") for preset in presets]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
