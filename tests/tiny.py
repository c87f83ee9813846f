"""Tiny models and a tokenizer that every test can afford, the same on every backend."""

import keras
import keras_hub
import numpy as np

from keras_textdiff.backbones import EncoderDecoderBackbone, TransformerBackbone
from keras_textdiff.models import (
    CausalLM,
    CausalLMPreprocessor,
    DiffusionLM,
    DiffusionLMPreprocessor,
)

BACKBONE = {
    "vocabulary_size": 33,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_dim": 32,
    "intermediate_dim": 48,
    "rope": {"theta": 10000.0},
}
ENCODER_DECODER = {
    "vocabulary_size": 33,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_dim": 32,
    "intermediate_dim": 48,
    "tie_embeddings": False,
}
# Of language models: compiling them takes most of the tests' time.
ONE_LAYER = {"num_layers": 1}
ONE_LAYER_EACH = {"num_encoder_layers": 1, "num_decoder_layers": 1}
# Eager jax and XLA on tensorflow are both slow for tiny models.
JIT = keras.config.backend() == "jax"
TEXTS = {
    "prompts": ["the cat", "a dog", "one", "the hen is"],
    "responses": [" in the hat", " on a log", " two three", " thin"],
}


def tokenizer():
    """A byte-pair tokenizer of lower-case letters and a few merges, 32 tokens."""
    tokens = ["<|endoftext|>", *map(chr, range(97, 123)), "Ġ", "th", "the", "in", "Ġthe"]
    return keras_hub.models.GPT2Tokenizer(
        vocabulary={token: index for index, token in enumerate(tokens)},
        merges=["t h", "th e", "i n", "Ġ the"],
    )


def set_weights(model, seed=0, scale=0.5):
    """Set all float weights to numbers drawn by NumPy, equal on every backend."""
    rng = np.random.default_rng(seed)
    for weight in sorted(model.trainable_variables, key=lambda weight: weight.path):
        value = rng.normal(0, scale, weight.shape).astype("float32")
        weight.assign(value + 1 if weight.path.endswith("scale") else value)


def backbone(seed=0, scale=0.5, **config):
    model = TransformerBackbone(**{**BACKBONE, **config})
    set_weights(model, seed, scale)
    return model


def encoder_decoder(seed=0, scale=0.5, **config):
    model = EncoderDecoderBackbone(**{**ENCODER_DECODER, **config})
    set_weights(model, seed, scale)
    return model


def encoder_decoder_lm(kind, sequence_length=16, prefix_length=12, scale=0.5, **config):
    """An encoder-decoder "diffusion" or "causal" model with a preprocessor."""
    lengths = {"sequence_length": sequence_length, "prefix_length": prefix_length}
    config = {**ONE_LAYER_EACH, **config}
    if kind == "diffusion":
        preprocessor = DiffusionLMPreprocessor(tokenizer(), **lengths)
        return DiffusionLM(encoder_decoder(scale=scale, **config), preprocessor)
    backbone = encoder_decoder(scale=scale, attention="causal", **config)
    return CausalLM(backbone, CausalLMPreprocessor(tokenizer(), **lengths))


def diffusion_lm(sequence_length=24, seed=0, scale=0.5, **config):
    preprocessor = DiffusionLMPreprocessor(tokenizer(), sequence_length=sequence_length)
    return DiffusionLM(backbone(seed, scale, **{**ONE_LAYER, **config}), preprocessor)


def causal_lm(sequence_length=24, seed=0, scale=0.5, **config):
    preprocessor = CausalLMPreprocessor(tokenizer(), sequence_length=sequence_length)
    config = {**ONE_LAYER, "attention": "causal", **config}
    return CausalLM(backbone(seed, scale, **config), preprocessor)


def inputs(batch_size=2, length=10, seed=0, vocabulary_size=33):
    """Random token ids; the second row ends early, the first three positions are prompt."""
    rng = np.random.default_rng(seed)
    padding_mask = np.ones((batch_size, length), bool)
    padding_mask[1, length - 3 :] = False
    prompt_mask = np.zeros((batch_size, length), bool)
    prompt_mask[:, :3] = True
    return {
        "token_ids": rng.integers(0, vocabulary_size, (batch_size, length)).astype("int32"),
        "padding_mask": padding_mask,
        "prompt_mask": prompt_mask,
        "target_mask": padding_mask & ~prompt_mask,
    }


def encoder_inputs(batch_size=2, length=10, prefix_length=7, seed=0):
    """Inputs for a model with an encoder: the first column is a start token."""
    rows = inputs(batch_size, length, seed)
    rows["prompt_mask"] = np.broadcast_to(np.arange(length) < 1, (batch_size, length))
    rows["target_mask"] = rows["padding_mask"] & ~rows["prompt_mask"]
    ids = np.random.default_rng([seed, 1]).integers(0, 33, (batch_size, prefix_length))
    mask = np.ones((batch_size, prefix_length), bool)
    mask[0, prefix_length - 2 :] = False
    return {**rows, "encoder_token_ids": ids.astype("int32"), "encoder_padding_mask": mask}


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)
