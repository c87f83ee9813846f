import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.corruption import UniformCorruption
from keras_textdiff.objectives import NextToken, Sundae
from keras_textdiff.objectives.cross_entropy import Denoiser
from tests import tiny
from tests.tiny import to_numpy


def number(tensor):
    return float(to_numpy(tensor))


class RecordingDenoiser:
    """A denoiser whose hidden states are the next token's embedding; keeps its canvases."""

    def __init__(self, seed=0, vocabulary_size=33, training=False):
        self.canvases = []
        self.embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size, 16, embeddings_initializer=keras.initializers.RandomNormal(seed=1)
        )
        self.embedding.build()
        self.embedding.embeddings.assign(
            np.random.default_rng(seed).normal(0, 1, (vocabulary_size, 16))
        )
        self.vocabulary_size = vocabulary_size

        def hidden_states(token_ids):
            self.canvases.append(to_numpy(token_ids))
            return self.embedding((token_ids + 1) % vocabulary_size)

        self.denoiser = Denoiser(
            hidden_states, self.embedding, keras.random.SeedGenerator(3), training
        )

    def logits(self, canvas):
        table = to_numpy(self.embedding.embeddings)
        return table[(canvas + 1) % self.vocabulary_size] @ table.T

    def mean_cross_entropy(self, canvas, target, mask):
        logits = self.logits(canvas).astype("float64")
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -np.take_along_axis(log_p, target[..., None], -1)[..., 0][mask].mean()


@pytest.mark.parametrize("num_unroll_steps", [0, 1, 3])
def test_sundae_is_the_sum_over_the_unrolled_canvases(num_unroll_steps):
    model, batch = RecordingDenoiser(), tiny.inputs()
    loss, metrics = Sundae(num_unroll_steps)(model.denoiser, batch)
    target, mask = batch["token_ids"], batch["target_mask"]
    assert len(model.canvases) == num_unroll_steps + 1
    for canvas in model.canvases:  # neither prefix nor padding is ever touched
        np.testing.assert_array_equal(canvas[~mask], target[~mask])
    for before, after in zip(model.canvases, model.canvases[1:], strict=False):
        np.testing.assert_array_equal(after[mask], model.logits(before).argmax(-1)[mask])
    losses = [model.mean_cross_entropy(canvas, target, mask) for canvas in model.canvases]
    assert number(loss) == pytest.approx(sum(losses), rel=1e-4)
    total, count = metrics["loss_first"]
    assert number(total) / number(count) == pytest.approx(losses[0], rel=1e-4)
    total, count = metrics["loss_unrolled"]
    expected = np.mean(losses[1:]) if num_unroll_steps else 0
    assert number(total) / number(count) == pytest.approx(expected, rel=1e-4)
    assert number(metrics["supervised_tokens"][0]) == mask.sum()


def test_sundae_accuracy_counts_corrupted_tokens():
    model, batch = RecordingDenoiser(), tiny.inputs(batch_size=8, length=40)
    _, metrics = Sundae(corruption=UniformCorruption(1, 1))(model.denoiser, batch)
    mask = batch["target_mask"]
    correct, count = metrics["accuracy"]
    assert number(count) == mask.sum()
    predicted = model.logits(model.canvases[0]).argmax(-1)
    assert number(correct) == (predicted == batch["token_ids"])[mask].sum()


def test_sundae_draws_candidates_at_a_temperature():
    model, batch = RecordingDenoiser(), tiny.inputs(batch_size=8, length=40)
    Sundae(unroll_temperature=1.0)(model.denoiser, batch)
    first, second = model.canvases
    mask = batch["target_mask"]
    assert 0 < (model.logits(first).argmax(-1) == second)[mask].mean() < 1


def test_no_gradient_flows_through_the_unrolled_canvas():
    """The loss's gradient equals that of its steps with the canvases held fixed."""
    if keras.config.backend() != "torch":
        pytest.skip("reads gradients directly; the loss is the same code on every backend")
    model, batch = RecordingDenoiser(training=True), tiny.inputs()
    loss, _ = Sundae(1)(model.denoiser, batch)
    loss.backward()
    gradient = to_numpy(model.embedding.embeddings.value.grad).copy()
    model.embedding.embeddings.value.grad = None
    mask = ops.convert_to_tensor(batch["target_mask"])
    target = ops.convert_to_tensor(batch["token_ids"])
    total = 0
    for canvas in list(model.canvases):
        hidden = model.embedding((ops.convert_to_tensor(canvas) + 1) % 33)
        logits = model.embedding(hidden, reverse=True)
        losses = keras.losses.sparse_categorical_crossentropy(target, logits, from_logits=True)
        total = total + ops.sum(ops.where(mask, losses, 0.0)) / batch["target_mask"].sum()
    total.backward()
    expected = to_numpy(model.embedding.embeddings.value.grad)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_next_token_is_the_shifted_cross_entropy():
    model, batch = RecordingDenoiser(), tiny.inputs()
    loss, metrics = NextToken()(model.denoiser, batch)
    ids, mask = batch["token_ids"], batch["target_mask"][:, 1:]
    expected = model.mean_cross_entropy(ids[:, :-1], ids[:, 1:], mask)
    assert number(loss) == pytest.approx(expected, rel=1e-4)
    assert number(metrics["supervised_tokens"][0]) == mask.sum()
    predicted = model.logits(ids[:, :-1]).argmax(-1)
    assert number(metrics["accuracy"][0]) == (predicted == ids[:, 1:])[mask].sum()


@pytest.mark.parametrize("objective", [Sundae(), NextToken()])
def test_no_supervised_token_means_no_loss(objective):
    model, batch = RecordingDenoiser(), tiny.inputs()
    batch["target_mask"][:] = False
    loss, metrics = objective(model.denoiser, batch)
    assert number(loss) == 0
    assert all(np.isfinite([number(x) for x in pair]).all() for pair in metrics.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_unroll_steps": -1}, "num_unroll_steps"),
        ({"unroll_temperature": -0.5}, "unroll_temperature"),
        ({"corruption": "mask"}, "Unknown uniform_corruption"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Sundae(**options)
