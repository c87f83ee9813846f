"""How Keras reads batches."""

import keras


def adapt(batches):
    """Return what a loop of Keras should be given to read these batches.

    On tensorflow, Keras has the input pipeline tuned while it runs. The thread that does it looks
    after 10 ms, 20 ms, 40 ms and so on, and may sleep through the end of a loop, which then waits
    for it: up to as long again as the loop took (seen with tensorflow 2.21). Batches that one
    Python generator makes leave nothing to tune.

    Args:
        batches: what `data.make_batches` returned, or a generator.
    """
    if keras.config.backend() != "tensorflow":
        return batches
    import tensorflow as tf
    from keras.src.trainers.data_adapters import get_data_adapter  # has no public name

    adapter = get_data_adapter(batches)
    options = tf.data.Options()
    options.autotune.enabled = False
    tuned = adapter.get_tf_dataset
    adapter.get_tf_dataset = lambda: tuned().with_options(options)
    adapter.batches = batches
    return adapter


def original(adapted):
    """Return the batches that `adapt` was given."""
    return getattr(adapted, "batches", adapted)
