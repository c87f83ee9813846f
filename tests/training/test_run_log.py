"""The log of a run: what is in it, and that a killed run leaves one that is whole."""

import json
import types

import keras
import numpy as np
import pytest

from keras_textdiff.backbones import flops
from keras_textdiff.training import ExactResume, RunLog, read_run_log
from keras_textdiff.training.tensorboard_writer import TensorBoardWriter
from tests import tiny
from tests.training.runs import TEXTS, KillAfter, Run

LEARNING_RATE = keras.optimizers.schedules.PolynomialDecay(0.02, 20, end_learning_rate=0.001)
CLOCK = ("time", "tokens_per_second", "mfu", "remaining_hours")


class KillInThread(KillAfter):
    """Ends a run from the threads in which Keras runs callbacks that allow it."""

    async_safe = True


@pytest.fixture(scope="module")
def run():
    return Run(optimizer=keras.optimizers.Adam(LEARNING_RATE))


def without_clock(lines):
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


def iterable():
    """Batches of several lengths; how many, only reading tells."""
    return Batches()


class Batches:
    def __iter__(self):
        for index in range(4):
            rows = np.random.default_rng(index).integers(0, 32, (2, 6 + 2 * (index % 2)))
            yield {"token_ids": rows.astype("int32")}


def test_what_is_in_a_log(run, tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    log = RunLog(path, every_steps=1, peak=1e9)
    _, history = run(log, validation_data=TEXTS[:2])
    lines = read_run_log(path)
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert [line["epoch"] for line in lines] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [line["tokens"] for line in lines] == [30 * step for step in range(1, 10)]
    rates = [float(LEARNING_RATE(step)) for step in range(9)]
    np.testing.assert_allclose([line["learning_rate"] for line in lines], rates, rtol=1e-6)
    for name in ("loss", "loss_first", "supervised_tokens"):  # batches of equal weights
        means = np.reshape([line[name] for line in lines], (3, 3)).mean(axis=1)
        np.testing.assert_allclose(means, history[name], rtol=1e-5)
    for epoch, line in enumerate(lines[2::3]):
        assert line["val_loss"] == history["val_loss"][epoch]
    assert all("val_loss" not in line for line in lines[:2])
    config = run.model.backbone.complete_config(run.model.backbone.get_config())
    per_token = flops.training_flops(config, 10, num_passes=2) / 10
    assert "tokens_per_second" not in lines[0]  # the first step is compiled
    timed = [line for line in lines if "mfu" in line]  # all but where threads were too late
    assert timed
    for line in timed:
        assert line["mfu"] == pytest.approx(line["tokens_per_second"] * per_token / 1e9)
        assert line["remaining_hours"] >= 0
    assert lines[-1]["remaining_hours"] == 0
    assert np.all(np.diff([line["time"] for line in lines]) >= 0)


def test_means_are_those_since_the_line_before(run, tmp_path):
    every, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    run(RunLog(every, every_steps=1))
    run(RunLog(second, every_steps=2))
    losses = [line["loss"] for line in read_run_log(every)]
    lines = read_run_log(second)
    # Each epoch's last step as well.
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8, 9]
    parts = (losses[:2], losses[2:3], losses[3:4], losses[4:6], losses[6:8], losses[8:])
    np.testing.assert_allclose([line["loss"] for line in lines], list(map(np.mean, parts)), 1e-5)


SOURCES = {
    "in memory": {},
    "endless": {"steps_per_epoch": 2},
    "iterable": {"make_data": iterable, "batch_size": None},
}


KILLS = [KillAfter] if keras.config.backend() == "tensorflow" else [KillAfter, KillInThread]


@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("source", SOURCES)
def test_a_killed_run_leaves_a_whole_log(run, tmp_path, source, kill, capsys):
    options = {"validation_data": TEXTS[:2], **SOURCES[source]}
    whole, path = tmp_path / "whole.jsonl", tmp_path / "log.jsonl"
    run(RunLog(whole, every_steps=3), **options)
    for num_steps in (2, 4, 3):  # in the first epoch; at a step without a checkpoint; behind it
        callbacks = [RunLog(path, every_steps=3), ExactResume(tmp_path / "c", save_every_steps=2)]
        assert run(*callbacks, kill(num_steps), **options) is None
        with open(path, "a") as file:
            file.write('{"step": 99, "epo')  # a line that was being written
    run(RunLog(path, every_steps=3), ExactResume(tmp_path / "c", save_every_steps=2), **options)
    assert without_clock(read_run_log(path)) == without_clock(read_run_log(whole))
    tokens = [line["tokens"] for line in read_run_log(whole)]
    if source == "iterable":
        assert [line["step"] for line in read_run_log(whole)] == [3, 4, 6, 8, 9, 12]
        assert tokens == [40, 56, 84, 112, 124, 168]
    assert "lines dropped, the run goes on behind step" in capsys.readouterr().out


def test_an_encoders_prefix_counts(tmp_path):
    lm = tiny.encoder_decoder_lm("causal")
    lm.compile(jit_compile=tiny.JIT)
    path = tmp_path / "log.jsonl"
    wait = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    callbacks = [RunLog(path, peak=1e9), wait]  # so each step is heard of when it ends
    lm.fit(tiny.encoder_inputs(4), batch_size=2, callbacks=callbacks, verbose=0)
    (line,) = read_run_log(path)
    assert line["tokens"] == 4 * (10 + 7) and line["step"] == 2
    config = lm.backbone.complete_config(lm.backbone.get_config())
    per_token = flops.training_flops(config, 10, prefix_length=7) / 17
    assert line["mfu"] == pytest.approx(line["tokens_per_second"] * per_token / 1e9)


def test_the_progress_bar(run, tmp_path, capsys):
    run(RunLog(tmp_path / "log.jsonl", every_steps=1, peak="h100"), verbose=1)
    shown = capsys.readouterr().out
    for name in ("tokens_per_second", "mfu", "remaining_hours"):
        assert f"{name}: " in shown


class Watch(keras.callbacks.Callback):
    """Sees whether Keras had to give the model its variables back."""

    def __init__(self):
        super().__init__()
        self.found = ()

    def on_train_batch_begin(self, batch, logs=None):
        self.found = (*self.found, getattr(self._model, "_jax_state_synced", None))


def test_nothing_waits_for_the_device(run, tmp_path):
    log = RunLog(tmp_path / "log.jsonl", every_steps=1)
    callbacks = keras.callbacks.CallbackList([log], add_progbar=True)
    assert callbacks._async_train == (keras.config.backend() != "tensorflow")
    watch = Watch()
    run(log, watch, epochs=1)
    if keras.config.backend() == "jax":
        assert watch.found == (True, False, False)


def test_ends_out_of_order(tmp_path):
    path = tmp_path / "log.jsonl"
    log = RunLog(path, every_steps=1)
    log.set_params({"epochs": 1, "steps": 3})
    log.set_model(types.SimpleNamespace(
        steps_per_execution=1,
        next_learning_rate=lambda: 0.5,
        objective=types.SimpleNamespace(num_passes=1),
        backbone=tiny.backbone(),
    ))  # fmt: skip
    batches = types.SimpleNamespace(note_shapes=lambda: None, next_shape=lambda index: (2, 5, 0))
    with log.around_fit(None, {"x": batches}):
        log.on_epoch_begin(0)
        for batch in range(3):
            log.on_train_batch_begin(batch)
        for batch in (2, 0, 1):
            log.on_train_batch_end(batch, {"loss": float(batch)})
        log.on_epoch_end(0, {"loss": 2.0})
    lines = read_run_log(path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["loss"] for line in lines] == [0.0, 2.0, 4.0]  # running means 0, 1, 2
    log.on_train_batch_end(3, {})  # comes too late


def test_a_run_from_the_beginning_leaves_the_old_log(run, tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    run(RunLog(path), epochs=2)
    old = path.read_text()
    run(RunLog(path), epochs=1)
    assert (tmp_path / "log.jsonl.old").read_text() == old
    assert [line["step"] for line in read_run_log(path)] == [3]
    assert "2 lines dropped, the run starts anew" in capsys.readouterr().out
    log = RunLog(path)
    run(log, epochs=1)
    run(log, epochs=1)  # one object counts on
    assert [line["step"] for line in read_run_log(path)] == [3, 6]


def test_what_is_not_finite_is_null(run, tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weight = self.model.trainable_variables[0]
            weight.assign(np.full(weight.shape, np.nan))

    run(RunLog(tmp_path / "log.jsonl", every_steps=1), Spoil(), epochs=1)
    text = (tmp_path / "log.jsonl").read_text()
    assert "NaN" not in text
    losses = [json.loads(line)["loss"] for line in text.splitlines()]
    assert losses[0] > 0 and losses[1:] == [None, None]


def test_bad_input(run, tmp_path):
    with pytest.raises(ValueError, match="`every_steps` must be at least 1"):
        RunLog(tmp_path / "log.jsonl", every_steps=0)
    with pytest.raises(ValueError, match=r"`device` must be one of \['tpu_v5e'.* Got 'tpu'"):
        RunLog(tmp_path / "log.jsonl", peak="tpu")
    with pytest.raises(ValueError, match="`peak` must be at least 1"):
        RunLog(tmp_path / "log.jsonl", peak=-1.0)
    with pytest.raises(ValueError, match=r"cannot be written at .*Is a directory"):
        run(RunLog(tmp_path))
    other = tmp_path / "data.jsonl"
    other.write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match=r"no run log: line 1 is .*Pass another file"):
        run(RunLog(other))
    assert other.read_text() == '{"text": "a"}\n'
    with pytest.raises(ValueError, match=r"cannot be read at .*No such file"):
        read_run_log(tmp_path / "nowhere.jsonl")
    other.write_text('{"step": 2}\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2 is"):
        read_run_log(other)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match=r"`fit` of DiffusionLM and CausalLM\. Got Seq"):
        log = RunLog(tmp_path / "log.jsonl")
        model.fit(np.ones((2, 1)), np.ones((2, 1)), callbacks=[log], verbose=0)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="TensorFlow reads the files")
def test_tensorboard(run, tmp_path):
    import tensorflow as tf

    log, folder = tmp_path / "log.jsonl", tmp_path / "board"
    run(RunLog(log, every_steps=1, tensorboard=folder), epochs=1, validation_data=TEXTS[:2])
    TensorBoardWriter(folder, 2).close()
    events = []
    for path in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(path)):  # which checks the checksums
            events.append(tf.compat.v1.Event.FromString(record.numpy()))
    assert [event.file_version for event in events if event.file_version] == ["brain.Event:2"] * 2
    assert events[-1].step == 3 and events[-1].session_log.status == 1
    found = {}
    for event in events:
        for value in event.summary.value:
            found.setdefault(event.step, {})[value.tag] = value.simple_value
    lines = read_run_log(log)
    assert sorted(found) == [1, 2, 3]
    for line in lines:
        step = line["step"]
        expected = {k: v for k, v in line.items() if k not in ("step", "epoch", "time")}
        assert found[step] == pytest.approx(expected, rel=1e-6)
