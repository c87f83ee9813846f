"""GPT-2 of random weights: as Transformers has it, as KerasHub has it, and ours.

Weights are written once as a Transformers folder and read by all sides. Shapes: R rows, L length.
"""

import json
import pathlib

import numpy as np

SIZES = {  # of 124 million parameters, of 12 to be trained in minutes, and two for tests
    "small": {"vocab_size": 50257, "n_layer": 12, "n_head": 12, "n_embd": 768},
    "reciter": {"vocab_size": 2048, "n_layer": 6, "n_head": 6, "n_embd": 384},
    "tiny_reciter": {"vocab_size": 2048, "n_layer": 1, "n_head": 4, "n_embd": 32},
    "tiny": {"vocab_size": 50, "n_layer": 1, "n_head": 4, "n_embd": 32},
}
TOKENS = ["<|endoftext|>", *"abcdefgh", "Ġ", "Ġa"]  # a folder is complete with a tokenizer


def save(folder, size, num_positions=1024):
    """Write a GPT-2 with random weights, biases and scales included, unless it is there."""
    import torch
    import transformers

    folder = pathlib.Path(folder)
    if (folder / "config.json").exists():
        return
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        **SIZES[size], n_positions=num_positions, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("#version: 0.2\nĠ a\n", encoding="utf-8")


def load_transformers(folder, dtype="float32"):
    """Return Transformers' model, bidirectional without a mask: its fastest way of attention."""
    import torch
    import transformers

    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=getattr(torch, dtype))
    for block in model.transformer.h:
        block.attn.is_causal = False
    return model.eval()


def float_dtype(dtype):
    """Return the dtype of what is not quantized: "int8" stands for int8 weights in bfloat16."""
    return "bfloat16" if dtype == "int8" else dtype


def load_diffusion_lm(folder, dtype="float32"):
    """Return ours, by the way a user takes."""
    import keras_hub

    import keras_textdiff

    # Read in float32: KerasHub's converter knows no other.
    backbone = keras_hub.models.Backbone.from_preset(str(folder), dtype="float32")
    lm = keras_textdiff.ar2diff(backbone, dtype=float_dtype(dtype))
    if dtype == "int8":
        lm.quantize("int8")
    return lm


def hub_backbone(size, num_positions=1024, dtype="float32", **changes):
    """Return KerasHub's backbone with random weights."""
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    config = {**SIZES[size], **changes}
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=config["vocab_size"],
        num_layers=config["n_layer"],
        num_heads=config["n_head"],
        hidden_dim=config["n_embd"],
        intermediate_dim=4 * config["n_embd"],
        max_sequence_length=num_positions,
        dropout=0.0,
        dtype=dtype,
    )
    rng = np.random.default_rng(0)
    for weight in backbone.weights:  # biases are 0 and scales 1 where training starts
        if len(weight.shape) == 1 or weight.path.endswith("bias"):
            value = keras.ops.convert_to_numpy(weight).astype("float32")
            weight.assign(value + rng.normal(0, 0.02, weight.shape).astype("float32"))
    return backbone


def causal_lm(kind, backbone, jit_compile, dtype=None):
    """Return an AR model of KerasHub's backbone, greedy: "keras_hub", or ours, "causal_lm".

    It is quantized where `dtype` is "int8".
    """
    import keras_hub

    import keras_textdiff

    if kind == "keras_hub":
        model = keras_hub.models.GPT2CausalLM(backbone)
    else:
        convert = keras_textdiff.transfer.convert_backbone
        model = keras_textdiff.models.CausalLM(convert(backbone, attention="causal"))
    if dtype == "int8":
        model.quantize("int8")
    model.compile(sampler="greedy", jit_compile=jit_compile)
    return model


def token_ids(size, rows, length, seed=0):
    """Return random token ids, int32 `(R, L)`."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, SIZES[size]["vocab_size"], (rows, length)).astype("int32")


def inputs(size, rows, length):
    """Return our inputs without padding."""
    return {
        "token_ids": token_ids(size, rows, length),
        "padding_mask": np.ones((rows, length), bool),
    }


def products(size, num_tokens):
    """Return the matrix products of one call: `(rows, inner, columns, how many)`."""
    config = SIZES[size]
    hidden, layers = config["n_embd"], config["n_layer"]
    return [
        (num_tokens, hidden, hidden, 4 * layers),
        (num_tokens, hidden, 4 * hidden, layers),
        (num_tokens, 4 * hidden, hidden, layers),
        (num_tokens, hidden, config["vocab_size"], 1),
    ]


def num_operations(size, rows, length):
    """Return the floating-point operations of one call: of products and of attention."""
    config = SIZES[size]
    total = sum(2 * m * k * n * count for m, k, n, count in products(size, rows * length))
    return total + 4 * rows * length**2 * config["n_embd"] * config["n_layer"]
