"""A document in a packed row has the logits and the loss that it has alone."""

import grain
import keras
import numpy as np
import pytest

from keras_textdiff.data import ResumableDataset, mixture, pipeline
from keras_textdiff.data.packing import pack_segments
from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.objectives import NextToken, Objective
from keras_textdiff.objectives.cross_entropy import masked_mean_weights
from tests import tiny
from tests.tiny import to_numpy

LENGTH = 12
LONGEST = 7
BACKBONES = {
    "rotary": {},
    "prefix": {"attention": "prefix"},
    "block": {"attention": "block", "block_length": 2},
    "learned positions": {"rope": None, "num_learned_positions": LONGEST},  # fewer than a row has
    "windows, sinks": {
        "sliding_window": 2,
        "sliding_window_layers": (0,),
        "use_attention_sinks": True,
    },
}


class CleanLoss(Objective):
    """Denoising without noise: what is left of a diffusion loss when nothing is drawn."""

    metric_names = ("supervised_tokens",)

    def __call__(self, denoiser, batch):
        token_ids = keras.ops.cast(batch["token_ids"], "int32")
        weights, count = masked_mean_weights(batch["target_mask"])
        loss, _, _ = denoiser.cross_entropy(denoiser.hidden_states(token_ids), token_ids, weights)
        return loss, {"supervised_tokens": (count, keras.ops.ones_like(count))}

    def get_config(self):
        return {}


def packed_rows():
    rng = np.random.default_rng(0)
    examples = []
    for size in (LONGEST, 5, 6, 4, 2, 3, 1):
        tokens = rng.integers(0, 33, size).tolist()
        examples.append((tokens[: size // 3], tokens[size // 3 :]))
    return pack_segments(examples, LENGTH, 0, rng)


def alone(rows):
    """Each document of packed rows in a row of its own, and where it stood: (row, mask)."""
    places = [
        (row, segments == segment)
        for row, segments in enumerate(rows["segment_ids"])
        for segment in range(1, segments.max() + 1)
    ]
    inputs = {}
    for name in ("token_ids", "padding_mask", "prompt_mask", "target_mask"):
        inputs[name] = np.zeros((len(places), LONGEST), rows[name].dtype)
        for number, (row, here) in enumerate(places):
            inputs[name][number, : here.sum()] = rows[name][row, here]
    return inputs, places


def select(inputs, names):
    return {name: inputs[name] for name in names}


@pytest.mark.parametrize("name", BACKBONES)
def test_logits_are_those_of_each_document_alone(name):
    lm = DiffusionLM(tiny.backbone(**BACKBONES[name]))
    rows = packed_rows()
    assert (rows["segment_ids"].max(axis=1) > 1).any() and not rows["padding_mask"].all()
    logits = to_numpy(lm(select(rows, [*lm.backbone.input, "segment_ids"])))
    assert np.isfinite(logits).all()
    if name != "learned positions":  # else the row is too long for them
        without = to_numpy(lm(select(rows, lm.backbone.input)))
        assert np.abs(without - logits)[rows["padding_mask"]].max() > 0.01
    inputs, places = alone(rows)
    expected = to_numpy(lm(select(inputs, lm.backbone.input)))
    for number, (row, here) in enumerate(places):
        np.testing.assert_allclose(
            logits[row, here], expected[number, : here.sum()], rtol=2e-4, atol=2e-4
        )


def test_nothing_of_a_document_reaches_another():
    lm = DiffusionLM(tiny.backbone())
    rows = packed_rows()
    names = [*lm.backbone.input, "segment_ids"]
    before = to_numpy(lm(select(rows, names)))
    row = int(np.argmax(rows["segment_ids"].max(axis=1)))
    here = rows["segment_ids"][row] == 1
    rows["token_ids"][row, here] = (rows["token_ids"][row, here] + 1) % 33
    after = to_numpy(lm(select(rows, names)))
    assert np.abs(after[row, here] - before[row, here]).min() > 0
    np.testing.assert_array_equal(after[row, ~here], before[row, ~here])


@pytest.mark.parametrize("kind", ["diffusion", "diffusion with shifted logits", "causal"])
def test_the_loss_is_that_of_all_documents_alone(kind):
    if kind == "causal":
        model, objective = CausalLM(tiny.backbone(attention="causal")), NextToken()
    else:
        model = DiffusionLM(tiny.backbone(), logit_shift="shifted" in kind)
        objective = CleanLoss()
    model.compile(keras.optimizers.SGD(0.1), objective=objective, run_eagerly=True)
    rows = packed_rows()
    packed, single = model(rows), model(alone(rows)[0])
    for result in (packed, single):
        result["count"] = float(to_numpy(result["metrics"]["supervised_tokens"][0]))
        result["loss"] = float(to_numpy(result["loss"]))
    assert packed["count"] == single["count"] > 10
    assert packed["loss"] == pytest.approx(single["loss"], rel=1e-4)


def test_fit_takes_a_pipeline_as_it_is_and_says_where_it_stopped():
    texts = ["the cat in the hat", "a dog on a log", "one two three", "the hen is thin"]
    rows = mixture([grain.MapDataset.source([{"text": text} for text in texts])])
    lm = tiny.diffusion_lm(scale=0.1)
    eager = keras.config.backend() == "tensorflow"  # tracing takes longer than these steps
    lm.compile(keras.optimizers.Adam(0.01), run_eagerly=eager, jit_compile=tiny.JIT)
    dataset = pipeline(rows, lm.preprocessor, batch_size=2, pack=True, group_size=16)
    history = lm.fit(dataset, steps_per_epoch=3, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 0.3
    again = iter(ResumableDataset(dataset, dataset.state_after(9)))
    batches = [batch for batch, _ in zip(dataset, range(10), strict=False)]
    np.testing.assert_array_equal(next(again)["token_ids"], batches[9]["token_ids"])


def test_a_mixture_of_texts_can_be_batched_and_fitted():
    pairs = [{"prompts": p, "responses": r} for p, r in zip(*tiny.TEXTS.values(), strict=True)]
    lm = tiny.diffusion_lm(scale=0.1)
    lm.compile("adam", run_eagerly=keras.config.backend() == "tensorflow", jit_compile=tiny.JIT)
    for rows in (pairs, [{"text": "the cat in the hat"}] * 4):
        history = lm.fit(grain.MapDataset.source(rows).batch(2), verbose=0).history
        assert np.isfinite(history["loss"]).all()
