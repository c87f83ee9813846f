import shutil

import pytest

from keras_textdiff.presets import save_preset
from tests import tiny


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A preset as it was saved; not to be changed."""
    directory = tmp_path_factory.mktemp("presets") / "saved"
    save_preset(tiny.diffusion_lm(), directory)
    return directory


@pytest.fixture
def preset(saved, tmp_path):
    """A copy of the preset to change."""
    return shutil.copytree(saved, tmp_path / "preset")
