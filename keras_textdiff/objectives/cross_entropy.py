"""The model as objectives see it, and cross-entropy without the logits of all positions at once.

Shapes: B batch, L length, N positions, D hidden size, V vocabulary, C positions of one chunk.
"""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_textdiff.utils.categorical import categorical_from_uniform, most_likely
from keras_textdiff.utils.compilation import while_loop

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

    Without a True position all weights are 0, and so is the loss.
    """
    mask = ops.cast(mask, "float32")
    count = ops.sum(mask)
    return mask / ops.maximum(count, 1.0), count


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
    num_positions = ops.shape(hidden_states)[0]
    chunk = max(1, min(chunk_elements // vocabulary_size, MAXIMUM_CHUNK))
    if isinstance(num_positions, int):  # else the batch size is known only when it runs
        chunk = -(-num_positions // -(-num_positions // chunk))
    num_chunks = -(-num_positions // chunk)
    padding = num_chunks * chunk - num_positions
    targets = ops.pad(ops.cast(targets, "int32"), [[0, padding]])
    weights = ops.pad(ops.cast(weights, "float32"), [[0, padding]])
    if uniforms is not None:
        uniforms = ops.pad(uniforms, [[0, padding]], constant_values=0.5)

    def run_chunk(hidden, matrix, target, weight, uniform):
        """Return per-position losses and candidates, and the gradients, of one chunk."""
        logits = ops.cast(ops.einsum("cd,vd->cv", hidden, matrix), "float32")  # (C, V)
        if soft_cap is not None:
            logits = ops.tanh(logits / soft_cap) * soft_cap
        if temperature > 0:
            candidates = categorical_from_uniform(logits / temperature, uniform)
        else:
            candidates = most_likely(logits)
        log_total = ops.logsumexp(logits, axis=-1)  # (C,)
        losses = log_total - ops.take_along_axis(logits, target[:, None], axis=1)[:, 0]
        if not differentiate:
            return losses, candidates, None, None
        gradient = ops.exp(logits - log_total[:, None])
        hit = ops.arange(vocabulary_size, dtype="int32")[None] == target[:, None]
        gradient = ops.where(hit, gradient - 1.0, gradient) * weight[:, None]
        if soft_cap is not None:
            gradient = gradient * (1.0 - ops.square(logits / soft_cap))
        gradient = ops.cast(gradient, hidden.dtype)
        hidden_gradient = ops.einsum("cv,vd->cd", gradient, matrix)
        matrix_gradient = ops.cast(ops.einsum("cv,cd->vd", gradient, hidden), "float32")
        return losses, candidates, hidden_gradient, matrix_gradient

    def run(hidden_states, matrix):
        hidden_states = ops.pad(hidden_states, [[0, padding], [0, 0]])
        losses = ops.zeros_like(weights)
        candidates = ops.zeros_like(targets)
        gradients = ()
        if differentiate:
            gradients = (ops.zeros_like(hidden_states), ops.zeros_like(matrix, dtype="float32"))

        def body(index, losses, candidates, gradients):
            start = index * chunk

            def part(x):
                shape = (chunk,) if len(x.shape) == 1 else (chunk, x.shape[1])
                return ops.slice(x, (start, 0)[: len(x.shape)], shape)

            new = run_chunk(
                part(hidden_states),
                matrix,
                part(targets),
                part(weights),
                None if uniforms is None else part(uniforms),
            )
            losses = ops.slice_update(losses, (start,), new[0])
            candidates = ops.slice_update(candidates, (start,), new[1])
            if differentiate:
                hidden_gradient = ops.slice_update(gradients[0], (start, 0), new[2])
                gradients = (hidden_gradient, gradients[1] + new[3])
            return index + 1, losses, candidates, gradients

        if isinstance(num_chunks, int) and num_chunks == 1:
            result = body(0, losses, candidates, gradients)
        else:
            result = while_loop(
                lambda index, *_: index < num_chunks, body, (0, losses, candidates, gradients)
            )
        _, losses, candidates, gradients = result
        # One flat tensor, because a torch gradient function knows only one output. Token ids
        # are exact in float32 up to 2**24.
        loss = ops.sum(losses * weights)
        packed = [loss[None], losses, ops.cast(candidates, "float32")]
        return ops.concatenate(packed), gradients

    if differentiate:

        @ops.custom_gradient
        def packed_with_gradient(hidden_states, matrix):
            packed, (hidden_gradient, matrix_gradient) = run(hidden_states, matrix)

            def gradient(*args, upstream=None):
                upstream = args[0] if upstream is None else upstream
                scale = upstream[0]  # of the loss; the rest is not differentiable
                return (
                    hidden_gradient[:num_positions] * ops.cast(scale, hidden_gradient.dtype),
                    ops.cast(matrix_gradient * scale, matrix.dtype),
                )

            return packed, gradient

        packed = packed_with_gradient(hidden_states, matrix)
    else:
        packed, _ = run(hidden_states, matrix)
    end = num_chunks * chunk + 1
    per_position = ops.stop_gradient(packed[1:end])[:num_positions]
    candidates = ops.cast(ops.stop_gradient(packed[end:]), "int32")[:num_positions]
    return CrossEntropy(packed[0], per_position, candidates)


def output_matrix(embedding):
    """Return the matrix `(V, D)` whose rows give the logits, in the compute dtype."""
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
        return ops.cast(embedding.embeddings, embedding.compute_dtype)
    matrix = ops.cast(embedding.reverse_embeddings, embedding.compute_dtype)
    if mode == "int8":
        matrix = ops.divide(
            matrix, ops.cast(embedding.reverse_embeddings_scale, embedding.compute_dtype)
        )
    return ops.transpose(matrix)
