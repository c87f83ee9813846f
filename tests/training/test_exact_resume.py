"""A run that was killed ends like one that was not, whatever it reads."""

import os
import resource
import signal

import grain
import keras
import numpy as np
import pytest

from keras_textdiff.training import ExactResume
from tests.training.runs import TEXTS, Run, check_same, make_model


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

    length = 3

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __iter__(self):
        for _ in range(self.length):
            yield [TEXTS[row] for row in self.rng.integers(0, 9, 3)]


def torch_loader():
    import torch

    torch.manual_seed(5)
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


class Stateless(grain.IterDataset):
    """A grain dataset whose iterators cannot tell where they are."""

    def __iter__(self):
        return StatelessIterator()


class StatelessIterator(grain.DatasetIterator):
    def __init__(self):
        super().__init__()
        self._rows = iter(np.random.permutation(9).reshape(3, 3))

    def __next__(self):
        return [TEXTS[row] for row in next(self._rows)]

    def get_state(self):
        raise NotImplementedError

    def set_state(self, state):
        raise NotImplementedError


SOURCES = {
    "in memory": (lambda: TEXTS, None),
    "in memory, endless": (lambda: TEXTS, 2),
    "PyDataset": (Shuffled, None),
    "PyDataset, endless": (Shuffled, 2),
    "grain.MapDataset": (grain_map, None),
    "grain.IterDataset, endless": (lambda: grain_map().to_iter_dataset(), 2),
    "grain.IterDataset without state": (Stateless, None),
    "grain.DataLoader": (grain_loader, None),
    "iterable": (OwnRandom, None),
    "iterable, endless": (OwnRandom, 2),
    "torch DataLoader": (torch_loader, None),
    "tf.data": (tf_dataset, None),
    "generator": (lambda: (BATCHES[i % 3] for i in range(6)), 2),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_goes_on(run, tmp_path, source):
    make_data, steps_per_epoch = SOURCES[source]
    options = {
        "make_data": make_data,
        "batch_size": 3 if source.startswith("in memory") else None,
        "steps_per_epoch": steps_per_epoch,
        "epochs": 2 if steps_per_epoch is None else 3,
    }
    whole = run(**options)

    def resume():
        return ExactResume(tmp_path, save_every_steps=2, max_to_keep=2)

    # Killed in the second epoch, or where only its end is left.
    assert run(resume(), kill_after=5, **options) is None
    check_same(run(resume(), **options), whole)


class Decay(keras.callbacks.LearningRateScheduler):
    """Changes the rate that it finds: twice in one epoch would show."""

    def __init__(self):
        super().__init__(lambda epoch, rate: rate * 0.7)


def callbacks():
    return [
        Decay(),
        keras.callbacks.EarlyStopping(
            "val_loss", mode="max", patience=1, start_from_epoch=1, restore_best_weights=True
        ),
    ]


def test_every_step_can_be_the_last(run, tmp_path):
    options = {"validation_data": TEXTS[:3], "epochs": 5}
    whole = run(*callbacks(), **options)
    assert len(whole[1]["loss"]) == 3  # stopped early, by what it remembered
    seen = []
    for kill_after in (2, 3, 4, 2):  # before the step is saved
        resume = ExactResume(tmp_path, save_every_steps=1, max_to_keep=1)
        assert run(*callbacks(), resume, kill_after=kill_after, **options) is None
        seen.extend(path.name for path in tmp_path.iterdir())
    assert [name[5:15] for name in seen] == [f"{step:010d}" for step in (1, 3, 6, 7)]
    for _ in range(2):  # the second time there is nothing to do
        check_same(run(*callbacks(), ExactResume(tmp_path), **options), whole)


def test_a_finished_run_goes_on_for_more_epochs(run, tmp_path):
    run(ExactResume(tmp_path), epochs=1)
    check_same(run(ExactResume(tmp_path), epochs=2), run(epochs=2))


def test_the_newest_valid_checkpoint_counts(run, tmp_path, capsys):
    whole = run(ExactResume(tmp_path, save_every_steps=2))
    newest, second, third = sorted(tmp_path.iterdir(), reverse=True)
    (newest / "manifest.json").write_text("{}")
    next(second.glob("arrays/d/*")).unlink()
    resume = ExactResume(tmp_path, save_every_steps=2)
    capsys.readouterr()
    check_same(run(resume), whole)
    assert set(resume.skipped) == {newest.name, second.name}
    printed = capsys.readouterr().out
    assert f"{newest}: it cannot be read" in printed
    assert f"{second}: arrays/d/" in printed and "is missing" in printed
    assert f"Resuming from {third}" in printed
    # What was skipped is replaced by what is written now.
    resume = ExactResume(tmp_path)
    run(resume)
    assert resume.skipped == {}


def test_nan_is_never_kept(run, tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                weight = self.model.trainable_variables[0]
                weight.assign(np.full(weight.shape, np.nan))

    resume = ExactResume(tmp_path, save_every_steps=1)
    with pytest.warns(UserWarning, match="is not kept: .*token_embedding.* holds NaN"):
        run(Spoil(), resume, epochs=1)
    assert [path.name[5:15] for path in sorted(tmp_path.iterdir())] == ["0000000001", "0000000002"]


# Orbax' own threads raise as well.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's tasks
def test_a_full_disk_leaves_the_last_good_one(run, tmp_path, monkeypatch):
    whole = run()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    class Fill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:  # the checkpoint of step 3 is written: that of step 6 waited for it
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))

    resume = ExactResume(tmp_path, save_every_steps=3)
    try:
        with pytest.warns(UserWarning, match="could not be saved"):
            assert run(Fill(), resume) is not None  # training goes on
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    steps = sorted(path.name[5:15] for path in tmp_path.iterdir())
    assert steps[0] == "0000000003" and "0000000009" not in steps
    check_same(run(ExactResume(tmp_path)), whole)


def test_sigterm_saves_and_ends(run, tmp_path):
    whole = run()
    before = signal.getsignal(signal.SIGTERM)

    begun = []

    class Terminate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            begun.append(batch)
            if len(begun) == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        run(Terminate(), ExactResume(tmp_path))
    assert end.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name[5:15] for path in tmp_path.iterdir()] == ["0000000005"]
    check_same(run(ExactResume(tmp_path)), whole)


def test_another_run_is_refused(run, tmp_path):
    run(ExactResume(tmp_path), epochs=1)
    with pytest.raises(
        ValueError, match=r"another run:\n  data\.batch_size: 3 in the checkpoint, 2 now"
    ):
        run(ExactResume(tmp_path), epochs=1, batch_size=2)
    with pytest.raises(ValueError, match="digest of examples"):
        run(ExactResume(tmp_path), epochs=1, make_data=lambda: TEXTS[::-1])
    with pytest.raises(ValueError, match="steps_per_epoch: None in the checkpoint, 3 now"):
        run(ExactResume(tmp_path), epochs=1, steps_per_epoch=3)
    other = make_model(keras.optimizers.SGD(0.1), hidden_dim=24)
    with pytest.raises(ValueError, match=r"hidden_dim: 16 in the checkpoint, 24 now") as error:
        other.fit(TEXTS, batch_size=3, callbacks=[ExactResume(tmp_path)], verbose=0)
    assert "optimizer" in str(error.value)


def test_arguments_that_cannot_work(tmp_path):
    with pytest.raises(ValueError, match="`save_every_steps` must be at least 1"):
        ExactResume(tmp_path, save_every_steps=0)
    with pytest.raises(ValueError, match="`max_to_keep` must be at least 1"):
        ExactResume(tmp_path, max_to_keep=0)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match=r"`fit` of DiffusionLM and CausalLM\. Got Seq"):
        model.fit(np.ones((2, 1)), np.ones((2, 1)), callbacks=[ExactResume(tmp_path)], verbose=0)
    model = make_model()
    with pytest.raises(ValueError, match="Got several"):
        callbacks = [ExactResume(tmp_path), ExactResume(tmp_path)]
        model.fit(TEXTS, callbacks=callbacks, verbose=0)
    model.steps_per_execution = 2
    with pytest.raises(ValueError, match="steps_per_execution=1"):
        model.fit(TEXTS, callbacks=[ExactResume(tmp_path)], verbose=0)


def test_data_that_became_shorter(run, tmp_path):
    def resume():
        return ExactResume(tmp_path, save_every_steps=2)

    run(resume(), make_data=OwnRandom, batch_size=None, kill_after=3)
    OwnRandom.length = 1
    try:
        with pytest.raises(ValueError, match="ended after 1 batches"):
            run(resume(), make_data=OwnRandom, batch_size=None)
    finally:
        OwnRandom.length = 3
