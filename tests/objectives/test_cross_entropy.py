import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.objectives.cross_entropy import cross_entropy, output_matrix
from tests.tiny import to_numpy

N, D, V = 37, 16, 300


class Scorer(keras.Model):
    """A dense layer and an embedding, trained by either form of the loss."""

    def __init__(self, embedding, loss):
        super().__init__()
        self.dense = keras.layers.Dense(D, kernel_initializer="identity")
        self.embedding = embedding
        self.loss_of = loss
        self.dense.build((None, D))
        self.built = True

    def call(self, x, training=None):
        return self.dense(x)

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        return self.loss_of(self.embedding, y_pred, y, x)


def make_embedding(tied=True, soft_cap=None, dtype="float32"):
    embedding = keras.layers.ReversibleEmbedding(
        V,
        D,
        tie_weights=tied,
        logit_soft_cap=soft_cap,
        dtype=dtype,
        embeddings_initializer=keras.initializers.RandomNormal(0, 1, seed=3),
    )
    embedding.build()
    return embedding


def plain(embedding, hidden, targets, x):
    logits = embedding(hidden, reverse=True)
    losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    return ops.sum(losses * ops.abs(x[:, 0]))


def chunked(chunk_elements):
    def loss(embedding, hidden, targets, x):
        weights = ops.abs(x[:, 0])
        return cross_entropy(
            embedding, hidden, targets, weights, chunk_elements=chunk_elements
        ).loss

    return loss


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # of the untied input embedding
@pytest.mark.parametrize("soft_cap", [None, 5.0])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_equal_the_plain_ones(tied, soft_cap):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, D)).astype("float32"), rng.integers(0, V, N)
    results = []
    for loss in (plain, chunked(V * 8), chunked(V * 100)):
        model = Scorer(make_embedding(tied, soft_cap), loss)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=keras.config.backend() == "jax")
        value = float(np.ravel(model.train_on_batch(x, y))[0])
        weights = model.embedding.weights[-1:] + model.dense.weights
        results.append((value, [to_numpy(weight) for weight in weights]))
    for value, weights in results[1:]:
        assert value == pytest.approx(results[0][0], rel=1e-5)
        for weight, expected in zip(weights, results[0][1], strict=True):
            np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)


def score(embedding, chunk_elements, **options):
    rng = np.random.default_rng(1)
    hidden = ops.convert_to_tensor(rng.normal(size=(N, D)), embedding.compute_dtype)
    targets = ops.convert_to_tensor(rng.integers(0, V, N), "int32")
    return hidden, cross_entropy(
        embedding, hidden, targets, ops.ones(N), chunk_elements=chunk_elements, **options
    )


@pytest.mark.parametrize("differentiate", [True, False])
def test_candidates_do_not_depend_on_the_chunks(differentiate):
    embedding = make_embedding()
    hidden, whole = score(embedding, V * N, differentiate=differentiate)
    logits = to_numpy(embedding(hidden, reverse=True))
    np.testing.assert_array_equal(to_numpy(whole.candidates), logits.argmax(-1))
    uniforms = ops.convert_to_tensor(np.random.default_rng(2).random(N), "float32")
    drawn = []
    for chunk_elements in (V, V * 7, V * N):
        _, parts = score(
            embedding,
            chunk_elements,
            differentiate=differentiate,
            uniforms=uniforms,
            temperature=0.7,
        )
        np.testing.assert_allclose(
            to_numpy(parts.per_position), to_numpy(whole.per_position), rtol=1e-5
        )
        drawn.append(to_numpy(parts.candidates))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert (drawn[0] != logits.argmax(-1)).any()


def test_losses_are_float32_where_the_model_is_bfloat16():
    embedding = make_embedding(dtype="bfloat16")
    hidden, result = score(embedding, V * 8)
    assert keras.backend.standardize_dtype(result.per_position.dtype) == "float32"
    logits = to_numpy(ops.cast(embedding(hidden, reverse=True), "float32")).astype("float64")
    targets = np.random.default_rng(1)
    targets.normal(size=(N, D))
    targets = targets.integers(0, V, N)
    log_totals = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    expected = log_totals - logits[np.arange(N), targets]
    np.testing.assert_allclose(to_numpy(result.per_position), expected, atol=0.1)


@pytest.mark.parametrize("tied", [True, False])
def test_int8_weights_are_scored_by_their_values(tied):
    embedding = make_embedding(tied)
    before = to_numpy(output_matrix(embedding))
    embedding.quantize("int8")
    after = to_numpy(output_matrix(embedding))
    assert 0 < np.abs(after - before).max() < 0.02 * np.abs(before).max()


def test_other_quantizations_are_refused():
    embedding = make_embedding()
    embedding.quantize("int4")
    with pytest.raises(ValueError, match=r"of training or of a score, needs float or int8.*'int4'"):
        output_matrix(embedding)


@pytest.mark.skipif(
    keras.config.backend() != "torch", reason="reads gradients directly; the code is the same"
)
@pytest.mark.parametrize("tied", [True, False])
def test_mixed_precision_does_not_round_the_sum_of_the_matrix_gradients(tied):
    embedding = make_embedding(tied, dtype="mixed_bfloat16")
    with keras.src.backend.common.variables.AutocastScope("bfloat16"):  # as inside a layer
        _, result = score(embedding, V * 8)
    result.loss.backward()
    gradient = (embedding._embeddings if tied else embedding.reverse_embeddings).value.grad
    assert keras.backend.standardize_dtype(gradient.dtype) == "float32"
    rounded = gradient.bfloat16().float()
    assert (gradient != rounded).float().mean() > 0.9


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
def test_the_matrix_comes_in_the_dtype_of_its_weights(dtype):
    embedding = make_embedding(dtype=dtype)
    with keras.src.backend.common.variables.AutocastScope("bfloat16"):  # as inside a layer
        matrix = output_matrix(embedding)
        assert keras.backend.standardize_dtype(matrix.dtype) == embedding.variable_dtype
        embedding.enable_lora(2)  # which Keras adds in the compute dtype
        assert keras.backend.standardize_dtype(output_matrix(embedding).dtype) == "bfloat16"
