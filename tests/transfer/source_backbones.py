"""Tiny pretrained models of every family, in the configurations that differ from each other."""

import keras
import keras_hub
import numpy as np
from keras import ops

VOCABULARY_SIZE = 50
LENGTH = 14
REAL = 10  # real tokens of the second row

models = keras_hub.models
SIZES = {
    "vocabulary_size": VOCABULARY_SIZE,
    "num_layers": 2,
    "hidden_dim": 32,
    "intermediate_dim": 48,
}
HEADS = {"num_query_heads": 4, "num_key_value_heads": 2}
BASE = {**SIZES, **HEADS}
WIDE = {**BASE, "head_dim": 16}
LLAMA3_ROPE = {
    "rope_max_wavelength": 500000,
    "rope_frequency_adjustment_factor": 8.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
    "rope_pretraining_sequence_length": 16,
}
SU_ROPE = {
    "rope_scaling_type": "su",
    "rope_scaling_short_factor": [1.0, 1.1, 1.2, 1.3],
    "rope_scaling_long_factor": [1.5, 2.0, 2.5, 3.0],
    "max_sequence_length": 32,
}
GEMMA2 = {
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "attention_logit_soft_cap": 5.0,
    "final_logit_soft_cap": 3.0,
}
SMOLLM3 = {
    **SIZES,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_dropout": 0.0,
    "layer_types": ["attention"] * 2,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 64,
    "rope_theta": 5e6,
    "partial_rotary_factor": 1.0,
}
QWEN3_MOE = {**WIDE, "moe_intermediate_dim": 24, "num_experts": 4, "top_k": 2}
NO_WINDOW = {"sliding_window_size": None}

SOURCES = {
    "gpt2": lambda: models.GPT2Backbone(50, 2, 4, 32, 48, max_sequence_length=32),
    "llama2": lambda: models.LlamaBackbone(**BASE),
    "llama2 position scaling": lambda: models.LlamaBackbone(
        **BASE, rope_position_scaling_factor=4.0
    ),
    "llama3 scaled, tied": lambda: models.Llama3Backbone(
        **BASE, **LLAMA3_ROPE, tie_word_embeddings=True
    ),
    "mistral window": lambda: models.MistralBackbone(**WIDE, sliding_window=5),
    "mistral scaled": lambda: models.MistralBackbone(
        **BASE, sliding_window=None, rope_scaling_factor=4.0
    ),
    "qwen2.5": lambda: models.QwenBackbone(**BASE, rope_max_wavelength=1000000),
    "qwen2.5 untied, long window": lambda: models.QwenBackbone(
        **BASE,
        tie_word_embeddings=False,
        use_sliding_window_attention=True,
        sliding_window_size=LENGTH,
    ),
    "qwen2.5 window": lambda: models.QwenBackbone(
        **BASE, use_sliding_window_attention=True, sliding_window_size=5
    ),
    "qwen3": lambda: models.Qwen3Backbone(**WIDE, **NO_WINDOW),
    "qwen3 untied": lambda: models.Qwen3Backbone(**WIDE, tie_word_embeddings=False),
    "qwen3 window": lambda: models.Qwen3Backbone(**WIDE, sliding_window_size=5),
    "gemma1": lambda: models.GemmaBackbone(**WIDE),
    "gemma2": lambda: models.GemmaBackbone(
        **WIDE, **GEMMA2, use_sliding_window_attention=True, sliding_window_size=5
    ),
    "gemma3": lambda: models.Gemma3Backbone(
        **{**WIDE, "num_layers": 6},
        image_size=16,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        use_sliding_window_attention=True,
        sliding_window_size=5,
        global_rope_scaling_factor=8.0,
    ),
    "gemma3 local scaling": lambda: models.Gemma3Backbone(
        **WIDE,
        image_size=16,
        use_sliding_window_attention=True,
        sliding_window_size=5,
        local_rope_scaling_factor=2.0,
    ),
    "gemma3 plain": lambda: models.Gemma3Backbone(**WIDE, image_size=16, use_query_key_norm=False),
    "phi3": lambda: models.Phi3Backbone(**BASE),
    "phi3 su short": lambda: models.Phi3Backbone(**BASE, **SU_ROPE, pretraining_sequence_length=16),
    "phi3 su long": lambda: models.Phi3Backbone(**BASE, **SU_ROPE, pretraining_sequence_length=8),
    "smollm3": lambda: models.SmolLM3Backbone(
        **SMOLLM3, attention_bias=False, mlp_bias=False, rope_layer_enabled_list=[True, False]
    ),
    "smollm3 bias": lambda: models.SmolLM3Backbone(
        **SMOLLM3, attention_bias=True, mlp_bias=True, rope_layer_enabled_list=[False]
    ),
    "mixtral": lambda: models.MixtralBackbone(**BASE, num_experts=4, top_k=2, sliding_window=None),
    "mixtral window": lambda: models.MixtralBackbone(
        **BASE, num_experts=4, top_k=3, sliding_window=5
    ),
    "qwen3-moe": lambda: models.Qwen3MoeBackbone(**QWEN3_MOE, **NO_WINDOW, norm_top_k_prob=True),
    "qwen3-moe unnormalized, one dense layer": lambda: models.Qwen3MoeBackbone(
        **QWEN3_MOE, **NO_WINDOW, norm_top_k_prob=False, mlp_only_layers=[1]
    ),
    "qwen3-moe sparse step, tied": lambda: models.Qwen3MoeBackbone(
        **QWEN3_MOE, **NO_WINDOW, decoder_sparse_step=2, tie_word_embeddings=True
    ),
    "qwen3-moe without experts": lambda: models.Qwen3MoeBackbone(
        **QWEN3_MOE, **NO_WINDOW, mlp_only_layers=[0, 1]
    ),
    "qwen3-moe window": lambda: models.Qwen3MoeBackbone(**QWEN3_MOE, sliding_window_size=5),
    "gpt-oss": lambda: models.GptOssBackbone(
        **WIDE,
        num_experts=4,
        top_k=2,
        sliding_window=5,
        rope_max_wavelength=150000,
        rope_scaling_factor=32.0,
    ),
    "gpt-oss no window": lambda: models.GptOssBackbone(
        **BASE, num_experts=4, top_k=4, sliding_window=None
    ),
}
# KerasHub's Qwen attention returns from its fused branch before it applies the window, except
# on tensorflow, which has no such branch. We apply what the configuration says.
WINDOW_IGNORED = ("qwen2.5 window", "qwen3 window", "qwen3-moe window")
# Which class the first word of a source's name stands for.
FAMILY_NAMES = {
    "gpt2": "GPT2Backbone",
    "llama2": "LlamaBackbone",
    "llama3": "Llama3Backbone",
    "mistral": "MistralBackbone",
    "qwen2.5": "QwenBackbone",
    "qwen3": "Qwen3Backbone",
    "gemma1": "GemmaBackbone",
    "gemma2": "GemmaBackbone",
    "gemma3": "Gemma3Backbone",
    "phi3": "Phi3Backbone",
    "smollm3": "SmolLM3Backbone",
    "mixtral": "MixtralBackbone",
    "qwen3-moe": "Qwen3MoeBackbone",
    "gpt-oss": "GptOssBackbone",
}


def make_source(name):
    """Return the source `name`, with norms, biases and sinks away from their initial values."""
    backbone = SOURCES[name]()
    generator = np.random.default_rng(0)
    for variable in backbone.weights:
        if variable.trainable:
            noise = generator.normal(0, 0.2, variable.shape)
            variable.assign(ops.convert_to_numpy(variable).astype("float32") + noise)
    return backbone


def make_inputs():
    """Return token ids and a padding mask `(2, LENGTH)`; the second row is padded."""
    token_ids = np.random.default_rng(1).integers(0, VOCABULARY_SIZE, (2, LENGTH))
    padding_mask = np.ones((2, LENGTH), dtype="bool")
    padding_mask[1, REAL:] = False
    return {"token_ids": token_ids.astype("int32"), "padding_mask": padding_mask}


def source_logits(backbone, inputs):
    """Return the logits of a KerasHub backbone as a NumPy array."""
    inputs = {**inputs, "padding_mask": inputs["padding_mask"].astype("int32")}
    logits = backbone.token_embedding(backbone(inputs), reverse=True)
    return ops.convert_to_numpy(ops.cast(logits, "float32"))


def own_logits(backbone, inputs):
    """Return the logits of a `TransformerBackbone` as a NumPy array."""
    logits = backbone.logits(backbone(inputs))
    return ops.convert_to_numpy(ops.cast(logits, "float32"))


def assert_close(actual, expected, inputs, tolerance=1e-4):
    """Assert that real positions agree, relative to the largest value."""
    real = inputs["padding_mask"]
    actual, expected = actual[real], expected[real]
    assert np.isfinite(expected).all()
    np.testing.assert_array_less(np.abs(actual - expected), tolerance * np.abs(expected).max())


def sorted_values(backbone):
    """Return every learned number of a model, sorted; float32 holds bfloat16 exactly."""
    weights = [variable for variable in backbone.weights if variable.trainable]
    arrays = [ops.convert_to_numpy(variable).astype("float32") for variable in weights]
    return np.sort(np.concatenate([array.reshape(-1) for array in arrays]))


def on_tensorflow():
    """Return whether this run's backend is tensorflow."""
    return keras.config.backend() == "tensorflow"
