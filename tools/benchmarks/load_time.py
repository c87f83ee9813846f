"""How long a preset takes to load, and the first call of fit and generate: ours and KerasHub's.

    python tools/benchmarks/load_time.py --output=results/load_time.json
    python tools/benchmarks/load_time.py --backends=jax --repeats=9

Loading: `TransformerBackbone.from_preset` against KerasHub's `GPT2Backbone.from_preset`, both of
GPT-2 size (500 MB in float32) with the same random weights, written to a temporary folder and read
from the page cache. What both compute after loading is compared before. Ours also checks what it
reads: checksums of all files, shapes, and that no weight is NaN.

First calls: what the first `train_on_batch` and the first `generate` take beyond the later ones,
which is mostly compiling, of one row. Ours is a `DiffusionLM` and a `CausalLM`, theirs a
`GPT2CausalLM` (--models). On jax they are measured again in a process that finds on disk what one
before has compiled (jax' own cache, `JAX_COMPILATION_CACHE_DIR`). `import_time.py` measures the
import.
"""

import functools
import os
import pathlib
import sys
import tempfile

import gpt2
import harness
import numpy as np

OPTIONS = {
    "backends": ["jax", "tensorflow", "torch"],
    "size": "small",
    "length": 128,
    "models": ["DiffusionLM", "CausalLM", "keras_hub"],
    "steps": 10,
    "repeats": 5,
}
TINY = {
    "backends": ["jax"],
    "models": ["DiffusionLM"],
    "size": "tiny",
    "length": 16,
    "steps": 2,
    "repeats": 1,
}
LOADERS = ("ours", "keras_hub")
FIRST_CALLS = ("fit", "generate")
TOLERANCE = 1e-4
PROMPT_LENGTH = 8


# === Cases ===


class Loaded:
    """A loaded backbone; what it computes, it computes when it is compared."""

    def __init__(self, backbone, inputs):
        self.backbone = backbone
        self.inputs = inputs

    def __array__(self, dtype=None, copy=None):
        return harness.to_numpy(self.backbone(self.inputs))


def cases(options):
    import keras_hub

    import keras_textdiff

    size, length = options["size"], options["length"]
    inputs = gpt2.inputs(size, 1, length)
    folders = {name: str(pathlib.Path(options["folder"]) / name) for name in LOADERS}
    hub = gpt2.hub_backbone(size, num_positions=1024)
    hub.save_to_preset(folders["keras_hub"])
    convert = keras_textdiff.transfer.convert_backbone
    convert(hub, attention="causal").save_to_preset(folders["ours"])
    os.sync()  # nothing is left to write while others read
    loaders = {
        "ours": keras_textdiff.backbones.TransformerBackbone.from_preset,
        "keras_hub": keras_hub.models.GPT2Backbone.from_preset,
    }

    def make_loader(name):
        return lambda: Loaded(loaders[name](folders[name]), inputs)

    def make_model(name):
        hub = gpt2.hub_backbone(size, num_positions=1024)
        if name == "keras_hub":
            model = keras_hub.models.GPT2CausalLM(hub)
            model.compile(sampler="greedy")
        elif name == "CausalLM":
            model = keras_textdiff.models.CausalLM(convert(hub, attention="causal"))
            model.compile()
        else:
            model = keras_textdiff.ar2diff(hub)
            sampler = keras_textdiff.samplers.SundaeSampler(options["steps"], num_canvases=1)
            model.compile(sampler=sampler)
        return model

    def make_fit(name):
        model = make_model(name)
        if name == "keras_hub":
            return lambda: model.train_on_batch(inputs, inputs["token_ids"])[0]
        return lambda: model.train_on_batch(inputs)[0]

    def make_generate(name):
        model = make_model(name)
        prompt = {**inputs, "padding_mask": np.arange(length)[None] < PROMPT_LENGTH}
        return lambda: model.generate(dict(prompt), stop_token_ids=None)["token_ids"]

    makers = {"load": make_loader, "fit": make_fit, "generate": make_generate}
    return {
        f"{what} {name}": functools.partial(make, name)
        for what, make in makers.items()
        for name in (LOADERS if what == "load" else options["models"])
    }


SIDES = {"keras": cases}


# === Comparison ===


def compare(start, options):
    rows, bars = [], []
    for backend in options["backends"]:
        with tempfile.TemporaryDirectory() as folder:
            side = start("keras", backend, folder=folder)
            outputs = {name: side.open(f"load {name}")[0] for name in LOADERS}
            difference = harness.relative_difference(outputs["ours"], outputs["keras_hub"])
            harness.check_close(f"{backend}, loaded backbones", difference, TOLERANCE)
            loads = {name: (side, f"load {name}") for name in LOADERS}
            times = harness.interleave(loads, options["repeats"])
            megabytes = {
                name: round(
                    sum(f.stat().st_size for f in pathlib.Path(folder, name).rglob("*")) / 1e6, 1
                )
                for name in LOADERS
            }
            side.close()
            first_calls = _first_calls(side, backend, options)
            side.stop()
        ratio = times["keras_hub"]["median_s"] / times["ours"]["median_s"]
        rows.append(
            {
                "backend": backend,
                "largest_relative_difference": difference,
                "megabytes": megabytes,
                "loading": times,
                "loading_of_keras_hub": round(ratio, 3),
                "first_calls": first_calls,
            }
        )
        if backend == "jax":
            rows[-1]["first_calls_from_compilation_cache"] = _from_cache(start, backend, options)
        bars.append(harness.bar(f"loading a preset, of KerasHub, {backend}", ratio, at_least=1.0))
    return {"rows": rows, "bars": bars}


def _first_calls(side, backend, options):
    """Return the seconds of first and later calls."""
    first_calls = {what: {} for what in FIRST_CALLS}
    for what in FIRST_CALLS:
        for name in options["models"]:
            case = f"{what} {name}"
            _, first = side.open(case)
            later = harness.interleave({case: (side, case)}, 2)[case]["min_s"]
            side.close()
            first_calls[what][name] = {
                "first_s": round(first, 3),
                "later_s": later,
                "compiling_s": round(first - later, 3),
            }
            harness.note(f"{backend}: {case}, first {first:.2f} s, later {later:.2f} s")
    return first_calls


def _from_cache(start, backend, options):
    """Return `_first_calls` of a process that finds on disk what one before has compiled."""
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                environment = {"JAX_COMPILATION_CACHE_DIR": cache}
                side = start("keras", backend, folder=folder, environment=environment)
                first_calls = _first_calls(side, f"{backend}, with a cache", options)
                side.stop()
    return first_calls


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
