"""A learning rate that rises before it does what another schedule says."""

import keras
from keras import ops

from keras_textdiff.utils.checks import check_integer
from keras_textdiff.utils.registration import register


@register
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly for some steps, then follows a schedule from its beginning.

    Args:
        schedule: float, or a `keras.optimizers.schedules.LearningRateSchedule`.
        num_steps: int, steps until the first rate of `schedule` is reached.

    Raises:
        ValueError: for a number of steps below 1.

    Example:
    ```python
    cosine = keras.optimizers.schedules.CosineDecay(1e-3, decay_steps=9000)
    lm.compile(optimizer=keras.optimizers.AdamW(WarmUp(cosine, num_steps=1000)))
    ```
    """

    def __init__(self, schedule, num_steps):
        super().__init__()
        self.schedule = schedule
        self.num_steps = check_integer("num_steps", num_steps, minimum=1)

    def __call__(self, step):
        """Return the learning rate of a step, 0 first."""
        step = ops.cast(step, "float32")
        share = ops.minimum((step + 1.0) / self.num_steps, 1.0)
        rate = self.schedule
        if callable(rate):
            rate = rate(ops.maximum(step - self.num_steps, 0.0))
        return share * rate

    def get_config(self):
        """Return the constructor's arguments."""
        schedule = self.schedule
        if callable(schedule):
            schedule = keras.optimizers.schedules.serialize(schedule)
        return {"schedule": schedule, "num_steps": self.num_steps}

    @classmethod
    def from_config(cls, config):
        """Return the schedule that `get_config` describes."""
        config = dict(config)
        if isinstance(config["schedule"], dict):
            config["schedule"] = keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(**config)
