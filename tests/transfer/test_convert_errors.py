"""What cannot be converted is refused with the weight, class or option at fault."""

import keras
import keras_hub
import numpy as np
import pytest

from keras_textdiff.transfer.convert import convert_backbone, copy_weights
from keras_textdiff.transfer.families import FAMILIES
from keras_textdiff.transfer.families.weights import Weight
from tests.transfer.source_backbones import make_inputs, make_source, own_logits, source_logits

QUERY = "transformer_layer_0/self_attention/query/kernel"
KEY = "transformer_layer_0/self_attention/key/kernel"


@pytest.fixture
def accounts():
    """A source, its converted twin, and a fresh list of weights between them."""
    source = make_source("gpt2")
    return source, convert_backbone(source), FAMILIES[type(source)].weights(source)


def position(weights, destination):
    return next(i for i, weight in enumerate(weights) if weight.destination == destination)


def test_missing_weight_is_named(accounts):
    source, backbone, weights = accounts
    del weights[position(weights, QUERY)]
    with pytest.raises(ValueError, match=rf"'{QUERY}'.*\(32, 4, 8\), is missing from GPT2"):
        copy_weights(weights, source, backbone)


def test_weight_without_a_place_is_named(accounts):
    source, backbone, weights = accounts
    weights.append(Weight("transformer_layer_9/sinks", (source.layer_norm.gamma,)))
    with pytest.raises(ValueError, match="'transformer_layer_9/sinks', which Transformer"):
        copy_weights(weights, source, backbone)


def test_weight_assigned_twice_is_named(accounts):
    source, backbone, weights = accounts
    weights.append(weights[position(weights, QUERY)])
    with pytest.raises(ValueError, match=f"'{QUERY}' of TransformerBackbone is assigned 2 times"):
        copy_weights(weights, source, backbone)


def test_source_weight_left_over_is_named(accounts):
    source, backbone, weights = accounts
    query, key = position(weights, QUERY), position(weights, KEY)
    weights[key] = Weight(KEY, weights[query].sources)
    with pytest.raises(ValueError, match=f"'{QUERY}' of GPT2Backbone.* used 2 times"):
        copy_weights(weights, source, backbone)
    weights[query] = weights[query]._replace(sources=(source.layer_norm.gamma,))
    weights[key] = weights[key]._replace(sources=(source.layer_norm.beta,))
    with pytest.raises(ValueError, match=f"'{QUERY}' of GPT2Backbone.* used 0 times"):
        copy_weights(weights, source, backbone)


def test_misshapen_weight_is_named():
    source = make_source("gpt2")
    source.intermediate_dim = 40
    message = (
        r"'transformer_layer_0/feed_forward/up/kernel' of TransformerBackbone has shape "
        r"\(32, 40\). Got \(32, 48\) from '.*feedforward_intermediate_dense/kernel'"
    )
    with pytest.raises(ValueError, match=message):
        convert_backbone(source)


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, None), (np.inf, "bfloat16"), (1e6, "float16")]
)
def test_weight_that_is_not_finite_is_named(value, dtype):
    source = make_source("gpt2")
    source.transformer_layers[1]._feedforward_output_dense.bias.assign(np.full(32, value))
    message = r"'transformer_layer_1/feed_forward/down/bias' holds NaN or inf in .* a wider `dtype`"
    with pytest.raises(ValueError, match=message):
        convert_backbone(source, dtype=dtype)


def test_configuration_that_asks_for_more_weights_is_refused():
    source = make_source("smollm3")
    source.attention_bias = True
    with pytest.raises(ValueError, match=r"self_attention/query/bias' .*is missing from SmolLM3"):
        convert_backbone(source)


def test_weight_added_to_the_source_is_named():
    source = make_source("gpt2")
    layer = source.transformer_layers[1]
    layer._tracker.unlock()
    layer.add_weight(shape=(3,), name="adapter")
    with pytest.raises(ValueError, match=r"adapter' of GPT2Backbone, shape \(3,\), is used 0"):
        convert_backbone(source)


def test_layer_missing_from_the_source_is_named():
    source = make_source("llama2")
    del source.transformer_layers[0]._feedforward_gate_dense
    with pytest.raises(ValueError, match=r"_feedforward_gate_dense.*install keras-hub"):
        convert_backbone(source)


def test_unsupported_classes_are_refused():
    bert = keras_hub.models.BertBackbone(50, 1, 2, 16, 32)

    class Changed(keras_hub.models.GPT2Backbone):
        pass

    for source in (bert, Changed(50, 1, 2, 16, 32)):
        with pytest.raises(ValueError, match=f"convert {type(source).__name__}.*'GPT2Backbone'"):
            convert_backbone(source)


def test_lora_is_refused_and_merged_by_saving(tmp_path):
    source = make_source("llama2")
    source.enable_lora(2)
    for variable in source.weights:
        if variable.name.startswith("lora_"):
            variable.assign(np.random.default_rng(0).normal(0, 0.3, variable.shape))
    with pytest.raises(ValueError, match=r"has LoRA enabled .*lora_kernel_a.*save_to_preset"):
        convert_backbone(source)
    # The remedy that the message names.
    source.save_to_preset(str(tmp_path))
    merged = keras_hub.models.Backbone.from_preset(str(tmp_path))
    inputs = make_inputs()
    ours = own_logits(convert_backbone(merged, attention="causal"), inputs)
    theirs = source_logits(source, inputs)
    real = inputs["padding_mask"]
    np.testing.assert_allclose(ours[real], theirs[real], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_source_is_refused():
    source = keras_hub.models.GPT2Backbone(50, 1, 2, 8, 8, max_sequence_length=8)
    source.quantize("int8")
    with pytest.raises(ValueError, match=r"quantized \('int8' in layer .*without quantization"):
        convert_backbone(source)


def test_own_backbone_is_checked_too():
    backbone = convert_backbone(make_source("llama2"))
    backbone.enable_lora(2)
    with pytest.raises(ValueError, match="TransformerBackbone has LoRA enabled"):
        convert_backbone(backbone)


def test_gemma3_must_be_text_only():
    sizes = {
        "vocabulary_size": 50, "num_layers": 1, "num_query_heads": 2, "num_key_value_heads": 1,
        "hidden_dim": 16, "intermediate_dim": 16, "head_dim": 8, "image_size": 16,
    }  # fmt: skip
    vision = keras_hub.models.Gemma3VisionEncoder(
        image_size=16, patch_size=4, num_heads=2, hidden_dim=8, num_layers=1,
        intermediate_dim=8, output_dim=16, pool_size=2,
    )  # fmt: skip
    source = keras_hub.models.Gemma3Backbone(**sizes, vision_encoder=vision)
    with pytest.raises(ValueError, match=r"Only text backbones are supported.*vision encoder"):
        convert_backbone(source)
    source = keras_hub.models.Gemma3Backbone(**sizes, use_bidirectional_attention=True)
    with pytest.raises(ValueError, match="use_bidirectional_attention=True, an embedding model"):
        convert_backbone(source)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gemma1", {"use_post_ffw_norm": True}, "must be equal. Got True and False"),
        ("smollm3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    ],
)
def test_configurations_that_cannot_be_represented(name, changes, message):
    source = make_source(name)
    for attribute, value in changes.items():
        setattr(source, attribute, value)
    with pytest.raises(ValueError, match=message):
        convert_backbone(source)


def test_gemma_with_two_epsilons_is_refused():
    source = keras_hub.models.GemmaBackbone(50, 1, 2, 1, 16, 32, 8, layer_norm_epsilon=1e-5)
    with pytest.raises(ValueError, match="got 1e-05 there and 1e-06 in the blocks"):
        convert_backbone(source)


def test_block_attention_needs_a_block_length():
    with pytest.raises(ValueError, match="block_length"):
        convert_backbone(make_source("gpt2"), attention="block")


def test_things_that_are_no_backbone_are_refused():
    for source in (keras.layers.Dense(3), "gpt2", None):
        with pytest.raises(ValueError, match="Cannot convert"):
            convert_backbone(source)
