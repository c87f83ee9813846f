"""Attention of GPT-2's heads: masked and not, with flash attention and without.

    python tools/benchmarks/attention.py --output=results/attention.json
    python tools/benchmarks/attention.py --backends=jax,torch --lengths=512,4096 --repeats=50

A case is what 12 layers do between their projections: query, key and value `(ROWS, LENGTH, 12,
64)` to attended values, which are the next query. Masked, each row of the mask is given, and True
everywhere, as where a batch may be padded; unmasked, a sampler has seen that nothing is. Without
flash attention, Keras is told so (`keras.config.disable_flash_attention()`); on CPU there is none,
and both are the same. All outputs are compared before with attention in NumPy. Cases are timed in
turn.
"""

import functools
import sys

import harness
import numpy as np

OPTIONS = {
    "backends": harness.BACKENDS,
    "dtypes": ["bfloat16"],
    "lengths": [512, 1024],
    "rows": 1,
    "heads": 12,
    "head_dim": 64,
    "layers": 12,
    "repeats": 5,
}
TINY = {
    "backends": ["jax"],
    "lengths": [16],
    "heads": 2,
    "head_dim": 4,
    "layers": 2,
    "repeats": 1,
}
TOLERANCES = {"float32": 5e-3, "bfloat16": 5e-2}  # GPUs round float32 products too
KINDS = ("masked", "unmasked")
FLASH = ("flash", "no flash")


# === Cases ===


def arrays(options, length):
    """Return query, key and value, float32 `(3, R, L, N, H)`."""
    shape = (3, options["rows"], length, options["heads"], options["head_dim"])
    return np.random.default_rng(0).normal(0, 1, shape).astype("float32")


def cases(options):
    def make(dtype, length, kind, flash):
        import keras
        from keras import ops
        from keras.src.backend.common import global_state  # Keras' switch cannot be set back

        from keras_textdiff.backbones.layers.attention import attend
        from keras_textdiff.utils.compilation import compile_tensors
        from keras_textdiff.utils.fused_attention import unmasked_attention

        model = keras.Sequential()  # without weights: says how to compile
        model.compile(jit_compile=harness.jit_compile(options["backend"]))
        query, key, value = (
            ops.cast(ops.convert_to_tensor(x), dtype) for x in arrays(options, length)
        )
        mask = ops.ones((options["rows"], 1, length, length), "bool")
        inputs = {"token_ids": query, "key": key, "value": value, "mask": mask}

        def function(x):
            attended = x["token_ids"]
            with unmasked_attention(kind == "unmasked"):
                for _ in range(options["layers"]):
                    attended = attend(attended, x["key"], x["value"], x["mask"], scale=None)
            return attended

        run = compile_tensors(model, function)

        def call():
            if flash == "no flash":  # looked at where a call is compiled, or on torch runs
                keras.config.disable_flash_attention()
            try:
                return harness.finish(run(inputs))
            finally:
                global_state.set_global_attribute("flash_attention", None)

        return call

    return {
        _name(dtype, length, kind, flash): functools.partial(make, dtype, length, kind, flash)
        for dtype in options["dtypes"]
        for length in options["lengths"]
        for kind in KINDS
        for flash in FLASH
    }


def _name(*parts):
    return " ".join(map(str, parts))


SIDES = {"keras": cases}


# === Comparison ===


def in_numpy(options, length):
    """Return the attended values, float32 `(R, L, N, H)`."""
    query, key, value = arrays(options, length)
    for _ in range(options["layers"]):
        logits = np.einsum("rqnh,rknh->rnqk", query, key) * options["head_dim"] ** -0.5
        masses = np.exp(logits - logits.max(-1, keepdims=True))
        masses /= masses.sum(-1, keepdims=True)
        query = np.einsum("rnqk,rknh->rqnh", masses, value)
    return query


def compare(start, options):
    sides = {backend: start("keras", backend) for backend in options["backends"]}
    rows = []
    for length in options["lengths"]:
        expected = harness.thin_out(in_numpy(options, length))
        for dtype in options["dtypes"]:
            calls, differences = {}, {}
            for backend, side in sides.items():
                for kind in KINDS:
                    for flash in FLASH:
                        case = _name(dtype, length, kind, flash)
                        output, _ = side.open(case)
                        difference = harness.relative_difference(output, expected)
                        harness.check_close(f"{backend} {case}", difference, TOLERANCES[dtype])
                        name = f"{backend}: {kind}, {flash}"
                        calls[name], differences[name] = (side, case), difference
            times = harness.interleave(calls, options["repeats"])
            for side in sides.values():
                side.close()
            seconds = {name: value["median_s"] for name, value in times.items()}
            rows.append(
                {
                    "length": length,
                    "dtype": dtype,
                    "largest_relative_differences": differences,
                    "times": times,
                    "no_flash_of_flash": {
                        f"{backend}, {kind}": round(
                            seconds[f"{backend}: {kind}, no flash"]
                            / seconds[f"{backend}: {kind}, flash"],
                            3,
                        )
                        for backend in sides
                        for kind in KINDS
                    },
                }
            )
    return {"rows": rows, "bars": []}


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
