import numpy as np
import pytest

from keras_textdiff.evaluation import denoiser_cross_entropy
from keras_textdiff.utils import random
from tests import tiny

LEVELS = (0.0, 0.3, 0.7, 1.0)


def brute_force(lm, rows, level, positions="all", seed=0):
    """Compute the cross-entropy in NumPy, from the logits of one row at a time."""
    contents = [
        np.concatenate([ids[real], np.flatnonzero(target)])
        for ids, real, target in zip(
            rows["token_ids"], rows["padding_mask"], rows["target_mask"], strict=True
        )
    ]
    losses = []
    for row, key in enumerate(random.row_keys(contents)):
        ids, target = rows["token_ids"][row], rows["target_mask"][row]
        uniforms = random.uniform(random.generator("evaluation_positions", seed, *key), len(ids))
        noise = random.generator("evaluation_tokens", seed, *key).integers(
            0, lm.backbone.vocabulary_size, len(ids)
        )
        replaced = target & (uniforms < level)
        inputs = {name: value[row : row + 1] for name, value in rows.items()}
        inputs["token_ids"] = np.where(replaced, noise, ids)[None].astype("int32")
        del inputs["target_mask"]
        logits = tiny.to_numpy(lm(inputs))[0].astype("float64")
        logits -= logits.max(axis=-1, keepdims=True)
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        counted = target if positions == "all" else replaced
        losses.extend(-log_probabilities[np.arange(len(ids)), ids][counted])
    return np.mean(losses)


@pytest.fixture
def rows():
    rows = [tiny.inputs(2, 10, seed) for seed in range(3)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("attention", ["bidirectional", "prefix"])
@pytest.mark.parametrize("positions", ["all", "corrupted"])
def test_equals_brute_force(rows, attention, positions):
    lm = tiny.diffusion_lm(attention=attention)
    levels = LEVELS if positions == "all" else LEVELS[1:]
    results = denoiser_cross_entropy(lm, rows, levels, positions=positions, batch_size=4, seed=3)
    assert list(results) == list(levels)
    for level, nats in results.items():
        expected = brute_force(lm, rows, level, positions, seed=3)
        np.testing.assert_allclose(nats, expected, rtol=2e-5, err_msg=f"level {level}")


def test_level_0_is_the_clean_row(rows):
    lm = tiny.diffusion_lm()
    inputs = {name: rows[name] for name in ("token_ids", "padding_mask")}
    logits = tiny.to_numpy(lm(inputs)).astype("float64")
    totals = np.log(np.exp(logits).sum(axis=-1))
    chosen = np.take_along_axis(logits, rows["token_ids"][..., None], axis=-1)[..., 0]
    expected = (totals - chosen)[rows["target_mask"]].mean()
    (nats,) = denoiser_cross_entropy(lm, rows, (0.0,)).values()
    np.testing.assert_allclose(nats, expected, rtol=2e-5)


def test_a_text_is_prompt_and_response_and_learned_padding():
    lm = tiny.diffusion_lm()
    rows = lm.preprocessor(tiny.TEXTS)
    assert rows["target_mask"][:, -1].all()  # padding up to the row's end is a target
    from_texts = denoiser_cross_entropy(lm, tiny.TEXTS, LEVELS)
    assert from_texts == pytest.approx(denoiser_cross_entropy(lm, rows, LEVELS), rel=1e-5)


@pytest.mark.parametrize(
    "data", [tiny.TEXTS, ["the cat in the hat", "the cat in the hat", "a dog"]]
)
def test_batch_size_does_not_matter(data):
    lm = tiny.diffusion_lm()
    one, two, many = (
        denoiser_cross_entropy(lm, data, LEVELS, batch_size=size) for size in (1, 2, 64)
    )
    assert one == pytest.approx(two, rel=1e-5)
    assert one == pytest.approx(many, rel=1e-5)


def test_noise_grows_with_the_level_and_changes_with_the_seed(rows):
    lm = tiny.diffusion_lm()
    lm.hidden_states = spy = _Spy(lm.hidden_states)
    lm.compile(run_eagerly=True)
    denoiser_cross_entropy(lm, rows, (0.2, 0.8))
    low, high = (canvas != rows["token_ids"] for canvas in spy.canvases)
    assert not low[~rows["target_mask"]].any()
    assert low.sum() < high.sum()
    assert (high | ~low).all()  # what is corrupted at one level is so at the next
    denoiser_cross_entropy(lm, rows, (0.8,), seed=1)
    assert (spy.canvases[2] != spy.canvases[1]).any()


class _Spy:
    def __init__(self, function):
        self.function, self.canvases = function, []

    def __call__(self, inputs, training=False):
        self.canvases.append(tiny.to_numpy(inputs["token_ids"]))
        return self.function(inputs, training)


def test_training_lowers_it():
    lm = tiny.diffusion_lm(scale=0.1)
    lm.compile(optimizer="adam", jit_compile=tiny.JIT)
    lm.optimizer.learning_rate = 1e-2
    before = denoiser_cross_entropy(lm, tiny.TEXTS, (0.3,))
    lm.fit(tiny.TEXTS, batch_size=4, epochs=30, verbose=0)
    after = denoiser_cross_entropy(lm, tiny.TEXTS, (0.3,))  # of the new weights
    assert after[0.3] < before[0.3] - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_levels": (1.1,)}, "noise_levels"),
        ({"noise_levels": (float("nan"),)}, "noise_levels"),
        ({"noise_levels": ()}, "empty"),
        ({"positions": "clean"}, "positions"),
        ({"positions": "corrupted", "noise_levels": (0.0,)}, "corrupts none"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": 0.5}, "seed"),
        ({"data": []}, "no examples"),
        ({"data": {"prompts": [], "responses": []}}, "no examples"),
        ({"data": "one string"}, "list of strings"),
        ({"data": {"token_ids": np.full((1, 4), 33)}}, "token_ids"),
        ({"data": {"token_ids": np.ones((1, 4), int), "target_mask": np.zeros((1, 4))}}, "target"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"data": tiny.TEXTS, **change}
    with pytest.raises(ValueError, match=message):
        denoiser_cross_entropy(tiny.diffusion_lm(), arguments.pop("data"), **arguments)


def test_needs_a_denoiser():
    with pytest.raises(ValueError, match="CausalLM"):
        denoiser_cross_entropy(tiny.causal_lm(), tiny.TEXTS)


def test_text_needs_a_preprocessor():
    lm = tiny.diffusion_lm()
    lm.preprocessor = None
    with pytest.raises(ValueError, match="preprocessor"):
        denoiser_cross_entropy(lm, tiny.TEXTS)
