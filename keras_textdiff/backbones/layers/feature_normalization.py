"""Normalization over the feature axis, in the three forms that decoder families use."""

import keras
from keras import ops

from keras_textdiff.utils.layer_norm import torch_layer_norm
from keras_textdiff.utils.registration import register

NORMALIZATIONS = ("rms", "rms_unit_offset", "layer")


@register
class FeatureNormalization(keras.layers.Layer):
    """Normalizes the last axis in float32 and scales it.

    Args:
        kind: "rms" (root mean square, Zhang and Sennrich 2019, arXiv 1910.07467),
            "rms_unit_offset" (the same, scaled by 1 + weight, as in Gemma) or "layer"
            (layer normalization with scale and bias).
        epsilon: float added to the mean square.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        inputs: float tensor `(..., D)`.

    Example:
    ```python
    FeatureNormalization("rms")(np.ones((2, 8)))
    ```
    """

    def __init__(self, kind="rms", epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.epsilon = epsilon

    def build(self, input_shape):
        """Create the scale and, for "layer", the bias."""
        shape = (input_shape[-1],)
        start = "zeros" if self.kind == "rms_unit_offset" else "ones"
        self.scale = self.add_weight(shape=shape, initializer=start, name="scale")
        if self.kind == "layer":
            self.bias = self.add_weight(shape=shape, initializer="zeros", name="bias")

    def call(self, inputs):
        """Return the normalized inputs in the layer's compute dtype."""
        scale = ops.cast(self.scale, "float32")
        scale = 1.0 + scale if self.kind == "rms_unit_offset" else scale
        bias = ops.cast(self.bias, "float32") if self.kind == "layer" else None
        if keras.config.backend() == "torch":  # one kernel; the others fuse what is written here
            if self.kind == "layer":
                x = torch_layer_norm(inputs, scale, bias, self.epsilon)
            else:
                x = ops.rms_normalization(ops.cast(inputs, "float32"), scale, epsilon=self.epsilon)
            return ops.cast(x, self.compute_dtype)
        x = ops.cast(inputs, "float32")
        if self.kind == "layer":
            x = x - ops.mean(x, axis=-1, keepdims=True)
        x = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + self.epsilon) * scale
        return ops.cast(x if bias is None else x + bias, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """Return the input's shape."""
        return input_shape

    def get_config(self):
        """Return the constructor's arguments."""
        return {**super().get_config(), "kind": self.kind, "epsilon": self.epsilon}
