"""The model as objectives see it, and cross-entropy without the logits of all positions at once.

Shapes: B batch, L length, N positions, D hidden size, V vocabulary, C positions of one chunk,
G groups.
"""

import dataclasses
import functools
from typing import Any

import keras
from keras import ops, tree
from keras.src.backend.common.variables import AutocastScope  # Keras has no public name for it

from keras_textdiff.utils.categorical import draw
from keras_textdiff.utils.compilation import while_loop
from keras_textdiff.utils.dense import dense
from keras_textdiff.utils.processes import num_row_groups
from keras_textdiff.utils.replicas import mean_over_replicas, num_replicas
from keras_textdiff.utils.softmax_gradient import (
    add_product,
    cross_entropies,
    cross_entropies_and_gradient,
    scaled_sum,
)

CHUNK_ELEMENTS = 2**24  # float32 logits alive at once: 64 MiB
MAXIMUM_CHUNK = 1024  # positions; the last chunk is filled up to the size of the others


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A model as objectives see it.

    Attributes:
        hidden_states: callable, `(token_ids (B, L)) -> (B, L, D)`; the batch's masks are bound.
        embedding: `keras.layers.ReversibleEmbedding` that turns hidden states into logits.
        seed: `keras.random.SeedGenerator` for all that is drawn.
        training: bool; gradients are needed where True.
    """

    hidden_states: Any
    embedding: Any
    seed: Any
    training: bool

    @property
    def vocabulary_size(self):
        """Number of token ids V."""
        return self.embedding.input_dim

    def cross_entropy(self, hidden_states, targets, weights, temperature=0.0):
        """Score all positions of a batch.

        Args:
            hidden_states: float tensor `(B, L, D)`.
            targets: int tensor `(B, L)`.
            weights: float tensor `(B, L)`, weights in the loss.
            temperature: float, of the drawn candidates; 0 for the most likely ones.

        Returns:
            `(loss, per_position, candidates)`: a scalar, and `(B, L)` tensors.
        """
        shape = ops.shape(targets)
        uniforms = None
        if temperature > 0:
            uniforms = keras.random.uniform(shape, 1e-7, 1 - 1e-7, seed=self.seed)
            uniforms = ops.reshape(uniforms, (-1,))
        result = cross_entropy(
            self.embedding,
            ops.reshape(hidden_states, (-1, hidden_states.shape[-1])),
            ops.reshape(targets, (-1,)),
            ops.reshape(weights, (-1,)),
            uniforms=uniforms,
            temperature=temperature,
            differentiate=self.training,
        )
        per_position = ops.reshape(result.per_position, shape)
        return result.loss, per_position, ops.reshape(result.candidates, shape)


def masked_mean_weights(mask):
    """Return weights that average over the True positions of `mask`, and their count.

    Both mean the whole batch where replicas share it: the mean of the replicas' losses is the
    batch's. Without a True position all weights are 0, and so is the loss.
    """
    mask = ops.cast(mask, "float32")
    count = mean_over_replicas(ops.sum(mask))  # of one replica
    return mask / ops.maximum(count, 1e-9), count * num_replicas()


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """What one pass over the positions gives.

    Attributes:
        loss: scalar, the weighted sum of the cross-entropies; the only differentiable part.
        per_position: float32 `(N,)`, cross-entropy of each position in nats.
        candidates: int32 `(N,)`, drawn or most likely token of each position.
    """

    loss: Any
    per_position: Any
    candidates: Any


def cross_entropy(
    embedding,
    hidden_states,
    targets,
    weights,
    *,
    uniforms=None,
    temperature=0.0,
    differentiate=True,
    chunk_elements=CHUNK_ELEMENTS,
):
    """Compute the cross-entropy of `targets`, chunk by chunk.

    The gradient is made together with the loss, while a chunk's logits are at hand: nothing is
    computed twice, and what stays alive is one chunk's logits in float32 and the gradient of
    the output matrix.

    Args:
        embedding: `keras.layers.ReversibleEmbedding`, whose reverse call gives the logits.
        hidden_states: float tensor `(N, D)`.
        targets: int tensor `(N,)`.
        weights: float tensor `(N,)`, each position's weight in the loss; no gradient flows
            through it.
        uniforms: float32 tensor `(N,)` inside (0, 1); needed where `temperature` is above 0.
        temperature: float; candidates are drawn from softmax(logits / temperature), and are
            the most likely tokens at 0.
        differentiate: bool, whether the loss must have a gradient.
        chunk_elements: int, most float32 logits alive at once.

    Returns:
        `CrossEntropy`.

    Example:
    ```python
    result = cross_entropy(backbone.token_embedding, hidden, targets, ops.ones((6,)) / 6)
    ```
    """
    matrix = output_matrix(embedding)  # (V, D)
    vocabulary_size = embedding.input_dim
    soft_cap = embedding.logit_soft_cap
    num_positions = group_size = ops.shape(hidden_states)[0]
    # Devices that share a batch hold G groups of rows; each goes through its own, chunk by chunk.
    num_groups = num_row_groups()
    if num_groups > 1 and num_positions % num_groups == 0:
        group_size = num_positions // num_groups
    else:
        num_groups = 1
    chunk = chunk_size(group_size, vocabulary_size, chunk_elements)
    num_chunks = -(-group_size // chunk)
    padding = num_chunks * chunk - group_size

    def grouped(x, fill=0):  # (N, ...) to (G, N / G and padding, ...)
        x = ops.reshape(x, (num_groups, group_size, *x.shape[1:]))
        return ops.pad(x, [[0, 0], [0, padding], *[[0, 0]] * (len(x.shape) - 2)], "constant", fill)

    targets = grouped(ops.cast(targets, "int32"))
    weights = grouped(ops.cast(weights, "float32"))
    if uniforms is not None:
        uniforms = grouped(uniforms, 0.5)

    def run_chunk(matrix, hidden, target, weight, uniform=None, of_matrix=None):
        """Return per-position losses and candidates of one chunk, and the gradients.

        That of the matrix is added to `of_matrix`, what chunks before have given.
        """
        logits = dense(hidden, ops.transpose(matrix))  # (C, V)
        if soft_cap is not None:
            logits = ops.tanh(ops.cast(logits, "float32") / soft_cap) * soft_cap
        candidates = draw(logits, uniform, temperature)
        if not differentiate:
            return cross_entropies(logits, target), candidates
        losses, gradient = cross_entropies_and_gradient(logits, target, weight)
        if soft_cap is not None:
            gradient = gradient * (1.0 - ops.square(logits / soft_cap))
        gradient = ops.cast(gradient, hidden.dtype)
        hidden_gradient = dense(gradient, matrix)
        return losses, candidates, hidden_gradient, add_product(of_matrix, gradient, hidden)

    def run(hidden_states, matrix):
        matrix = ops.cast(matrix, embedding.compute_dtype)
        hidden_states = grouped(hidden_states)
        losses = ops.zeros_like(weights)
        candidates = ops.zeros_like(targets)
        gradients = ()
        if differentiate:
            of_matrix = ops.zeros((num_groups, *matrix.shape), dtype="float32")
            gradients = (ops.zeros_like(hidden_states), of_matrix)

        def body(index, losses, candidates, gradients):
            start = index * chunk

            def part(x):
                shape = (num_groups, chunk, *x.shape[2:])
                return ops.slice(x, (0, start, 0)[: len(x.shape)], shape)

            arrays = {"hidden": hidden_states, "target": targets, "weight": weights}
            if uniforms is not None:
                arrays["uniform"] = uniforms
            parts = tree.map_structure(part, arrays)
            if differentiate:
                parts["of_matrix"] = gradients[1]
            new = _map_groups(functools.partial(run_chunk, matrix), parts)
            losses = ops.slice_update(losses, (0, start), new[0])
            candidates = ops.slice_update(candidates, (0, start), new[1])
            if differentiate:
                hidden_gradient = ops.slice_update(gradients[0], (0, start, 0), new[2])
                gradients = (hidden_gradient, new[3])
            return index + 1, losses, candidates, gradients

        if isinstance(num_chunks, int) and num_chunks == 1:
            result = body(0, losses, candidates, gradients)
        else:
            result = while_loop(
                lambda index, *_: index < num_chunks, body, (0, losses, candidates, gradients)
            )
        _, losses, candidates, gradients = result
        # One tensor, because a torch gradient function knows only one output. Token ids are
        # exact in float32 up to 2**24.
        loss = ops.sum(losses * weights, axis=1, keepdims=True)
        packed = [loss, losses, ops.cast(candidates, "float32")]
        return ops.concatenate(packed, axis=1), gradients

    if differentiate:

        @ops.custom_gradient
        def packed_with_gradient(hidden_states, matrix):
            packed, (hidden_gradient, matrix_gradient) = run(hidden_states, matrix)

            def gradient(*args, upstream=None):
                upstream = args[0] if upstream is None else upstream
                scale = upstream[:, 0, None, None]  # of the loss; the rest is not differentiable
                of_hidden = hidden_gradient[:, :group_size] * ops.cast(scale, hidden_gradient.dtype)
                return (
                    ops.reshape(of_hidden, (num_positions, hidden_states.shape[-1])),
                    scaled_sum(matrix_gradient, scale, matrix.dtype),
                )

            return packed, gradient

        packed = packed_with_gradient(hidden_states, matrix)
    else:
        packed, _ = run(hidden_states, matrix)
    end = num_chunks * chunk + 1

    def per_position(start):
        values = ops.stop_gradient(packed[:, start : start + group_size])
        return ops.reshape(values, (num_positions,))

    candidates = ops.cast(per_position(end), "int32")
    return CrossEntropy(ops.sum(packed[:, 0]), per_position(1), candidates)


def chunk_size(num_positions, vocabulary_size, chunk_elements=CHUNK_ELEMENTS):
    """Return of how many positions the logits are alive at once.

    Args:
        num_positions: int, or a tensor where the batch size is known only when it runs.
        vocabulary_size: int V.
        chunk_elements: int, most float32 logits alive at once.
    """
    chunk = max(1, min(chunk_elements // vocabulary_size, MAXIMUM_CHUNK))
    if isinstance(num_positions, int):
        chunk = -(-num_positions // -(-num_positions // chunk))
    return chunk


def _map_groups(function, arrays):
    """Apply `function` to each group of `arrays`, a dict of tensors whose first axis is G."""
    if next(iter(arrays.values())).shape[0] == 1:
        results = function(**{name: x[0] for name, x in arrays.items()})
        return tree.map_structure(lambda x: x[None], results)
    return ops.vectorized_map(lambda parts: function(**parts), arrays)


def output_matrix(embedding):
    """Return the matrix `(V, D)` whose rows give the logits.

    It has the dtype of the weights, so that under mixed precision its gradient, added up in
    float32, is not rounded at the end; LoRA's and quantized weights come in the compute dtype.
    """
    mode = embedding.quantization_mode
    if mode not in (None, "int8"):
        raise ValueError(
            f"A cross-entropy, of training or of a score, needs float or int8 weights. Got a "
            f"model quantized to {mode!r}. Load it without quantization, or quantize to 'int8'."
        )
    if embedding.tie_weights:
        if mode == "int8":
            return ops.divide(
                ops.cast(embedding._embeddings, embedding.compute_dtype),
                ops.cast(embedding.embeddings_scale, embedding.compute_dtype)[:, None],
            )
        with AutocastScope(embedding.variable_dtype):
            return ops.reshape(embedding.embeddings, (embedding.input_dim, -1))
    if mode == "int8":
        matrix = ops.divide(
            ops.cast(embedding.reverse_embeddings, embedding.compute_dtype),
            ops.cast(embedding.reverse_embeddings_scale, embedding.compute_dtype),
        )
    else:
        with AutocastScope(embedding.variable_dtype):
            matrix = ops.reshape(embedding.reverse_embeddings, (-1, embedding.input_dim))
    return ops.transpose(matrix)
