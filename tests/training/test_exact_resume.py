"""A run that was killed ends like one that was not, whatever it reads."""

import grain
import keras
import numpy as np
import pytest

from keras_textdiff.training import ExactResume
from tests.training.runs import TEXTS, Run, check_same


@pytest.fixture(scope="module")
def run():
    return Run()


BATCHES = [TEXTS[index : index + 3] for index in range(0, 9, 3)]


class Shuffled(keras.utils.PyDataset):
    """Shuffles itself with NumPy's global stream, as many do."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.order = np.arange(9)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return [TEXTS[row] for row in self.order[3 * index : 3 * index + 3]]

    def on_epoch_end(self):
        np.random.shuffle(self.order)


class OwnRandom:
    """An iterable whose order depends on how much was read before."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __iter__(self):
        for _ in range(3):
            yield [TEXTS[row] for row in self.rng.integers(0, 9, 3)]


def torch_loader():
    import torch

    return torch.utils.data.DataLoader(TEXTS, batch_size=3, shuffle=True)


def tf_dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(TEXTS).shuffle(9, seed=3).batch(3)


def grain_loader():
    return grain.DataLoader(
        data_source=TEXTS,
        sampler=grain.samplers.IndexSampler(9, shuffle=True, seed=2, num_epochs=1),
        operations=[grain.transforms.Batch(3)],
    )


def grain_map():
    return grain.MapDataset.source(TEXTS).shuffle(seed=4).batch(3)


SOURCES = {
    "in memory": lambda: TEXTS,
    "PyDataset": Shuffled,
    "grain.MapDataset": grain_map,
    "grain.IterDataset": lambda: grain_map().to_iter_dataset(),
    "grain.DataLoader": grain_loader,
    "iterable": OwnRandom,
    "torch DataLoader": torch_loader,
    "tf.data": tf_dataset,
    "generator": lambda: (BATCHES[i % 3] for i in range(12)),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("steps_per_epoch", [None, 2])
def test_every_source_goes_on(run, tmp_path, source, steps_per_epoch):
    if source == "generator" and steps_per_epoch is None:
        pytest.skip("a generator needs to be told how long an epoch is")
    options = {
        "make_data": SOURCES[source],
        "batch_size": 3 if source == "in memory" else None,
        "steps_per_epoch": steps_per_epoch,
    }
    whole = run(**options)

    def resume():
        return ExactResume(tmp_path, save_every_steps=2, max_to_keep=2)

    assert run(resume(), kill_after=5, **options) is None
    check_same(run(resume(), **options), whole)
