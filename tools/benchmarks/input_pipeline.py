"""Tokens per second of the input pipeline, and of a training step that it feeds, in one run.

    python tools/benchmarks/input_pipeline.py
    python tools/benchmarks/input_pipeline.py --formats=prefix_lm --length=512

Rows are a mixture of 80% text (the docstrings of the Python standard library) and 20% of its
source, tokenized by a byte-pair tokenizer trained on them. The pipeline is timed alone, for each
format, packed and not, over some seconds. A training step of a small DiffusionLM is timed alone on
batches of the same shape; the fastest counts. Prints one JSON object. KERAS_BACKEND names the
backend.
"""

import ast
import json
import os
import platform
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grain
import keras
import keras_hub
import tokenizers
from absl import app, flags

import keras_textdiff
from keras_textdiff import data

_FORMATS = flags.DEFINE_list("formats", ["prefix_lm", "span_corruption", "ul2"], "Formats.")
_BATCH = flags.DEFINE_integer("batch_size", 8, "Rows of a batch.")
_LENGTH = flags.DEFINE_integer("length", 128, "Tokens of a row.")
_HIDDEN = flags.DEFINE_integer("hidden_dim", 256, "Size of the hidden states.")
_LAYERS = flags.DEFINE_integer("layers", 6, "Transformer blocks.")
_VOCABULARY = flags.DEFINE_integer("vocabulary_size", 8192, "Tokens of the vocabulary.")
_STEPS = flags.DEFINE_integer("steps", 8, "Training steps to time, after two that compile.")
_SECONDS = flags.DEFINE_float("seconds", 4.0, "Seconds to time each pipeline.")
NUM_SENTINELS = 100


def make_sources():
    """Return sources of prose and of code that this machine has."""
    code = data.python_source(part="all")
    prose = []
    for row in code:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(row["text"])
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node)
                prose += [text] if text else []
    return grain.MapDataset.source([{"text": text} for text in prose]), code


def train_tokenizer(sources, vocabulary_size):
    """Train a byte-level byte-pair tokenizer on rows of all sources."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (row["text"] for source in sources for row in source[:4000])
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return keras_hub.models.GPT2Tokenizer(
        vocabulary=model["vocab"], merges=[" ".join(merge) for merge in model["merges"]]
    )


def make_format(name):
    """Return a format, with sentinels on top of the vocabulary where it takes them."""
    sentinels = range(_VOCABULARY.value - 1, _VOCABULARY.value - 1 - NUM_SENTINELS, -1)
    return {
        "prefix_lm": data.PrefixLM,
        "span_corruption": lambda: data.SpanCorruption(sentinel_token_ids=sentinels),
        "ul2": lambda: data.UL2(sentinel_token_ids=sentinels),
    }[name]()


def time_pipeline(dataset):
    """Return real tokens a second, and their share of all positions."""
    iterator = iter(dataset)
    next(iterator)  # starts the threads
    num_tokens = num_positions = 0
    start = time.perf_counter()
    while time.perf_counter() - start < _SECONDS.value:
        batch = next(iterator)
        # Learned padding is fill here: what counts is text.
        num_tokens += int((batch["token_ids"] != 0).sum())
        num_positions += batch["token_ids"].size
    seconds = time.perf_counter() - start
    return num_tokens / seconds, num_positions / seconds, num_tokens / num_positions


class StepTimes(keras.callbacks.Callback):
    """Keeps how long each training step took."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # waits for the step
        self.seconds.append(time.perf_counter() - self.start)


def time_training(preprocessor, dataset):
    """Return positions a second of the fastest training step."""
    backbone = keras_textdiff.backbones.TransformerBackbone(
        vocabulary_size=_VOCABULARY.value,
        num_layers=_LAYERS.value,
        num_query_heads=4,
        num_key_value_heads=4,
        head_dim=_HIDDEN.value // 4,
        hidden_dim=_HIDDEN.value,
        intermediate_dim=4 * _HIDDEN.value,
        rope={"theta": 10000.0},
    )
    lm = keras_textdiff.models.DiffusionLM(backbone, preprocessor)
    lm.compile(keras.optimizers.AdamW(1e-3), objective="sundae")
    batch = {name: value.copy() for name, value in next(iter(dataset)).items()}
    steps = [batch] * (_STEPS.value + 2)
    times = StepTimes()
    lm.fit(iter(steps), steps_per_epoch=len(steps), callbacks=[times], verbose=0)
    # The fastest step: other work on the machine must not flatter the ratio.
    return _BATCH.value * _LENGTH.value / min(times.seconds[2:])


def main(_):
    sources = make_sources()
    tokenizer = train_tokenizer(sources, _VOCABULARY.value - NUM_SENTINELS)
    rows = data.mixture(sources, weights=[0.8, 0.2], seed=0)
    results = {}
    for name in _FORMATS.value:
        preprocessor = keras_textdiff.models.DiffusionLMPreprocessor(
            tokenizer, sequence_length=_LENGTH.value, format=make_format(name)
        )
        for pack in (False, True):
            dataset = data.pipeline(rows, preprocessor, batch_size=_BATCH.value, pack=pack)
            tokens, positions, share = time_pipeline(dataset)
            results[f"{name}{', packed' * pack}"] = {
                "text_tokens_per_second": round(tokens),
                "positions_per_second": round(positions),
                "share_of_text": round(share, 3),
            }
    training = time_training(preprocessor, dataset)
    for result in results.values():
        result["ratio"] = round(result["positions_per_second"] / training, 1)
    report = {
        "backend": keras.config.backend(),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "training_positions_per_second": round(training),
        "pipelines": results,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    app.run(main)
