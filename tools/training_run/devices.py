"""Processes that find each other, and the model's layout on their devices."""

import contextlib

import keras
from absl import logging

from keras_textdiff import distribution
from keras_textdiff.utils import processes
from training_run.flags import FLAGS


def start_processes():
    """Join the other processes, where the flags name any; leave Orbax's chatter out of the log."""
    logging.set_verbosity(logging.WARNING)
    if FLAGS.coordinator is not None:
        distribution.initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    elif FLAGS.distributed:
        distribution.initialize()
    elif FLAGS.num_processes is not None or FLAGS.process_id is not None:
        raise ValueError(
            "--num_processes and --process_id go with --coordinator=host:port. Got no coordinator."
        )


def scope(backbone):
    """Return a context manager for all that makes and uses the model.

    Args:
        backbone: what `keras_textdiff.distribution.layout_map` takes.

    Raises:
        ValueError: for a layout that the backend or the number of devices does not have.
    """
    backend = keras.config.backend()
    if backend != "jax":
        if FLAGS.model_parallel > 1 or FLAGS.fully_sharded:
            raise ValueError(
                "--model_parallel and --fully_sharded need KERAS_BACKEND=jax. Got the backend "
                f"{backend}, which splits batches alone."
            )
        return _mirrored() if backend == "tensorflow" else contextlib.nullcontext()
    devices = keras.distribution.list_devices()
    if len(devices) % FLAGS.model_parallel:
        raise ValueError(
            f"--model_parallel must divide the number of devices, {len(devices)}. Got "
            f"{FLAGS.model_parallel}."
        )
    if len(devices) == 1:
        return contextlib.nullcontext()
    mesh = keras.distribution.DeviceMesh(
        (len(devices) // FLAGS.model_parallel, FLAGS.model_parallel), ("batch", "model"), devices
    )
    layouts = distribution.layout_map(backbone, mesh, fully_sharded=FLAGS.fully_sharded)
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
    ).scope()


def _mirrored():
    """Return the scope of all GPUs of this machine, where there are several."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU")
    if len(devices) < 2:
        return contextlib.nullcontext()
    return tf.distribute.MirroredStrategy([device.name for device in devices]).scope()


def say(text):
    """Print a line, once for all processes."""
    if processes.is_first_process():
        print(text, flush=True)
