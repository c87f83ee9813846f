import shutil

import keras
import keras_hub
import pytest

from keras_textdiff.backbones import TransformerBackbone
from keras_textdiff.presets import save_preset
from tests.presets.presets import diffusion_lm


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A preset as it was saved; not to be changed."""
    directory = tmp_path_factory.mktemp("presets") / "saved"
    keras.utils.clear_session(free_memory=False)  # names must not depend on the test before
    save_preset(diffusion_lm(), directory)
    return directory


@pytest.fixture
def preset(saved, tmp_path):
    """A copy of the preset to change."""
    return shutil.copytree(saved, tmp_path / "preset")


@pytest.fixture
def keras_hub_saves(monkeypatch):
    """Let KerasHub's own code save our backbone, too."""
    original = keras_hub.models.Backbone.save_to_preset
    monkeypatch.setattr(TransformerBackbone, "save_to_preset", original)
