"""Corruption by tokens drawn uniformly from the vocabulary."""

import keras
from keras import ops

from keras_textdiff.utils.checks import check_number
from keras_textdiff.utils.registration import register


@register
class UniformCorruption:
    """Replaces each target token, with one probability per row, by a uniformly drawn one.

    The probability (the row's time: 0 clean, 1 noise) is drawn uniformly from
    [`low`, `high`]. Prefix tokens are never corrupted.

    Args:
        low: float in [0, 1].
        high: float in [`low`, 1]; equal to `low` for one fixed noise level.

    Raises:
        ValueError: for bounds outside [0, 1] or in the wrong order.

    Example:
    ```python
    canvas, noise_mask = UniformCorruption()(token_ids, target_mask, 1000, seed_generator)
    ```

    Reference: Savinov et al. 2022, arXiv 2112.06749, section 2.1; Han et al. 2024,
    arXiv 2401.17181, section 3.1.
    """

    def __init__(self, low=0.0, high=1.0):
        self.low = check_number("low", low, minimum=0, maximum=1)
        self.high = check_number("high", high, minimum=self.low, maximum=1)

    def __call__(self, token_ids, target_mask, vocabulary_size, seed):
        """Corrupt a batch.

        Args:
            token_ids: int tensor `(B, L)`.
            target_mask: bool tensor `(B, L)`, True on target positions.
            vocabulary_size: int V.
            seed: `keras.random.SeedGenerator`.

        Returns:
            `(canvas, noise_mask)`: int `(B, L)`, and bool `(B, L)`, True where a token was
            replaced (perhaps by an equal one).
        """
        shape = ops.shape(token_ids)
        time = keras.random.uniform((shape[0], 1), self.low, self.high, seed=seed)
        if self.low == self.high:
            time = ops.full_like(time, self.low)
        noise_mask = ops.logical_and(
            keras.random.uniform(shape, seed=seed) < time, ops.cast(target_mask, "bool")
        )
        noise = keras.random.randint(shape, 0, vocabulary_size, dtype="int32", seed=seed)
        return ops.where(noise_mask, noise, ops.cast(token_ids, "int32")), noise_mask

    def get_config(self):
        """Return the constructor's arguments."""
        return {"low": self.low, "high": self.high}
