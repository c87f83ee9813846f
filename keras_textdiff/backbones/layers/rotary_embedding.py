"""Rotary position embedding with the frequency scalings that decoder families use."""

import math

import keras
import numpy as np
from keras import ops

from keras_textdiff.utils.registration import register

# What each scaling needs beside "theta".
ROPE_FIELDS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_frequency_factor", "high_frequency_factor", "original_length"),
    "su": ("short_factors", "long_factors", "maximum_length", "original_length"),
    "yarn": ("factor", "original_length"),
}


def check_rope(name, rope, head_dim):
    """Raise a ValueError where `rope` is not None or a complete rotary config."""
    if rope is None:
        return
    scaling = rope.get("scaling", "linear") if isinstance(rope, dict) else None
    if scaling not in ROPE_FIELDS:
        raise ValueError(
            f"`{name}` must be None or a dict with 'theta' and, where scaled, 'scaling' "
            f"(one of {sorted(ROPE_FIELDS)}) and its fields. Got {rope!r}."
        )
    needed = {"theta", *ROPE_FIELDS[scaling]} if "scaling" in rope else {"theta"}
    keys = set(rope) - {"scaling"}
    if keys != needed:
        raise ValueError(
            f"`{name}` with scaling {scaling!r} takes exactly {sorted(needed)}. Got {sorted(keys)}."
        )
    for key, value in rope.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if key != "scaling" and not all(
            isinstance(x, (int, float)) and not isinstance(x, bool) and 0 < x < math.inf
            for x in values
        ):
            raise ValueError(f"`{name}`: {key!r} must be positive. Got {value!r}.")
        if key.endswith("_factors") and len(values) != head_dim // 2:
            raise ValueError(
                f"`{name}`: {key!r} needs head_dim / 2 = {head_dim // 2} numbers. "
                f"Got {len(values)}."
            )


def inverse_frequencies(head_dim, rope):
    """Return the rotary frequencies and the factor on cosine and sine.

    Args:
        head_dim: int, size of one attention head.
        rope: dict, see `RotaryEmbedding`.

    Returns:
        `(short, long, scale)`: float32 arrays `(head_dim / 2,)` for sequences within and beyond
        the pretraining length (equal except for "su"), and a float.

    Reference: Su et al. 2021, arXiv 2104.09864 (rotary); Peng et al. 2023, arXiv 2309.00071,
    section 3 (YaRN); the Llama 3.1 and Phi-3 model cards (llama3, su).
    """
    exponents = np.arange(0, head_dim, 2, dtype="float32") / head_dim
    frequencies = (1.0 / rope["theta"] ** exponents).astype("float32")
    scaling = rope.get("scaling")
    if scaling is None:
        return frequencies, frequencies, 1.0
    if scaling == "linear":
        frequencies = frequencies / rope["factor"]
        return frequencies, frequencies, 1.0
    length = rope["original_length"]
    if scaling == "su":
        ratio = rope["maximum_length"] / length
        scale = 1.0 if ratio <= 1 else math.sqrt(1 + math.log(ratio) / math.log(length))
        short = frequencies / np.asarray(rope["short_factors"], "float32")
        return short, frequencies / np.asarray(rope["long_factors"], "float32"), scale
    slow = frequencies / rope["factor"]
    if scaling == "llama3":
        low, high = rope["low_frequency_factor"], rope["high_frequency_factor"]
        wavelengths = 2 * math.pi / frequencies
        share = np.clip((length / wavelengths - low) / (high - low), 0, 1)
        mixed = (share * frequencies + (1 - share) * slow).astype("float32")
        return mixed, mixed, 1.0

    def dimension(rotations):  # at which this many rotations fit in the pretraining length
        angle = length / (rotations * 2 * math.pi)
        return head_dim * math.log(angle) / (2 * math.log(rope["theta"]))

    first = max(dimension(32.0), 0.0)
    last = min(dimension(1.0), head_dim - 1.0)
    ramp = np.arange(head_dim // 2, dtype="float32") - first
    ramp = np.clip(ramp / max(last - first, 1e-3), 0, 1)
    mixed = (slow * ramp + frequencies * (1 - ramp)).astype("float32")
    return mixed, mixed, 0.1 * math.log(rope["factor"]) + 1.0


def rotate(x, cosine, sine):
    """Rotate the two halves of each head of `x` `(B, L, N, H)` by the given angles."""
    first, second = ops.split(x, 2, axis=-1)
    return x * cosine + ops.concatenate([-second, first], axis=-1) * sine


@register
class RotaryEmbedding(keras.layers.Layer):
    """Cosine and sine of the rotation at each position.

    Args:
        head_dim: int, size of one attention head.
        rope: dict of plain numbers: "theta", the base of the wavelengths, and for scaled
            frequencies "scaling" ("linear", "llama3", "su" or "yarn") with its fields.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        positions: int tensor `(L,)`, or `(B, L)` for positions that differ between rows.

    Returns:
        `(cosine, sine)`, each `(1, L, 1, head_dim)` or `(B, L, 1, head_dim)`.

    Example:
    ```python
    cosine, sine = RotaryEmbedding(64, {"theta": 10000.0})(np.arange(16))
    ```
    """

    def __init__(self, head_dim, rope, **kwargs):
        super().__init__(**kwargs)
        self.head_dim = head_dim
        self.rope = dict(rope)

    def call(self, positions):
        """Return cosine and sine of the angles at `positions`."""
        short, long, scale = inverse_frequencies(self.head_dim, self.rope)
        frequencies = ops.convert_to_tensor(short, "float32")
        if self.rope.get("scaling") == "su":
            beyond = ops.max(positions) + 1 > self.rope["original_length"]
            frequencies = ops.where(beyond, ops.convert_to_tensor(long, "float32"), frequencies)
        if len(positions.shape) == 1:
            positions = positions[None]
        angles = ops.cast(positions, "float32")[..., None, None] * frequencies  # (1, L, 1, H/2)
        angles = ops.concatenate([angles, angles], axis=-1)  # (1, L, 1, H)
        cosine, sine = ops.cos(angles) * scale, ops.sin(angles) * scale
        return ops.cast(cosine, self.compute_dtype), ops.cast(sine, self.compute_dtype)

    def get_config(self):
        """Return the constructor's arguments."""
        return {**super().get_config(), "head_dim": self.head_dim, "rope": self.rope}
