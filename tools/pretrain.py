"""Pretrain a model on documents: from scratch, or on from a preset.

    python tools/pretrain.py --data=python --tokenizer=ar_tiny_python --size=tiny \\
        --objective=next_token --steps=2000 --output=runs/ar
    python tools/pretrain.py --data=python --preset=runs/ar/preset --steps=500 --output=runs/ar2diff
    python tools/pretrain.py --data=mc4/en --data=the_stack/python --weights=0.8,0.2 \\
        --vocabulary_size=32000 --size=base --dtype=mixed_bfloat16 --fully_sharded --distributed \\
        --batch_size=512 --sequence_length=1024 --steps=100000 --output=gs_mount/runs/base

The second one is AR2Diff_N: an autoregressive preset is converted before it is trained on with
--objective=sundae. The same command goes on where a run was stopped. KERAS_BACKEND names the
backend. Several processes and hosts: examples/distributed_training/README.md.
"""

import itertools
import json
import pathlib

from absl import app, flags
from reproduction.tokens import train_tokenizer
from training_run import run
from training_run.flags import FLAGS

from keras_textdiff import data
from keras_textdiff.backbones import (
    EncoderDecoderBackbone,
    TransformerBackbone,
    encoder_decoder_config,
    transformer_config,
)
from keras_textdiff.models import CausalLM, CausalLMPreprocessor, DiffusionLMPreprocessor
from keras_textdiff.transfer.load_source import load_source

FORMATS = {
    "whole_document": data.WholeDocument,
    "prefix_lm": data.PrefixLM,
    "span_corruption": data.SpanCorruption,
    "ul2": data.UL2,
}
TEXT = flags.DEFINE_string("text", "{text}", "Template of a document, fields in braces.")
PRESET = flags.DEFINE_string("preset", None, "Go on from this preset or KerasHub model.")
SIZE = flags.DEFINE_string("size", None, "From scratch: tiny, mini, small, base, large or xl.")
CONFIG = flags.DEFINE_string("config", None, "From scratch: JSON file of a backbone's arguments.")
ARCHITECTURE = flags.DEFINE_enum(
    "architecture", "decoder", ["decoder", "encoder-decoder"], "From scratch, with --size."
)
TOKENIZER = flags.DEFINE_string("tokenizer", None, "From scratch: preset whose tokenizer to use.")
VOCABULARY_SIZE = flags.DEFINE_integer(
    "vocabulary_size", None, "From scratch: train a byte-pair tokenizer of that size on the data."
)
FORMAT = flags.DEFINE_enum("format", None, list(FORMATS), "How documents become prefix and target.")
PACK = flags.DEFINE_bool("pack", False, "Let several documents share a row.")


def make_model(rows):
    """Return the model to start from, on one device."""
    chosen = [flag.name for flag in (PRESET, SIZE, CONFIG) if flag.value is not None]
    if len(chosen) != 1:
        raise ValueError(f"Pass one of --preset, --size and --config. Got {chosen or 'none'}.")
    if PRESET.value is not None:
        model = run.model_of_preset(PRESET.value)
        model.preprocessor = make_preprocessor(model.preprocessor.tokenizer, model.preprocessor)
        return model
    tokenizer = make_tokenizer(rows)
    size = tokenizer.vocabulary_size()
    if CONFIG.value is not None:
        config = json.loads(pathlib.Path(CONFIG.value).read_text(encoding="utf-8"))
        config.setdefault("vocabulary_size", size)
    elif ARCHITECTURE.value == "encoder-decoder":
        config = encoder_decoder_config(SIZE.value, vocabulary_size=size)
    else:
        config = transformer_config(SIZE.value, vocabulary_size=size)
    if config["vocabulary_size"] < size:
        raise ValueError(
            f"The tokenizer has {size} tokens, more than the configuration's vocabulary_size of "
            f"{config['vocabulary_size']}."
        )
    with_encoder = "num_encoder_layers" in config
    cls = EncoderDecoderBackbone if with_encoder else TransformerBackbone
    attention = "causal" if FLAGS.objective == "next_token" else "bidirectional"
    backbone = cls(**{**config, "attention": attention})
    return run.model_class()(backbone, make_preprocessor(tokenizer, with_encoder=with_encoder))


def make_tokenizer(rows):
    """Return a preset's tokenizer, or one trained on the data."""
    if (TOKENIZER.value is None) == (VOCABULARY_SIZE.value is None):
        raise ValueError("From scratch, pass one of --tokenizer and --vocabulary_size.")
    if TOKENIZER.value is not None:
        return load_source(TOKENIZER.value).preprocessor.tokenizer
    sentinels = 100 if FORMAT.value in ("span_corruption", "ul2") else 0
    return train_tokenizer(_texts(rows), VOCABULARY_SIZE.value - sentinels, sentinels)


def _texts(rows):
    """Yield the documents of all sources, one of each in turn."""
    for group in itertools.zip_longest(*rows):
        yield from (row["text"] for row in group if row is not None)


def make_preprocessor(tokenizer, model_of=None, with_encoder=False):
    """Return a preprocessor with the flags' length and format.

    Args:
        tokenizer: the tokenizer.
        model_of: the preprocessor of a preset, whose other options stay, or None.
        with_encoder: bool, where there is none: whether prefixes go to an encoder.
    """
    cls = CausalLMPreprocessor if run.model_class() is CausalLM else DiffusionLMPreprocessor
    length = FLAGS.sequence_length or (model_of.sequence_length if model_of else 512)
    options = {"prefix_length": length if with_encoder else None}
    if model_of is not None:
        names = ("add_start_token", "prefix_length", "decoder_start_token_id", "format")
        options = {name: getattr(model_of, name) for name in names}
    if FORMAT.value in ("span_corruption", "ul2"):
        size = tokenizer.vocabulary_size()
        options["format"] = FORMATS[FORMAT.value](sentinel_token_ids=range(size - 100, size))
    elif FORMAT.value is not None:
        options["format"] = FORMATS[FORMAT.value]()
    return cls(tokenizer, sequence_length=length, **options)


def main(_):
    """Read the flags and train."""
    run.main(TEXT.value, make_model, pack=PACK.value)


if __name__ == "__main__":
    app.run(main)
