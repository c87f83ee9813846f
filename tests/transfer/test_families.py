"""Every family computes what its KerasHub source computes."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.transfer.convert import convert_backbone
from keras_textdiff.transfer.families import FAMILIES
from tests.transfer.source_backbones import (
    FAMILY_NAMES,
    LENGTH,
    SOURCES,
    WINDOW_IGNORED,
    assert_close,
    make_inputs,
    make_source,
    on_tensorflow,
    own_logits,
    sorted_values,
    source_logits,
)

PREFILL = 9  # beyond the pretraining length of "phi3 su long", so that all steps agree on it


@pytest.fixture(scope="module", params=SOURCES)
def pair(request):
    """The name of a source, the source, and the causal backbone made from it."""
    source = make_source(request.param)
    return request.param, source, convert_backbone(source, attention="causal")


@pytest.fixture
def bfloat16_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    yield
    keras.config.set_dtype_policy(before)


def test_logits_equal_those_of_the_source(pair):
    name, source, backbone = pair
    inputs = make_inputs()
    ours, theirs = own_logits(backbone, inputs), source_logits(source, inputs)
    if name in WINDOW_IGNORED and not on_tensorflow():
        # We apply the window: equal inside the first one, different beyond.
        assert np.abs(ours[0, 5:] - theirs[0, 5:]).max() > 1e-2
        inputs["padding_mask"][:, 5:] = False
    assert_close(ours, theirs, inputs)


def test_every_class_is_tested():
    assert {name.split()[0] for name in SOURCES} == set(FAMILY_NAMES)
    elsewhere = {"T5Backbone"}  # test_t5.py
    assert {*FAMILY_NAMES.values(), *elsewhere} == {cls.__name__ for cls in FAMILIES}


def test_cached_call_equals_uncached(pair):
    _, _, backbone = pair
    inputs = make_inputs()
    expected = own_logits(backbone, inputs)
    cache = backbone.empty_cache(2, LENGTH)
    outputs = []
    for start, stop in [(0, PREFILL), *((i, i + 1) for i in range(PREFILL, LENGTH))]:
        columns = {**inputs, "token_ids": inputs["token_ids"][:, start:stop]}
        hidden_states, cache = backbone.call_with_cache(columns, cache, start)
        outputs.append(ops.convert_to_numpy(backbone.logits(hidden_states)))
    assert_close(np.concatenate(outputs, axis=1), expected, inputs)


def test_no_parameter_is_lost(pair):
    name, source, backbone = pair
    assert type(source).__name__ == FAMILY_NAMES[name.split()[0]]
    # SmolLM3 counts its rotary frequencies, which are not trainable.
    learned = sum(int(np.prod(v.shape)) for v in source.weights if v.trainable)
    assert backbone.count_params() == learned
    np.testing.assert_array_equal(sorted_values(backbone), sorted_values(source))


def test_configuration_is_plain_json(pair):
    config = pair[2].get_config()
    assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_bfloat16_weights_are_bit_equal(name, bfloat16_policy):
    source = make_source(name)
    backbone = convert_backbone(source)
    assert {variable.dtype for variable in backbone.weights} == {"bfloat16"}
    assert backbone.compute_dtype == "bfloat16"
    np.testing.assert_array_equal(sorted_values(backbone), sorted_values(source))


def test_dtype_argument_overrides():
    source = make_source("llama2")
    backbone = convert_backbone(source, dtype="bfloat16")
    assert {variable.dtype for variable in backbone.weights} == {"bfloat16"}
    wide = convert_backbone(backbone, dtype="float32")
    assert {variable.dtype for variable in wide.weights} == {"float32"}
    np.testing.assert_array_equal(sorted_values(wide), sorted_values(backbone))
    mixed = convert_backbone(source, dtype="mixed_bfloat16")
    assert mixed.compute_dtype == "bfloat16"
    np.testing.assert_array_equal(sorted_values(mixed), sorted_values(source))


def test_attention_is_all_that_changes():
    source = make_source("gemma2")
    causal = convert_backbone(source, attention="causal")
    bidirectional = convert_backbone(source)
    assert bidirectional.attention == "bidirectional"
    for first, second in zip(causal.weights, bidirectional.weights, strict=True):
        np.testing.assert_array_equal(first, second)
    inputs = make_inputs()
    # The last real position sees the same tokens either way only in the first layer.
    assert np.abs(own_logits(causal, inputs) - own_logits(bidirectional, inputs)).max() > 1e-3


def test_own_backbone_is_a_source():
    causal = convert_backbone(make_source("qwen3"), attention="causal")
    block = convert_backbone(causal, attention="block", block_length=4)
    assert block.get_config() == {
        **causal.get_config(), "name": block.name, "attention": "block", "block_length": 4,
    }  # fmt: skip
    again = convert_backbone(block, attention="causal")
    inputs = make_inputs()
    np.testing.assert_array_equal(own_logits(again, inputs), own_logits(causal, inputs))


def test_source_is_left_alone():
    source = make_source("gpt2")
    before = sorted_values(source)
    backbone = convert_backbone(source)
    for variable in backbone.weights:
        variable.assign(ops.zeros(variable.shape))
    np.testing.assert_array_equal(sorted_values(source), before)
