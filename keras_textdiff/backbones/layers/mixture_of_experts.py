"""A sparse feed-forward network: each token is sent to a few of many experts."""

import keras
from keras import ops

from keras_textdiff.backbones.layers.feed_forward import combine_gated
from keras_textdiff.utils.processes import num_row_groups
from keras_textdiff.utils.registration import register
from keras_textdiff.utils.weights_follow import start_from


@register
class MixtureOfExperts(keras.layers.Layer):
    """Gated experts behind a softmax router.

    Every expert runs on every token and the router's weights select: exact, with static
    shapes on every backend, at the cost of the experts that are not selected.

    Args:
        num_experts: int.
        num_experts_per_token: int, experts with the highest router probability that count.
        intermediate_dim: int, inner size of one expert.
        activation: see `FeedForward` with `gated=True`.
        normalize_weights: bool, whether the selected experts' weights sum to 1.
        use_bias: bool, whether router and experts have a bias.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        x: float tensor `(B, L, D)`.

    Example:
    ```python
    MixtureOfExperts(num_experts=4, num_experts_per_token=2, intermediate_dim=64)(x)
    ```

    Reference: Shazeer et al. 2017, arXiv 1701.06538; Jiang et al. 2024, arXiv 2401.04088,
    section 2.1.
    """

    def __init__(
        self,
        num_experts,
        num_experts_per_token,
        intermediate_dim,
        activation="silu",
        normalize_weights=True,
        use_bias=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.num_experts_per_token = num_experts_per_token
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.normalize_weights = normalize_weights
        self.use_bias = use_bias

    def build(self, input_shape):
        """Create router and experts for inputs `(B, L, D)`."""
        hidden_dim = input_shape[-1]
        experts, inner = self.num_experts, self.intermediate_dim
        self.router = keras.layers.Dense(
            experts, use_bias=self.use_bias, name="router", dtype=self.dtype_policy
        )
        self.router.build((None, hidden_dim))
        start = start_from("glorot_uniform")
        self.gate_up = self.add_weight(
            shape=(experts, hidden_dim, 2 * inner), initializer=start, name="gate_up"
        )
        self.down = self.add_weight(
            shape=(experts, inner, hidden_dim), initializer=start, name="down"
        )
        if self.use_bias:
            self.gate_up_bias = self.add_weight(
                shape=(experts, 2 * inner), initializer="zeros", name="gate_up_bias"
            )
            self.down_bias = self.add_weight(
                shape=(experts, hidden_dim), initializer="zeros", name="down_bias"
            )
        self.built = True

    def call(self, x):
        """Return a tensor of the shape of `x`."""
        shape = ops.shape(x)
        x = ops.reshape(x, (-1, shape[-1]))  # (T, D), T tokens
        probabilities = ops.softmax(ops.cast(self.router(x), "float32"), axis=-1)  # (T, E)
        weights, selected = _top_k(probabilities, self.num_experts_per_token)
        if self.normalize_weights:
            weights = weights / ops.sum(weights, axis=-1, keepdims=True)
        experts = ops.arange(self.num_experts, dtype=selected.dtype)
        routed = ops.cast(ops.equal(selected[..., None], experts), weights.dtype)  # (T, k, E)
        routed = ops.cast(ops.sum(routed * weights[..., None], axis=1), x.dtype)  # (T, E)
        hidden = ops.einsum("td,edf->etf", x, self.gate_up)
        if self.use_bias:
            hidden = hidden + self.gate_up_bias[:, None]
        gate, up = ops.split(hidden, 2, axis=-1)
        hidden = combine_gated(self.activation, gate, up)
        output = ops.einsum("etf,efd->etd", hidden, self.down)
        if self.use_bias:
            output = output + self.down_bias[:, None]
        return ops.reshape(ops.einsum("etd,te->td", output, routed), shape)

    def compute_output_shape(self, input_shape):
        """Return the input's shape."""
        return input_shape

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "num_experts_per_token": self.num_experts_per_token,
            "intermediate_dim": self.intermediate_dim,
            "activation": self.activation,
            "normalize_weights": self.normalize_weights,
            "use_bias": self.use_bias,
        }


def _top_k(x, k):
    """Return the k largest numbers of each row and their indices, the first where equal."""
    if num_row_groups() == 1:
        return ops.top_k(x, k)
    # For its top-k, XLA sends all rows to all devices; not so for a sort.
    indices = ops.argsort(-x, axis=-1)[:, :k]
    return ops.take_along_axis(x, indices, axis=-1), indices
