"""Peak memory of a SUNDAE training step: chunked cross-entropy against the plain one.

    python tools/benchmarks/cross_entropy_memory.py --vocabulary_sizes=8192,65536,262144

Each step runs in a process of its own; its memory is the process's peak above what it held
with the model built. Prints one JSON object with both sides and their ratio, per backend.
"""

import json
import os
import platform
import resource
import subprocess
import sys

from absl import app, flags

_BACKENDS = flags.DEFINE_list("backends", ["jax", "tensorflow", "torch"], "Backends to measure.")
_SIZES = flags.DEFINE_list("vocabulary_sizes", ["8192", "65536", "262144"], "Sizes V.")
_BATCH = flags.DEFINE_integer("batch_size", 8, "Rows of a batch.")
_LENGTH = flags.DEFINE_integer("sequence_length", 128, "Tokens of a row.")
_HIDDEN = flags.DEFINE_integer("hidden_dim", 64, "Size of the hidden states.")
_STEP = flags.DEFINE_string("step", None, "Measure 'chunked' or 'plain' in this very process.")


def build(vocabulary_size):
    """Return a compiled model with a small backbone, so that the logits dominate."""
    import keras

    import keras_textdiff

    backbone = keras_textdiff.backbones.TransformerBackbone(
        vocabulary_size=vocabulary_size,
        num_layers=2,
        num_query_heads=4,
        num_key_value_heads=4,
        head_dim=_HIDDEN.value // 4,
        hidden_dim=_HIDDEN.value,
        intermediate_dim=4 * _HIDDEN.value,
        rope={"theta": 10000.0},
    )
    lm = keras_textdiff.models.DiffusionLM(backbone)
    lm.compile(keras.optimizers.SGD(1e-3))
    return lm


def plain_cross_entropy(denoiser, hidden_states, targets, weights, temperature=0.0):
    """Score a batch from the logits of all its positions at once."""
    import keras
    from keras import ops

    logits = ops.cast(denoiser.embedding(hidden_states, reverse=True), "float32")
    losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    candidates = ops.cast(ops.argmax(ops.stop_gradient(logits), axis=-1), "int32")
    return ops.sum(losses * weights), ops.stop_gradient(losses), candidates


def resident_bytes():
    """Return what the process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(kind, vocabulary_size):
    """Run two training steps and print the peak above the built model, and the loss."""
    import keras
    import numpy as np

    from keras_textdiff.objectives.cross_entropy import Denoiser

    keras.utils.set_random_seed(0)
    if kind == "plain":
        Denoiser.cross_entropy = plain_cross_entropy
    lm = build(vocabulary_size)
    shape = (_BATCH.value, _LENGTH.value)
    token_ids = np.random.default_rng(0).integers(0, vocabulary_size, shape).astype("int32")
    before = resident_bytes()
    losses = [
        lm.fit({"token_ids": token_ids}, batch_size=_BATCH.value, verbose=0).history["loss"][0]
        for _ in range(2)
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_mib": (peak - before) / 2**20, "losses": losses}))


def run(kind, backend, vocabulary_size):
    """Measure in a new process."""
    own = [f"--{flag.name}={flag.value}" for flag in (_BATCH, _LENGTH, _HIDDEN)]
    command = [sys.executable, __file__, f"--step={kind}", f"--vocabulary_sizes={vocabulary_size}"]
    result = subprocess.run(
        [*command, *own],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def main(_):
    """Measure both sides of every pair and print them as JSON."""
    if _STEP.value:
        measure(_STEP.value, int(_SIZES.value[0]))
        return
    rows = []
    for backend in _BACKENDS.value:
        for size in map(int, _SIZES.value):
            chunked, plain = (run(kind, backend, size) for kind in ("chunked", "plain"))
            row = {
                "backend": backend,
                "vocabulary_size": size,
                "chunked_mib": round(chunked["peak_mib"]),
                "plain_mib": round(plain["peak_mib"]),
                "ratio": round(chunked["peak_mib"] / plain["peak_mib"], 3),
                "chunked_losses": chunked["losses"],
                "plain_losses": plain["losses"],
            }
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    machine = {"platform": platform.platform(), "cpus": os.cpu_count()}
    shape = {"batch_size": _BATCH.value, "sequence_length": _LENGTH.value}
    print(json.dumps({"machine": machine, **shape, "rows": rows}, indent=2))


if __name__ == "__main__":
    app.run(main)
