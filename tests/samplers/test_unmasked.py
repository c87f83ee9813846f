"""Where nothing is padded, samplers look at no mask."""

import numpy as np
import pytest

from keras_textdiff.backbones.layers import attention as attention_module
from keras_textdiff.models import DiffusionLM
from keras_textdiff.samplers import SundaeSampler
from tests import tiny


@pytest.fixture
def masks(monkeypatch):
    """A list that gets, at each call of attention, whether it had a mask."""
    masks = []
    needed_mask = attention_module.needed_mask

    def observe(mask):
        mask = needed_mask(mask)
        masks.append(mask is not None)
        return mask

    monkeypatch.setattr(attention_module, "needed_mask", observe)
    return masks


def make(**config):
    lm = DiffusionLM(tiny.backbone(**config))
    lm.compile(sampler=SundaeSampler(3, num_canvases=2), jit_compile=tiny.JIT)
    return lm


def prompt(length, rows=2):
    ids = np.random.default_rng(length).integers(0, 33, (rows, length)).astype("int32")
    return {"token_ids": ids, "padding_mask": np.arange(length)[None].repeat(rows, 0) < 4}


def generate(lm, length):
    return lm.generate(prompt(length), stop_token_ids=None, seed=1)["token_ids"]


def test_texts_are_the_same_with_and_without_masks(masks, monkeypatch):
    lm, masked_lm = make(), make()
    lengths = (64, 40, 64, 128)  # one of them is filled up
    texts = []
    for length in lengths:
        masks.clear()
        texts.append(generate(lm, length))
        assert not masks or set(masks) == {length == 40}  # looked at where they are compiled
    monkeypatch.setattr(SundaeSampler, "_is_unmasked", lambda *_: False)
    masks.clear()
    for length, text in zip(lengths, texts, strict=True):
        np.testing.assert_array_equal(generate(masked_lm, length), text)
    assert set(masks) == {True}


@pytest.mark.parametrize(
    "config",
    [
        {"attention": "block", "block_length": 8},
        {"attention": "prefix"},
        {"sliding_window": 4, "sliding_window_layers": [1]},
    ],
    ids=str,
)
def test_other_attention_has_its_masks(config, masks):
    generate(make(**config), 64)
    assert set(masks) == {True}


def test_an_encoder_is_padded_or_not(masks):
    backbone = tiny.encoder_decoder()
    rows = tiny.encoder_inputs(length=64, prefix_length=64)
    full = {name: np.ones_like(rows[name]) for name in rows if name.endswith("padding_mask")}
    assert backbone.is_unmasked({**rows, **full})
    for name in full:
        assert not backbone.is_unmasked({**rows, **full, name: rows[name]})


@pytest.mark.parametrize("options", [{"attention_soft_cap": 5.0}, {"use_attention_sinks": True}])
def test_options_that_products_compute(options, monkeypatch):
    text = generate(make(**options), 64)
    monkeypatch.setattr(SundaeSampler, "_is_unmasked", lambda *_: False)
    np.testing.assert_array_equal(generate(make(**options), 64), text)
