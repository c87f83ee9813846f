"""One run: from a preset or a configuration over checkpoints to a preset."""

import itertools
import pathlib
import sys

import keras

from keras_textdiff import data
from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.objectives import Sundae
from keras_textdiff.presets import save_preset
from keras_textdiff.training import ExactResume, RollBack, RunLog
from keras_textdiff.transfer.ar2diff import ar2diff
from keras_textdiff.transfer.load_source import is_diffusion_preset, load_source
from keras_textdiff.utils import processes
from keras_textdiff.utils.devices import get_device
from training_run import devices, sources
from training_run.flags import FLAGS
from training_run.optimizer import make_optimizer


def main(template, make_model, *, pack=False):
    """Do all that pretrain.py and finetune.py do; end with one line where the flags are wrong.

    Args:
        template: of the rows, see `sources.open_source`.
        make_model: callable that takes the sources and returns the model to start from.
        pack: bool, whether examples share rows.
    """
    try:
        devices.start_processes()
        rows = [sources.open_source(name, template) for name in FLAGS.data]
        weights = sources.parse_weights(FLAGS.weights, len(rows))
        validation = None
        if FLAGS.validation_data is not None:
            held_out = sources.open_source(FLAGS.validation_data, template)
            validation = list(itertools.islice(held_out, FLAGS.validation_examples))
        check_flags()
        preset = make_start(lambda: make_model(rows))
        train(preset, rows, weights, pack=pack, validation=validation)
    except (FileNotFoundError, ImportError, ValueError) as error:
        sys.exit(f"error: {error}")


def check_flags():
    """Raise a ValueError for flags that do not go together, before anything is loaded."""
    if FLAGS.steps > FLAGS.epoch_steps and FLAGS.steps % FLAGS.epoch_steps:
        raise ValueError(
            f"--steps must be a multiple of --epoch_steps, {FLAGS.epoch_steps}. Got {FLAGS.steps}."
        )
    make_optimizer()
    if isinstance(_peak(), str):
        get_device(_peak())


def model_class():
    """Return the class that the objective trains."""
    return DiffusionLM if FLAGS.objective == "sundae" else CausalLM


def make_start(make_model):
    """Write the model that training starts from as a preset, unless it is there.

    It is made on one device by the first process; all load it from there onto theirs.

    Args:
        make_model: callable that returns it.

    Returns:
        Path of the preset's folder.
    """
    folder = output() / "start"
    if processes.is_first_process() and not (folder / "config.json").exists():
        save_preset(make_model(), folder, together=False)
    processes.wait_for_all("start")
    if not (folder / "config.json").exists():
        raise ValueError(
            f"{folder} is not there: processes of a run share the folder --output. Put it on a "
            "file system that all of them see."
        )
    return folder


def model_of_preset(handle):
    """Return the model of a preset as the objective trains it; an AR one becomes diffusion."""
    model = _load(handle)
    if model.preprocessor is None:
        raise ValueError(f"{handle} has no tokenizer. Pass a preset that has one.")
    return model


def _load(handle):
    if FLAGS.objective == "next_token":
        model = load_source(handle)
        if not isinstance(model, CausalLM):
            raise ValueError(
                f"{handle} is a model of KerasHub, {type(model).__name__}, which trains in its own "
                "`fit`. Pass a CausalLM of this package, or --objective=sundae to convert it."
            )
        return model
    return DiffusionLM.from_preset(handle) if is_diffusion_preset(handle) else ar2diff(handle)


def train(preset, sources, weights=None, *, pack=False, validation=None):
    """Train, with checkpoints, and write the result as a preset.

    Args:
        preset: folder of the model to start from.
        sources: list of sources of rows, see `keras_textdiff.data`.
        weights: list of floats, or None.
        pack: bool, whether examples share rows.
        validation: list of rows, or None.

    Returns:
        `keras.callbacks.History`.
    """
    keras.utils.set_random_seed(FLAGS.seed)
    with devices.scope(preset):
        options = {} if FLAGS.dtype is None else {"dtype": FLAGS.dtype}
        model = model_class().from_preset(preset, **options)
        _configure(model)
        rows = data.mixture(sources, weights, seed=FLAGS.seed)
        _, parts = processes.row_part()
        if FLAGS.batch_size % parts:
            raise ValueError(
                f"--batch_size must be a multiple of {parts}, the processes that share it. Got "
                f"{FLAGS.batch_size}."
            )
        batches = data.pipeline(
            rows, model.preprocessor, batch_size=FLAGS.batch_size // parts, pack=pack,
            seed=FLAGS.seed,
        )  # fmt: skip
        history = model.fit(
            batches,
            steps_per_epoch=min(FLAGS.epoch_steps, FLAGS.steps),
            epochs=max(1, FLAGS.steps // FLAGS.epoch_steps),
            validation_data=None if validation is None else _columns(validation),
            validation_batch_size=None if validation is None else FLAGS.batch_size,
            verbose="auto" if processes.is_first_process() else 0,
            callbacks=_callbacks(),
        )
        model.save_to_preset(output() / "preset")
    devices.say(f"Trained: {output() / 'preset'}")
    return history


def _configure(model):
    """Set what the flags say of a model that was loaded, and compile it."""
    if FLAGS.gradient_checkpointing:
        for layer in model.backbone.layers:
            if hasattr(layer, "gradient_checkpointing"):
                layer.gradient_checkpointing = True
    options = {}
    if FLAGS.objective == "sundae":
        options["objective"] = Sundae(num_unroll_steps=FLAGS.num_unroll_steps)
    model.compile(optimizer=make_optimizer(), **options)


def _callbacks():
    resume = ExactResume(
        output() / "checkpoints",
        save_every_steps=FLAGS.save_every_steps,
        max_to_keep=FLAGS.max_to_keep,
    )
    log = RunLog(
        output() / "log.jsonl",
        every_steps=FLAGS.log_every_steps,
        tensorboard=output() / "tensorboard" if FLAGS.tensorboard else None,
        peak=_peak(),
    )
    callbacks = [resume, log]
    if FLAGS.roll_back_after:
        callbacks.append(RollBack(resume, after_skipped=FLAGS.roll_back_after))
    return callbacks


def _peak():
    """Return what `RunLog` takes for --device."""
    try:
        return float(FLAGS.device) if FLAGS.device else None
    except ValueError:
        return FLAGS.device


def _columns(rows):
    """Return rows as `fit` takes them: a list of texts, or a dict of lists."""
    if "text" in rows[0]:
        return [row["text"] for row in rows]
    return {name: [row[name] for row in rows] for name in ("prompts", "responses")}


def output():
    """Return the folder of the run."""
    return pathlib.Path(FLAGS.output)
