"""Peak memory of a SUNDAE training step against the vocabulary: chunked cross-entropy and plain.

    python tools/benchmarks/cross_entropy_memory.py --output=results/cross_entropy_memory.json
    python tools/benchmarks/cross_entropy_memory.py --backends=jax --vocabulary_sizes=8192,65536

Each step runs in a process of its own; its memory is the process's peak above what it held
with the model built. The backbone is small, so that the logits dominate. The losses of both are
compared. With --output, a PNG beside the JSON shows the curves.
"""

import os
import resource
import sys

import harness
import numpy as np

OPTIONS = {
    "backends": ["jax", "tensorflow", "torch"],
    "vocabulary_sizes": [8192, 16384, 32768, 65536, 131072, 262144],
    "rows": 8,
    "length": 128,
    "hidden_dim": 64,
}
TINY = {
    "backends": ["jax"],
    "vocabulary_sizes": [64],
    "rows": 2,
    "length": 8,
    "hidden_dim": 16,
}
STEPS = 2
TOLERANCE = 1e-4
BAR_SIZE = 262144


# === Cases ===


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


def cases(options, plain):
    from keras_textdiff.objectives.cross_entropy import Denoiser

    def make(vocabulary_size):
        lm = _build(vocabulary_size, options["hidden_dim"])
        shape = (options["rows"], options["length"])
        ids = np.random.default_rng(0).integers(0, vocabulary_size, shape).astype("int32")
        before = resident_bytes()

        def call():
            original = Denoiser.cross_entropy
            if plain:
                Denoiser.cross_entropy = plain_cross_entropy
            try:
                losses = [float(lm.train_on_batch({"token_ids": ids})[0]) for _ in range(STEPS)]
            finally:
                Denoiser.cross_entropy = original
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return np.array([(peak - before) / 2**20, *losses])

        return call

    return {str(size): lambda size=size: make(size) for size in options["vocabulary_sizes"]}


def _build(vocabulary_size, hidden_dim):
    import keras

    import keras_textdiff

    keras.utils.set_random_seed(0)
    backbone = keras_textdiff.backbones.TransformerBackbone(
        vocabulary_size=vocabulary_size,
        num_layers=2,
        num_query_heads=4,
        num_key_value_heads=4,
        head_dim=hidden_dim // 4,
        hidden_dim=hidden_dim,
        intermediate_dim=4 * hidden_dim,
        rope={"theta": 10000.0},
    )
    lm = keras_textdiff.models.DiffusionLM(backbone)
    lm.compile(keras.optimizers.SGD(1e-3))
    return lm


SIDES = {
    "chunked": lambda options: cases(options, plain=False),
    "plain": lambda options: cases(options, plain=True),
}


# === Comparison ===


def compare(start, options):
    rows, bars = [], []
    for backend in options["backends"]:
        for size in options["vocabulary_sizes"]:
            peaks, losses = {}, {}
            for name in SIDES:
                side = start(name, backend)
                (peaks[name], *losses[name]), _ = side.open(str(size))
                side.stop()
            difference = harness.relative_difference(*(np.array(losses[name]) for name in SIDES))
            harness.check_close(f"{backend}, V {size}, losses", difference, TOLERANCE)
            ratio = peaks["chunked"] / peaks["plain"] if peaks["plain"] else 1.0
            rows.append(
                {
                    "backend": backend,
                    "vocabulary_size": size,
                    **{f"{name}_mib": round(float(peaks[name]), 1) for name in SIDES},
                    "ratio": round(float(ratio), 3),
                    "largest_relative_difference_of_losses": difference,
                }
            )
            harness.note(f"{backend}, V {size}: {ratio:.3f} of the plain one's memory")
            if size == BAR_SIZE:
                what = f"memory of a step, of the plain one's, {backend}, V {size}"
                bars.append(harness.bar(what, ratio, at_most=0.4))
    return {"rows": rows, "bars": bars}


def draw(report, path):
    """Draw memory against the vocabulary, chunked and plain, per backend."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    backends = list(dict.fromkeys(row["backend"] for row in report["rows"]))
    figure, axes = plt.subplots(
        1, len(backends), figsize=(4.4 * len(backends), 3.8), squeeze=False, layout="constrained"
    )
    for axis, backend in zip(axes[0], backends, strict=True):
        rows = [row for row in report["rows"] if row["backend"] == backend]
        sizes = [row["vocabulary_size"] for row in rows]
        for name, color in (("plain", "#cc6677"), ("chunked", "#4477aa")):
            values = [row[f"{name}_mib"] for row in rows]
            axis.plot(sizes, values, "o-", color=color, label=name)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set_title(backend, fontsize=10)
        axis.set_xlabel("vocabulary size")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("MiB at the peak of a training step")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
