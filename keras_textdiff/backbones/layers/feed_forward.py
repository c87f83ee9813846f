"""The position-wise network of a Transformer block."""

import keras
from keras import ops

from keras_textdiff.backbones.layers.dense import Dense
from keras_textdiff.utils.dense import ACTIVATIONS
from keras_textdiff.utils.registration import register

PLAIN_ACTIVATIONS = tuple(ACTIVATIONS)
GATED_ACTIVATIONS = (*ACTIVATIONS, "clamped_swiglu")


def combine_gated(activation, gate, up):
    """Combine the gate and the up projection (Shazeer 2020, arXiv 2002.05202)."""
    if activation == "clamped_swiglu":  # GPT-OSS
        gate, up = ops.minimum(gate, 7.0), ops.clip(up, -7.0, 7.0)
        return (up + 1.0) * gate * ops.sigmoid(1.702 * gate)
    return ACTIVATIONS[activation](gate) * up


@register
class FeedForward(keras.layers.Layer):
    """Two dense layers with an activation, gated or plain.

    Args:
        intermediate_dim: int, size between the two layers.
        activation: "silu", "gelu", "gelu_tanh" (its approximation), "relu", and where gated
            "clamped_swiglu".
        gated: bool, whether a second projection multiplies the activated one.
        use_bias: bool, whether the dense layers have a bias.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        x: float tensor `(B, L, D)`.

    Example:
    ```python
    FeedForward(intermediate_dim=256)(np.ones((2, 8, 64)))
    ```
    """

    def __init__(self, intermediate_dim, activation="silu", gated=True, use_bias=False, **kwargs):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.gated = gated
        self.use_bias = use_bias

    def build(self, input_shape):
        """Create the dense layers for inputs `(B, L, D)`."""
        hidden_dim = input_shape[-1]
        wide = (*input_shape[:-1], self.intermediate_dim)
        names = ["gate", "up"] if self.gated else ["up"]
        activated = names[0] if self.activation in ACTIVATIONS else None
        for name, units, shape in [
            *((name, self.intermediate_dim, input_shape) for name in names),
            ("down", hidden_dim, wide),
        ]:
            layer = Dense(
                units,
                activation=self.activation if name == activated else None,
                use_bias=self.use_bias,
                name=name,
                dtype=self.dtype_policy,
            )
            layer.build(shape)
            setattr(self, name, layer)
        self.built = True

    def call(self, x, training=None):
        """Return a tensor of the shape of `x`."""
        # All positions in one matrix: XLA's products in the backward pass are faster on two axes.
        rows = ops.reshape(x, (-1, x.shape[-1]))
        if self.gated:
            gate, up = (layer(rows, training=training) for layer in (self.gate, self.up))
            # The gate has its activation already, unless the two combine otherwise.
            activated = self.activation in ACTIVATIONS
            rows = gate * up if activated else combine_gated(self.activation, gate, up)
        else:
            rows = self.up(rows, training=training)
        return ops.reshape(self.down(rows), ops.shape(x))

    def compute_output_shape(self, input_shape):
        """Return the input's shape."""
        return input_shape

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": self.activation,
            "gated": self.gated,
            "use_bias": self.use_bias,
        }
