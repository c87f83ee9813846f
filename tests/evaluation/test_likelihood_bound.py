import itertools
import sys

import numpy as np
import pytest

from keras_textdiff.backbones import TransformerBackbone
from keras_textdiff.evaluation import likelihood_bound
from keras_textdiff.models import DiffusionLM
from tests import tiny

V, LENGTH = 3, 2
CANVASES = np.array(list(itertools.product(range(V), repeat=LENGTH)))


def tiny_lm(seed=0, scale=0.7, **config):
    config = {**tiny.BACKBONE, "vocabulary_size": V, "num_layers": 1, **config}
    backbone = TransformerBackbone(**config)
    tiny.set_weights(backbone, seed, scale)
    return DiffusionLM(backbone)


@pytest.fixture(scope="module")
def shared_lm():
    return tiny_lm()


def reverse_steps(lm, prompt, num_steps):
    """Return the denoiser's p(x0 | xt) for every canvas, and the matrix of each reverse step."""
    token_ids = np.array([[*prompt, *canvas] for canvas in CANVASES], "int32")
    padding_mask = np.ones(token_ids.shape, bool)
    logits = tiny.to_numpy(lm({"token_ids": token_ids, "padding_mask": padding_mask}))
    clean = np.exp(logits.astype("float64"))[:, len(prompt) :]
    clean /= clean.sum(axis=-1, keepdims=True)  # (canvases, L, V)
    matrices = []
    for step in range(num_steps, 0, -1):
        posterior = true_posteriors(step, num_steps)  # [x0, xt, xs]
        matrix = np.ones((len(CANVASES), len(CANVASES)))
        for row, canvas in enumerate(CANVASES):
            for column, earlier in enumerate(CANVASES):
                for place in range(LENGTH):
                    options = posterior[:, canvas[place], earlier[place]]
                    matrix[row, column] *= clean[row, place] @ options
        matrices.append((step, matrix))
    return matrices


def transition(survival):
    return survival * np.eye(V) + (1 - survival) / V


def true_posteriors(step, num_steps):
    alpha_s, alpha_t = 1 - (step - 1) / num_steps, 1 - step / num_steps
    joint = transition(alpha_s)[:, None, :] * transition(alpha_t / alpha_s).T[None]
    return joint / joint.sum(axis=-1, keepdims=True)


def exact_likelihood(lm, prompt, target, num_steps):
    """Return p(target) of ancestral sampling, by summing over all paths of canvases."""
    distribution = np.full(len(CANVASES), 1 / len(CANVASES))
    for _, matrix in reverse_steps(lm, prompt, num_steps):
        distribution = distribution @ matrix
    return distribution[np.equal(CANVASES, target).all(axis=1).argmax()]


def exact_bound(lm, prompt, target, num_steps):
    """Return the variational bound with expectations over all canvases, in nats."""
    total = 0.0
    for step, matrix in reverse_steps(lm, prompt, num_steps):
        forward = transition(1 - step / num_steps)
        posterior = true_posteriors(step, num_steps)
        for row, canvas in enumerate(CANVASES):
            reached = np.prod([forward[target[n], canvas[n]] for n in range(LENGTH)])
            for column, earlier in enumerate(CANVASES):
                true = np.prod([posterior[target[n], canvas[n], earlier[n]] for n in range(LENGTH)])
                if true > 0:
                    total += reached * true * np.log(true / matrix[row, column])
    return total


def rows_of(prompt, targets):
    token_ids = np.array([[*prompt, *target] for target in targets], "int32")
    prompt_mask = np.zeros(token_ids.shape, bool)
    prompt_mask[:, : len(prompt)] = True
    return {"token_ids": token_ids, "prompt_mask": prompt_mask}


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_estimates_the_enumerated_bound_which_bounds_the_likelihood(num_steps, shared_lm):
    lm, prompt = shared_lm, (1,)
    targets = [(0, 2), (1, 1)]
    bounds = np.array([exact_bound(lm, prompt, target, num_steps) for target in targets])
    for target, bound in zip(targets, bounds, strict=True):
        assert bound >= -np.log(exact_likelihood(lm, prompt, target, num_steps)) - 1e-9
    result = likelihood_bound(
        lm,
        rows_of(prompt, targets),
        num_steps=num_steps,
        num_samples=1200,
        batch_size=400,
        seed=1,
    )
    error = result["standard_error"]
    assert 0 < error < 0.05 * result["nats_per_token"]
    assert abs(result["nats_per_token"] - bounds.sum() / 4) < 3 * error
    assert result["num_tokens"] == 4
    np.testing.assert_allclose(
        result["nats_per_token"], -result["log_likelihoods"].sum() / 4, rtol=1e-9
    )
    np.testing.assert_allclose(result["perplexity"], np.exp(result["nats_per_token"]))
    np.testing.assert_allclose(-result["log_likelihoods"], bounds, rtol=0.1)


def test_standard_error_is_that_of_repetitions(shared_lm):
    lm = shared_lm
    rows = rows_of((1,), [(0, 2), (1, 1), (2, 0)])
    results = [
        likelihood_bound(lm, rows, num_steps=20, num_samples=8, batch_size=24, seed=seed)
        for seed in range(40)
    ]
    spread = np.std([result["nats_per_token"] for result in results], ddof=1)
    stated = np.sqrt(np.mean([result["standard_error"] ** 2 for result in results]))
    assert 0.65 < stated / spread < 1.5


def test_uniform_predictions_at_one_step_cost_the_logarithm_of_the_vocabulary():
    lm = tiny_lm(scale=0.0)
    result = likelihood_bound(lm, rows_of((1,), [(0, 2)]), num_steps=1, num_samples=2)
    assert result["nats_per_token"] == pytest.approx(np.log(V), rel=1e-6)
    assert result["standard_error"] == pytest.approx(0, abs=1e-6)


def test_batch_size_does_not_matter_and_the_seed_does():
    lm = tiny.diffusion_lm()
    many, few = (
        likelihood_bound(lm, tiny.TEXTS, num_steps=10, num_samples=4, batch_size=size)
        for size in (64, 5)
    )
    np.testing.assert_allclose(many["log_likelihoods"], few["log_likelihoods"], rtol=1e-5)
    swapped = {name: column[::-1] for name, column in tiny.TEXTS.items()}
    back = likelihood_bound(lm, swapped, num_steps=10, num_samples=4, batch_size=64)
    np.testing.assert_allclose(many["log_likelihoods"][::-1], back["log_likelihoods"], rtol=1e-5)
    other = likelihood_bound(lm, tiny.TEXTS, num_steps=10, num_samples=4, batch_size=64, seed=1)
    assert (np.abs(other["log_likelihoods"] - many["log_likelihoods"]) > 1e-3).all()


def test_text_counts_responses_and_end_tokens_but_bounds_the_padding_too():
    lm = tiny.diffusion_lm()
    rows = lm.preprocessor(tiny.TEXTS)
    from_text = likelihood_bound(lm, tiny.TEXTS, num_steps=4, num_samples=4)
    from_rows = likelihood_bound(lm, rows, num_steps=4, num_samples=4)
    responses = lm.preprocessor.tokenize(tiny.TEXTS["responses"])
    assert from_text["num_tokens"] == sum(len(row) + 1 for row in responses)
    assert from_rows["num_tokens"] == rows["target_mask"].sum() > from_text["num_tokens"]
    np.testing.assert_allclose(
        from_text["log_likelihoods"], from_rows["log_likelihoods"], rtol=1e-6
    )


def test_small_chunks_give_the_same(monkeypatch):
    lm = tiny.diffusion_lm()
    whole = likelihood_bound(lm, tiny.TEXTS, num_steps=4, num_samples=2)
    module = sys.modules[likelihood_bound.__module__]
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 33 * 7)
    lm.compile()  # forgets the compiled function
    parts = likelihood_bound(lm, tiny.TEXTS, num_steps=4, num_samples=2)
    np.testing.assert_allclose(whole["log_likelihoods"], parts["log_likelihoods"], rtol=1e-5)


def test_progress_and_the_strata():
    calls = []
    lm = tiny.diffusion_lm()
    likelihood_bound(
        lm,
        tiny.TEXTS,
        num_steps=3,
        num_samples=100,
        batch_size=300,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [("denoising", 300, 396), ("denoising", 396, 396)]  # 3 steps, 33 samples each


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"num_samples": 1}, "num_samples"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": 1.5}, "seed"),
        ({"data": []}, "no examples"),
        ({"data": {"token_ids": np.full((1, 4), 33)}}, "token_ids"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"data": tiny.TEXTS, **change}
    with pytest.raises(ValueError, match=message):
        likelihood_bound(tiny.diffusion_lm(), arguments.pop("data"), **arguments)


def test_a_hopeless_model_has_infinite_perplexity():
    rows = rows_of((1,), [(0, 2)])
    result = likelihood_bound(tiny_lm(scale=40.0), rows, num_steps=1, num_samples=2)
    assert result["nats_per_token"] > 1000
    assert result["perplexity"] == np.inf


def test_needs_a_diffusion_model():
    with pytest.raises(ValueError, match="log_likelihood"):
        likelihood_bound(tiny.causal_lm(), tiny.TEXTS)
