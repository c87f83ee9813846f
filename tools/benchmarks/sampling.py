"""What a denoising step costs beside the denoiser: temperature, drawing tokens, scores.

    python tools/benchmarks/sampling.py --output=results/sampling.json
    python tools/benchmarks/sampling.py --backends=torch --vocabulary_sizes=50257

Three cases on each backend, timed in turn: one denoiser call of GPT-2 size (token ids to logits);
one step of `SundaeSampler` on logits that a small product makes, since compilers read a product
otherwise than given logits; and that product. The step less the product is everything of a
denoising step but the denoiser: logits to tokens, scores and the next canvas. All are compiled as
the sampler compiles them. What the step writes is compared before with the same draws in NumPy.
"""

import functools
import sys

import gpt2
import harness
import numpy as np

OPTIONS = {
    "backends": harness.BACKENDS,
    "dtypes": ["float32", "bfloat16"],
    "vocabulary_sizes": [50257, 262144],
    "rows": 8,
    "length": 128,
    "size": "small",
    "repeats": 5,
}
TINY = {
    "backends": ["jax"],
    "dtypes": ["float32"],
    "vocabulary_sizes": [600],
    "rows": 2,
    "length": 8,
    "size": "tiny",
    "repeats": 1,
}
PARTS = ("denoiser", "step", "product")
TEMPERATURE = 0.2
NUM_KINDS = 16  # of rows of logits


# === Cases ===


def cases(options):
    rows, length = options["rows"], options["length"]

    def make_denoiser(dtype, vocabulary_size):
        import keras_textdiff

        hub = gpt2.hub_backbone(options["size"], dtype=dtype, vocab_size=vocabulary_size)
        lm = keras_textdiff.ar2diff(hub)
        lm.compile(jit_compile=harness.jit_compile(options["backend"]))
        return harness.denoiser_call(lm, gpt2.inputs(options["size"], rows, length))

    def make_step(dtype, vocabulary_size):
        from keras_textdiff.samplers import SundaeSampler

        sampler = SundaeSampler(1, TEMPERATURE, num_canvases=1)

        def step(inputs):
            return sampler.run(lambda canvas: product(inputs), inputs)

        run = compiled(step, dtype, vocabulary_size)
        return lambda: run()["token_ids"]

    def make_product(dtype, vocabulary_size):
        return compiled(product, dtype, vocabulary_size)

    def product(inputs):
        from keras import ops

        from keras_textdiff.utils.dense import dense

        rows = dense(inputs["hidden"], inputs["kernel"])  # flat, as in a backbone
        return ops.reshape(rows, (options["rows"], options["length"], -1))

    def compiled(function, dtype, vocabulary_size):
        import keras
        from keras import ops

        from keras_textdiff.utils.compilation import compile_tensors

        model = keras.Sequential()  # without weights: says how to compile
        model.compile(jit_compile=harness.jit_compile(options["backend"]))
        arrays = step_arrays(options, vocabulary_size)
        inputs = {name: ops.convert_to_tensor(value) for name, value in arrays.items()}
        for name in ("hidden", "kernel"):
            inputs[name] = ops.cast(inputs[name], dtype)
        run = compile_tensors(model, function)
        return lambda: harness.finish(run(inputs))

    makers = {"denoiser": make_denoiser, "step": make_step, "product": make_product}
    return {
        f"{part} {dtype} {size}": functools.partial(makers[part], dtype, size)
        for part in PARTS
        for dtype in options["dtypes"]
        for size in options["vocabulary_sizes"]
    }


def step_arrays(options, vocabulary_size):
    """Return what a denoising step works on, with logits that bfloat16 holds exactly."""
    shape = (options["rows"], options["length"])
    rng = np.random.default_rng(0)
    kernel = rng.integers(-32, 33, (NUM_KINDS, vocabulary_size)).astype("float32") / 16
    return {
        "token_ids": np.zeros(shape, "int32"),
        "target_mask": np.ones(shape, bool),
        "tokens": rng.random((1, *shape), "float32"),
        "hidden": np.eye(NUM_KINDS, dtype="float32")[rng.integers(0, NUM_KINDS, np.prod(shape))],
        "kernel": kernel,
    }


def draw_in_numpy(arrays):
    """Return the tokens that the step draws, by a cumulative sum in float64."""
    totals_of_kinds = np.exp(arrays["kernel"].astype("float64") / TEMPERATURE).cumsum(axis=1)
    kinds, uniforms = arrays["hidden"].argmax(axis=-1), arrays["tokens"].ravel()
    tokens = np.empty(uniforms.shape, "int32")
    for index, kind in enumerate(kinds):
        totals = totals_of_kinds[kind]
        tokens[index] = np.searchsorted(totals, uniforms[index] * totals[-1], side="right")
    return tokens


SIDES = {"keras": cases}


# === Comparison ===


def compare(start, options):
    rows, bars = [], []
    for size in options["vocabulary_sizes"]:
        expected = draw_in_numpy(step_arrays(options, size))
        for backend in options["backends"]:
            side = start("keras", backend)
            for dtype in options["dtypes"]:
                calls, outputs = {}, {}
                for part in PARTS:
                    case = f"{part} {dtype} {size}"
                    outputs[part], _ = side.open(case)
                    calls[part] = (side, case)
                # Rounding may move a draw to a neighbour where it falls on an edge.
                off = float(np.mean(np.abs(outputs["step"] - expected) > 0))
                harness.check_close(f"{backend} {dtype}, tokens drawn", off, 0.05)
                times = harness.interleave(calls, options["repeats"])
                side.close()
                medians = {part: times[part]["median_s"] for part in PARTS}
                share = (medians["step"] - medians["product"]) / medians["denoiser"]
                rows.append(
                    {
                        "vocabulary_size": size,
                        "backend": backend,
                        "dtype": dtype,
                        "share_of_tokens_drawn_otherwise": off,
                        "sampler_of_denoiser": round(share, 4),
                        "times": times,
                    }
                )
                harness.note(f"{backend} {dtype}, V {size}: {share:.3f} of the denoiser")
                if size == min(options["vocabulary_sizes"]):
                    what = f"sampler, of the denoiser, {backend} {dtype}, V {size}"
                    bars.append(harness.bar(what, share, at_most=0.15))
            side.stop()
    return {"temperature": TEMPERATURE, "rows": rows, "bars": bars}


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
