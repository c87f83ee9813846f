"""One denoiser call of GPT-2 size: ours against Transformers' GPT-2, and against matrix products.

    python tools/benchmarks/denoiser.py --output=results/denoiser.json
    python tools/benchmarks/denoiser.py --backends=jax,torch --shapes=8x128 --repeats=9

Ours: token ids to logits of a `DiffusionLM`, compiled as its sampler compiles it. Theirs: the same
random weights in Transformers' GPT-2 on PyTorch, without a mask, in inference mode. The logits of
both are compared before: in float32, and ours in bfloat16 with theirs in float32. All backends
and dtypes are timed in turn. The ceiling of a backend and dtype is what it reaches on products of
large square matrices, timed in the same rounds; "model_gflops" is what it reaches on the products
of the model alone.

Among --dtypes, int8 is a bfloat16 model behind `quantize("int8")`, timed beside the others.
--shapes are ROWSxLENGTH. --square is the size of the square matrices.
"""

import functools
import sys
import tempfile

import gpt2
import harness

OPTIONS = {
    "backends": harness.BACKENDS,
    "dtypes": ["float32", "bfloat16"],
    "shapes": ["1x128", "8x128", "1x512", "8x512"],
    "size": "small",
    "square": 3072,
    "repeats": 5,
}
TINY = {
    "backends": ["jax", "torch"],
    "shapes": ["2x8"],
    "size": "tiny",
    "square": 32,
    "repeats": 1,
}
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.1, "int8": 0.2}
GPU_TOLERANCES = {"float32": 5e-3, "bfloat16": 0.1, "int8": 0.2}  # jax multiplies in TF32 there


# === Cases ===


def transformers_cases(options):
    import torch

    gpt2.save(options["folder"], options["size"])
    device = harness.torch_device()

    @functools.cache
    def load(dtype):
        return gpt2.load_transformers(options["folder"], dtype).to(device)

    def make(dtype, rows, length):
        model = load(dtype)
        ids = torch.tensor(gpt2.token_ids(options["size"], rows, length), dtype=torch.int64)
        ids = ids.to(device)

        def call():
            with torch.inference_mode():
                return harness.finish(model(input_ids=ids, use_cache=False).logits)

        return call

    return _denoiser_cases(options, make, _floats(options))


def our_cases(options):
    jit_compile = harness.jit_compile(options["backend"])

    @functools.cache
    def load(dtype):
        lm = gpt2.load_diffusion_lm(options["folder"], dtype)
        lm.compile(jit_compile=jit_compile)
        return lm

    def make(dtype, rows, length):
        lm = load(dtype)
        return harness.denoiser_call(lm, gpt2.inputs(options["size"], rows, length))

    def make_product(dtype, rows, inner, columns):
        import keras
        from keras import ops

        left, right = (
            ops.cast(keras.random.normal(shape, seed=1), dtype)
            for shape in ((rows, inner), (inner, columns))
        )
        product = ops.matmul
        if options["backend"] == "jax":
            import jax

            product = jax.jit(ops.matmul)
        elif keras.config.backend() == "tensorflow":
            import tensorflow as tf

            product = tf.function(ops.matmul, jit_compile=jit_compile == "auto")

        return lambda: harness.finish(product(left, right))

    cases = _denoiser_cases(options, make, options["dtypes"])
    for dtype in _floats(options):
        for shape in _product_shapes(options):
            name = f"{dtype} {'x'.join(map(str, shape))}"
            cases[name] = lambda dtype=dtype, shape=shape: make_product(dtype, *shape)
    return cases


def _floats(options):
    return [dtype for dtype in options["dtypes"] if dtype != "int8"]


def _denoiser_cases(options, make, dtypes):
    return {
        f"{dtype} {shape}": lambda dtype=dtype, shape=shape: make(dtype, *_numbers(shape))
        for dtype in dtypes
        for shape in options["shapes"]
    }


def _numbers(shape):
    return tuple(map(int, shape.split("x")))


def _product_shapes(options):
    """Return the shapes of the products, the square first."""
    rows, length = _numbers(options["shapes"][-1])
    parts = gpt2.products(options["size"], rows * length)
    return [(options["square"],) * 3, *((m, k, n) for m, k, n, _ in parts)]


SIDES = {"transformers": transformers_cases, "ours": our_cases}


# === Comparison ===


def compare(start, options):
    if not _floats(options):
        raise ValueError("`--dtypes` needs float32 or bfloat16: int8 is compared with it.")
    with tempfile.TemporaryDirectory() as folder:
        sides = {"transformers": start("transformers", "torch", folder=folder)}
        for backend in options["backends"]:
            sides[backend] = start("ours", backend, folder=folder)
        rows = []
        for shape in options["shapes"]:
            rows.append(_compare_shape(sides, shape, options))
            harness.keep({"rows": rows}, options)
    return {"rows": rows, "bars": _bars(rows, options)}


def _compare_shape(sides, shape, options):
    """Time all sides on one shape; the last shape's rounds hold the products too."""
    calls, differences, reference = {}, {}, None
    for dtype in sorted(options["dtypes"], key=lambda dtype: dtype == "int8"):
        for name, side in sides.items():
            case = f"{dtype} {shape}"
            if case not in side.cases:
                continue
            output, _ = side.open(case)
            calls[f"{name} {dtype}"] = (side, case)
            reference = output if reference is None else reference  # Transformers' in float32
            what = f"{name} {dtype} {shape}"
            difference = harness.relative_difference(output, reference)
            tolerances = GPU_TOLERANCES if harness.gpus() else TOLERANCES
            harness.check_close(what, difference, tolerances[dtype])
            differences[f"{name} {dtype}"] = difference
            harness.note(f"{what} is ready, its logits differ by {difference:.2g}")
    if shape == options["shapes"][-1]:
        for dtype in _floats(options):
            for name, side in sides.items():
                if name != "transformers":
                    for product in _product_shapes(options):
                        case = f"{dtype} {'x'.join(map(str, product))}"
                        side.open(case)
                        calls[f"{name} {case}"] = (side, case)
    times = harness.interleave(calls, options["repeats"])
    for side in sides.values():
        side.close()
    operations = gpt2.num_operations(options["size"], *_numbers(shape))
    row = {"shape": shape, "largest_relative_differences": differences, "denoisers": {}}
    for name in differences:
        gflops = operations / times[name]["median_s"] / 1e9
        row["denoisers"][name] = {**times[name], "gflops": round(gflops, 1)}
    if shape == options["shapes"][-1]:
        row["products"] = _summarize_products(times, list(sides), options)
        for name, denoiser in row["denoisers"].items():
            if name in row["products"]:
                products = row["products"][name]
                for key in ("square_gflops", "model_gflops"):
                    ratio = denoiser["gflops"] / products[key]
                    denoiser[f"share_of_{key}"] = round(ratio, 3)
    groups = {"transformers": [], "int8": [], "ours": []}
    for name in differences:
        backend, dtype = name.split()
        groups["int8" if dtype == "int8" else backend if backend in groups else "ours"].append(name)
    theirs, ours = (harness.fastest(times, groups[key]) for key in ("transformers", "ours"))
    row["fastest"] = ours[0]
    row["fastest_of_transformers"] = theirs[0]
    row["speedup"] = round(theirs[1] / ours[1], 3)
    if groups["int8"]:
        name, seconds = harness.fastest(times, groups["int8"])
        row["fastest_int8"] = name
        row["speedup_of_int8"] = round(theirs[1] / seconds, 3)
    row["speedup_of_torch"] = {
        dtype: round(
            times[f"transformers {dtype}"]["median_s"] / times[f"torch {dtype}"]["median_s"], 3
        )
        for dtype in _floats(options)
        if f"torch {dtype}" in times
    }
    return row


def _summarize_products(times, names, options):
    """Return GFLOP/s on square matrices and on the products of the model."""
    rows, length = _numbers(options["shapes"][-1])
    parts = gpt2.products(options["size"], rows * length)
    summary = {}
    for dtype in _floats(options):
        for name in names[1:]:

            def seconds(m, k, n, name=name, dtype=dtype):
                return times[f"{name} {dtype} {m}x{k}x{n}"]["median_s"]

            square = options["square"]
            of_model = sum(seconds(m, k, n) * count for m, k, n, count in parts)
            operations = sum(2 * m * k * n * count for m, k, n, count in parts)
            summary[f"{name} {dtype}"] = {
                "square_gflops": round(2e-9 * square**3 / seconds(square, square, square), 3),
                "model_gflops": round(1e-9 * operations / of_model, 3),
            }
    return summary


def _bars(rows, options):
    bars = []
    by_shape = {row["shape"]: row for row in rows}
    for shape in ("8x128", "1x512"):
        if shape in by_shape:
            value = by_shape[shape]["speedup"]
            bars.append(
                harness.bar(f"fastest, of Transformers' fastest, {shape}", value, at_least=1.2)
            )
    for row in rows:
        for dtype, value in row["speedup_of_torch"].items():
            what = f"torch, of Transformers, {dtype}, {row['shape']}"
            bars.append(harness.bar(what, value, at_least=1.0))
    last = rows[-1]
    jax = last["denoisers"].get("jax float32")
    if jax:
        value = jax["share_of_square_gflops"]
        bars.append(
            harness.bar(f"jax float32, of its ceiling, {last['shape']}", value, at_least=0.85)
        )
    if "bfloat16" in options["dtypes"]:
        names = [name for name in last["products"] if name.endswith("bfloat16")]
        ceiling = max(last["products"][name]["square_gflops"] for name in names)
        best = max(last["denoisers"][name]["gflops"] for name in names)
        what = f"fastest bfloat16, of the best ceiling, {last['shape']}"
        bars.append(harness.bar(what, best / ceiling, at_least=0.75))
    return bars


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
