import itertools

import keras_hub
import numpy as np
import pytest

from keras_textdiff.evaluation import log_likelihood
from tests import tiny


def brute_force(lm, rows):
    """Sum the log-probabilities of each row's targets in float64."""
    inputs = {name: rows[name] for name in ("token_ids", "padding_mask")}
    logits = tiny.to_numpy(lm(inputs)).astype("float64")
    totals = []
    for ids, target, row in zip(rows["token_ids"], rows["target_mask"], logits, strict=True):
        log_p = row - np.log(np.exp(row).sum(axis=-1, keepdims=True))
        totals.append(sum(log_p[n - 1, ids[n]] for n in np.flatnonzero(target) if n))
    return np.array(totals)


def keras_hub_lm(sequence_length=24):
    tokenizer = tiny.tokenizer()
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=33,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=128,
    )
    tiny.set_weights(backbone)
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=sequence_length
    )
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=preprocessor)


def test_equals_brute_force():
    lm = tiny.causal_lm()
    result = log_likelihood(lm, tiny.TEXTS, batch_size=3)
    rows = lm.preprocessor(tiny.TEXTS)
    expected = brute_force(lm, rows)
    np.testing.assert_allclose(result["log_likelihoods"], expected, rtol=1e-5)
    responses = lm.preprocessor.tokenize(tiny.TEXTS["responses"])
    assert result["num_tokens"] == sum(len(row) + 1 for row in responses)
    nats = -expected.sum() / result["num_tokens"]
    assert result["nats_per_token"] == pytest.approx(nats, rel=1e-5)
    assert result["perplexity"] == pytest.approx(np.exp(nats), rel=1e-5)
    loss = lm.evaluate(tiny.TEXTS, batch_size=4, verbose=0, return_dict=True)["loss"]
    assert result["nats_per_token"] == pytest.approx(loss, rel=1e-5)


def test_all_continuations_together_have_probability_1():
    lm = tiny.causal_lm()
    continuations = list(itertools.product(range(33), repeat=2))
    token_ids = np.array([(5, *continuation) for continuation in continuations], "int32")
    prompt_mask = np.zeros(token_ids.shape, bool)
    prompt_mask[:, 0] = True
    rows = {"token_ids": token_ids, "prompt_mask": prompt_mask}
    result = log_likelihood(lm, rows, batch_size=1100)
    assert np.exp(result["log_likelihoods"]).sum() == pytest.approx(1, rel=1e-5)


def test_a_model_of_keras_hub():
    lm = keras_hub_lm()
    calls = []
    result = log_likelihood(lm, tiny.TEXTS, batch_size=3, progress=lambda *call: calls.append(call))
    assert calls == [("scoring", 3, 4), ("scoring", 4, 4)]
    rows = tiny.causal_lm().preprocessor(tiny.TEXTS)  # the same tokens, start token included
    start = lm.preprocessor.tokenizer.start_token_id
    assert (rows["token_ids"][:, 0] == start).all()
    np.testing.assert_allclose(result["log_likelihoods"], brute_force(lm, rows), rtol=1e-5)


def test_a_first_token_without_another_before_it_does_not_count():
    token_ids = np.array([[3, 4, 5], [6, 7, 8]], "int32")
    lm = tiny.causal_lm()
    result = log_likelihood(lm, {"token_ids": token_ids})
    assert result["num_tokens"] == 4
    with pytest.raises(ValueError, match="nothing before it"):
        log_likelihood(lm, {"token_ids": token_ids[:, :1]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"data": []}, "no examples"),
        ({"data": {"token_ids": np.full((1, 4), 33)}}, "token_ids"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"data": tiny.TEXTS, **change}
    with pytest.raises(ValueError, match=message):
        log_likelihood(tiny.causal_lm(), arguments.pop("data"), **arguments)


def test_needs_an_autoregressive_model():
    with pytest.raises(ValueError, match="likelihood_bound"):
        log_likelihood(tiny.diffusion_lm(), tiny.TEXTS)
