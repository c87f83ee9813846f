"""How many files a reader has to open to follow a training batch, or a call of `generate`."""

import contextlib
import pathlib
import sys

import pytest

import keras_textdiff
from keras_textdiff.samplers import SundaeSampler
from tests import tiny

pytestmark = pytest.mark.backend_free

PACKAGE = pathlib.Path(keras_textdiff.__file__).parent
MOST_FILES = 6


@contextlib.contextmanager
def files_on_the_way(found):
    """Add the files of ours whose functions are called to `found`.

    Rooms that call nothing of ours but themselves count little: the network (backbones/) as one
    file, and helpers (utils/) not at all.
    """

    called = set()

    def profile(frame, event, argument):
        if event == "call":
            called.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)
    for path in map(pathlib.Path, called):
        if path.is_relative_to(PACKAGE):
            path = path.relative_to(PACKAGE)
            if path.parts[0] != "utils":
                found.add("backbones" if path.parts[0] == "backbones" else str(path))


def test_a_training_batch():
    lm = tiny.diffusion_lm(sampler=SundaeSampler(2, num_canvases=1))
    rows = lm.preprocessor(tiny.TEXTS)
    lm.fit(rows, verbose=0)  # builds what is built once
    batches, _ = lm._make_batches(rows, batch_size=4)
    found = set()
    with files_on_the_way(found):
        batch = batches[0]
        outputs = lm(batch, training=True)
        lm.compute_loss(batch, y_pred=outputs)
        lm.compute_metrics(batch, None, outputs)
    assert found == {
        "data/batches.py",
        "models/text_task.py",
        "objectives/sundae.py",
        "corruption/uniform_corruption.py",
        "objectives/cross_entropy.py",
        "backbones",
    }
    assert len(found) <= MOST_FILES


def test_a_call_of_generate():
    lm = tiny.diffusion_lm(sampler=SundaeSampler(2, num_canvases=1))
    assert lm.preprocessor.bound_format is not None  # made once
    found = set()
    with files_on_the_way(found):
        lm.generate(tiny.TEXTS["prompts"], max_length=12, seed=0)
    assert found == {
        "models/diffusion_lm.py",
        "models/text_preprocessor.py",
        "models/text_task.py",
        "samplers/sampler.py",
        "samplers/sundae_sampler.py",
        "backbones",
    }
    assert len(found) <= MOST_FILES
