"""The optimizer of the flags: schedule, clipping, averages, accumulation, guards."""

import keras

from keras_textdiff.training import GuardedOptimizer, WarmUp
from training_run.flags import FLAGS


def make_optimizer():
    """Return the optimizer that the flags describe.

    Raises:
        ValueError: for flags that do not go together.
    """
    # Keras counts the steps of a schedule in updates.
    updates = max(1, FLAGS.steps // FLAGS.accumulate_steps)
    warm_up = FLAGS.warmup_steps // FLAGS.accumulate_steps
    if FLAGS.warmup_steps >= FLAGS.steps:
        raise ValueError(
            f"--warmup_steps must be below --steps. Got {FLAGS.warmup_steps} and {FLAGS.steps}."
        )
    rate = FLAGS.learning_rate
    if FLAGS.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, updates - warm_up)
    elif FLAGS.schedule == "linear":
        rate = keras.optimizers.schedules.PolynomialDecay(rate, updates - warm_up, 0.0)
    if warm_up:
        rate = WarmUp(rate, warm_up)
    options = {"learning_rate": rate}
    if FLAGS.weight_decay is not None:
        options["weight_decay"] = FLAGS.weight_decay
    if FLAGS.clip_norm:
        options["global_clipnorm"] = FLAGS.clip_norm
    if FLAGS.ema_momentum:
        options |= {"use_ema": True, "ema_momentum": FLAGS.ema_momentum}
    if FLAGS.accumulate_steps > 1:
        options["gradient_accumulation_steps"] = FLAGS.accumulate_steps
    cls = type(keras.optimizers.get(FLAGS.optimizer))
    optimizer = cls(**options)
    if FLAGS.skip_bad_steps:
        return GuardedOptimizer(optimizer, spike_factor=FLAGS.spike_factor or None)
    if FLAGS.roll_back_after:
        raise ValueError("--roll_back_after counts skipped steps: it needs --skip_bad_steps.")
    return optimizer
