"""What a denoising step costs beside the denoiser: temperature, drawing tokens, confidences.

    python tools/benchmarks/sampling.py --output=results/sampling.json
    python tools/benchmarks/sampling.py --backends=torch --vocabulary_sizes=50257

Two cases on each backend, timed in turn: one denoiser call of GPT-2 size (token ids to logits),
and one step of `SundaeSampler` on given logits of that shape and dtype, so everything of a step
but the denoiser: logits to tokens, confidences, scores and the next canvas. Both are compiled as
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
TEMPERATURE = 0.2


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
        import keras
        from keras import ops

        from keras_textdiff.samplers import SundaeSampler
        from keras_textdiff.utils.compilation import compile_tensors

        sampler = SundaeSampler(1, TEMPERATURE, num_canvases=1)
        model = keras.Sequential()  # without weights: says how to compile
        model.compile(jit_compile=harness.jit_compile(options["backend"]))
        arrays = step_arrays(options, vocabulary_size)
        inputs = {name: ops.convert_to_tensor(value) for name, value in arrays.items()}
        inputs["logits"] = ops.cast(inputs["logits"], dtype)
        run = compile_tensors(model, lambda x: sampler.run(lambda canvas: x["logits"], x))
        return lambda: harness.finish(run(inputs))["token_ids"]

    return {
        f"{part} {dtype} {size}": functools.partial(make, dtype, size)
        for part, make in (("denoiser", make_denoiser), ("sampler", make_step))
        for dtype in options["dtypes"]
        for size in options["vocabulary_sizes"]
    }


def step_arrays(options, vocabulary_size):
    """Return what a denoising step works on, with logits that bfloat16 holds exactly."""
    shape = (options["rows"], options["length"])
    rng = np.random.default_rng(0)
    logits = rng.integers(-32, 33, (*shape, vocabulary_size), dtype="int8").astype("float32") / 16
    return {
        "token_ids": np.zeros(shape, "int32"),
        "target_mask": np.ones(shape, bool),
        "tokens": rng.random((1, *shape), "float32"),
        "logits": logits,
    }


def draw_in_numpy(arrays):
    """Return the tokens that the step draws, by a cumulative sum in float64."""
    logits, uniforms = arrays["logits"], arrays["tokens"][0]
    tokens = np.empty(uniforms.shape, "int32")
    for index in np.ndindex(uniforms.shape):
        masses = np.exp(logits[index].astype("float64") / TEMPERATURE)
        totals = masses.cumsum()
        tokens[index] = np.searchsorted(totals, uniforms[index] * totals[-1], side="right")
    return tokens


SIDES = {"keras": cases}


# === Comparison ===


def compare(start, options):
    rows, bars = [], []
    for size in options["vocabulary_sizes"]:
        expected = draw_in_numpy(step_arrays(options, size)).ravel()
        for backend in options["backends"]:
            side = start("keras", backend)
            for dtype in options["dtypes"]:
                calls = {}
                for part in ("denoiser", "sampler"):
                    case = f"{part} {dtype} {size}"
                    output, _ = side.open(case)
                    calls[part] = (side, case)
                # Rounding may move a draw to a neighbour where it falls on an edge.
                off = float(np.mean(np.abs(output - expected) > 0))
                harness.check_close(f"{backend} {dtype}, tokens drawn", off, 0.05)
                times = harness.interleave(calls, options["repeats"])
                side.close()
                share = times["sampler"]["median_s"] / times["denoiser"]["median_s"]
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
