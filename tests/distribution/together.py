"""Trains a tiny model with others, and writes what came out: what a test starts in processes.

    python -m tests.distribution.together FOLDER NUM_PROCESSES PROCESS_ID PORT

On jax and torch, several processes; on tensorflow, one with two devices. With one process on jax
or torch, and "alone" for FOLDER's last part, nothing is shared: what the others must agree with.
"""

import contextlib
import functools
import os
import pathlib
import sys

if os.environ["KERAS_BACKEND"] == "jax":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import grain
import keras
import numpy as np

from keras_textdiff import data, distribution
from keras_textdiff.models import CausalLM, DiffusionLM, DiffusionLMPreprocessor
from keras_textdiff.samplers import SundaeSampler
from keras_textdiff.training import ExactResume, GuardedOptimizer, RunLog, read_run_log
from keras_textdiff.utils import processes, random
from tests import tiny
from tests.training.runs import KillAfter, Killed

BACKEND = keras.config.backend()
CONFIG = {**tiny.BACKBONE, "num_layers": 1, "num_key_value_heads": 4, "vocabulary_size": 32}
STREAM_LAYOUT = "both" if BACKEND == "jax" else "data"
LAYOUTS = {"data": ((4, 1), False), "tensor": ((1, 4), False), "both": ((2, 2), True)}


def rows():
    """Ten rows with targets of different sizes, so that parts of a batch weigh differently."""
    inputs = tiny.inputs(10, 12, vocabulary_size=32)
    for row in range(10):
        inputs["target_mask"][row, 4 + row % 5 :] = False
    return inputs


def make_model(kind):
    keras.utils.set_random_seed(3)
    attention = "causal" if kind is CausalLM else "bidirectional"
    backbone = tiny.backbone(scale=0.2, attention=attention, **CONFIG)
    model = kind(backbone)
    options = {} if kind is CausalLM else {"sampler": SundaeSampler(num_denoising_steps=2)}
    model.compile(keras.optimizers.Adam(0.01), jit_compile=tiny.JIT, **options)
    return model


def run(kind, folder):
    """Return what a model gives before training, the history, and what it gives afterwards."""
    model = make_model(kind)
    inputs = rows()
    outputs = {
        "logits": model.predict(inputs, batch_size=5, verbose=0),
        "evaluate": model.evaluate(inputs, batch_size=5, verbose=0),
    }
    if kind is DiffusionLM:
        prompts = {"token_ids": inputs["token_ids"], "padding_mask": inputs["prompt_mask"]}
        tokens = model.generate(prompts, stop_token_ids=None, seed=1)["token_ids"]
        outputs |= {"tokens": tokens, "scores": model.score(inputs)}
    history = model.fit(inputs, batch_size=5, epochs=2, verbose=0).history
    outputs |= {f"history {name}": values for name, values in history.items()}
    model.save_to_preset(folder / "preset")
    again = kind.from_preset(folder / "preset")
    again.compile(jit_compile=tiny.JIT)
    outputs["evaluate again"] = again.evaluate(inputs, batch_size=5, verbose=0)
    for index, variable in enumerate(model.trainable_variables):
        outputs[f"variable {index}"] = processes.whole_array(variable)
    return outputs


def train_on_stream(kind, callbacks=()):
    """Return a model trained on a stream, of which each process reads its own part; its history."""
    model = make_model(kind)
    texts = [{"text": "the hen in the hat"[: 6 + index]} for index in range(12)]
    preprocessor = DiffusionLMPreprocessor(tiny.tokenizer(), sequence_length=16)
    mixed = data.mixture([grain.MapDataset.source(texts)])
    batches = data.pipeline(mixed, preprocessor, batch_size=4 // processes.row_part()[1])
    history = model.fit(batches, steps_per_epoch=3, epochs=2, verbose=0, callbacks=[*callbacks])
    return model, history.history


def stream(kind, folder):
    """Return what a run gave that was never stopped, and whether one that was gave the same."""
    model, history = train_on_stream(kind)
    outputs = {f"stream {name}": values for name, values in history.items()}
    resume = ExactResume(folder / "checkpoints", save_every_steps=2)
    with contextlib.suppress(Killed):
        train_on_stream(kind, [resume, log(folder), KillAfter(5)])
    resume = ExactResume(folder / "checkpoints")
    again, history = train_on_stream(kind, [resume, log(folder)])
    assert history["loss"] == list(outputs["stream loss"])
    for one, other in zip(model.variables, again.variables, strict=True):
        one, other = processes.whole_array(one), processes.whole_array(other)
        np.testing.assert_array_equal(one, other)
    lines = read_run_log(folder / "log.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["tokens"] for line in lines] == [4 * 16 * step for step in range(1, 7)]
    outputs["stream resumed"] = len(list((folder / "checkpoints").iterdir()))
    return outputs


def log(folder):
    """Return a log of each step, the same file in all processes."""
    return RunLog(folder / "log.jsonl", every_steps=1)


def draw_seeds():
    """Return the seeds `(replicas of this process, 2)` that are drawn from equal states."""
    generator = random.SeedGenerator(5)
    if BACKEND != "tensorflow":
        return np.stack([keras.ops.convert_to_numpy(generator.next())])
    import tensorflow as tf

    seeds = _strategy().run(tf.function(generator.next))
    return np.stack([seed.numpy() for seed in _strategy().experimental_local_results(seeds)])


def refusal(folder):
    """Write what tensorflow's replicas say to XLA, and to steps that are skipped."""
    model = make_model(CausalLM)
    refused = []
    for options in ({"jit_compile": True}, {"optimizer": GuardedOptimizer("adam")}):
        model.compile(**options)
        try:
            model.fit(rows(), verbose=0)
        except ValueError as error:
            refused.append(str(error))
    (folder / "refusal.txt").write_text("\n".join(refused))


def main(folder, num_processes, process_id, port):
    """Run all that this backend can do, and write a file for each."""
    folder = pathlib.Path(folder)
    alone = folder.name == "alone"
    if int(num_processes) > 1:
        distribution.initialize(f"127.0.0.1:{port}", int(num_processes), int(process_id))
    scopes = {"alone": _no_scope} if alone else {"data": _no_scope}
    if BACKEND == "tensorflow" and not alone:
        import tensorflow as tf

        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
        scopes = {"data": _mirrored}
    if BACKEND == "jax" and not alone:
        scopes = dict.fromkeys(LAYOUTS, _laid_out)
    for layout, scope in scopes.items():
        for kind in (CausalLM, DiffusionLM) if layout in ("alone", "data") else (DiffusionLM,):
            place = folder / layout / kind.__name__
            place.mkdir(parents=True, exist_ok=True)
            with scope(layout, kind):
                outputs = run(kind, place)
                if kind is DiffusionLM and layout in ("alone", STREAM_LAYOUT):
                    outputs |= stream(kind, place)
                if not alone:
                    outputs["seeds"] = draw_seeds()
            np.savez(place / f"{process_id}.npz", **outputs)
            print(layout, kind.__name__, "done", flush=True)
    if BACKEND == "tensorflow" and not alone:
        with _mirrored(None, None):
            refusal(folder)
    processes.wait_for_all("the end")


def _no_scope(layout, kind):
    return contextlib.nullcontext()


@functools.cache  # a second strategy would take the first one's collectives for its own
def _strategy():
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def _mirrored(layout, kind):
    return _strategy().scope()


def _laid_out(layout, kind):
    shape, fully_sharded = LAYOUTS[layout]
    mesh = keras.distribution.DeviceMesh(
        shape, ("batch", "model"), keras.distribution.list_devices()
    )
    attention = "causal" if kind is CausalLM else "bidirectional"
    layouts = distribution.layout_map(
        {**CONFIG, "attention": attention}, mesh, fully_sharded=fully_sharded
    )
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
    ).scope()


if __name__ == "__main__":
    main(*sys.argv[1:])
