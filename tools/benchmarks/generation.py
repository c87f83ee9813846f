"""Writing a text: KerasHub's cached AR decoding, ours, and diffusion, with the same weights.

    python tools/benchmarks/generation.py --output=results/generation.json
    python tools/benchmarks/generation.py --lengths=128,512,1024,2048,4096 --steps=10,20,50 \\
        --canvases=1,8 --repeats=1 --output=results/generation.json   # takes hours on few cores
    python tools/benchmarks/generation.py --lengths=512,1024,2048 --repeats=1 \\
        --only="jax keras_hub float32,torch diffusion bfloat16"   # what is fastest, if you know

A text is a row of so many tokens, 8 of them the prompt; nothing ends early. All three are the same
random weights of GPT-2 size (with as many positions as a row has): KerasHub's `GPT2CausalLM`, our
`CausalLM`, both greedy, whose tokens are compared before (in float32 they must be equal; in
bfloat16 the share of equal ones is reported), and the `DiffusionLM` that `ar2diff` makes of it, at
--steps denoising steps with --canvases canvases. All backends and dtypes are timed in turn, or
--only the cases that have all words of an entry in their name. Among --dtypes, int8 is a bfloat16
model behind `quantize("int8")`; its speedups stand beside the others'.
With --output, a PNG beside the JSON shows the curves and, after Han et al. 2024 (arXiv 2401.17181,
Figure 3), the speedups that the paper reports.
"""

import functools
import pathlib
import sys

import gpt2
import harness
import numpy as np

OPTIONS = {
    "backends": harness.BACKENDS,
    "dtypes": ["float32", "bfloat16"],
    "lengths": [128],
    "steps": [10],
    "canvases": [1],
    "size": "small",
    "only": [],
    "repeats": 3,
}
TINY = {
    "backends": ["jax"],
    "dtypes": ["float32"],
    "lengths": [16],
    "steps": [2],
    "size": "tiny",
    "repeats": 1,
}
PROMPT_LENGTH = 8
LONGEST_COMPARED = 1024  # longer rows are all prompt but 8 tokens in the first call of AR models
BAR_LENGTH, BAR_STEPS = 512, 10


# === Cases ===


def cases(options):
    jit_compile = harness.jit_compile(options["backend"])

    def prompt(length, prompt_length=PROMPT_LENGTH):
        return {
            "token_ids": gpt2.token_ids(options["size"], 1, length),
            "padding_mask": np.arange(length)[None] < prompt_length,
        }

    def make_ar(kind, dtype, length):
        from keras_textdiff.utils.capture import recording_at_once

        hub = gpt2.hub_backbone(
            options["size"], num_positions=length, dtype=gpt2.float_dtype(dtype)
        )
        model = gpt2.causal_lm(kind, hub, jit_compile, dtype)
        is_first = True

        def call():
            nonlocal is_first
            prompt_length = _first_prompt_length(length) if is_first else PROMPT_LENGTH
            is_first = False
            with recording_at_once():  # in the first call, whose seconds do not count
                inputs = prompt(length, prompt_length)
                return model.generate(inputs, stop_token_ids=None)["token_ids"]

        return call

    @functools.lru_cache(maxsize=1)
    def load_diffusion_lm(dtype, length):
        import keras_textdiff

        hub = gpt2.hub_backbone(
            options["size"], num_positions=length, dtype=gpt2.float_dtype(dtype)
        )
        lm = keras_textdiff.ar2diff(hub)
        if dtype == "int8":
            lm.quantize("int8")
        lm.compile(jit_compile=jit_compile)
        return lm

    def make_diffusion(dtype, length, steps, canvases):
        from keras_textdiff.samplers import SundaeSampler
        from keras_textdiff.utils.compilation import CompiledFunctions

        lm = load_diffusion_lm(dtype, length)
        rows = lm.make_checker().prompt_rows(prompt(length))
        sampler = SundaeSampler(steps, num_canvases=canvases, stop_when_unchanged=False)
        # Compiled functions of its own: those of a model end with its sampler.
        compiled = CompiledFunctions()
        is_compiled = False

        def call():
            nonlocal is_compiled
            if not is_compiled:  # the call that is not timed: a whole one can take minutes
                sampler.compile(lm, rows, compiled=compiled)
                is_compiled = True
                return np.zeros(0)
            ids, _ = sampler.generate(lm, rows, seed=0, batch_size=1, compiled=compiled)
            return ids

        return call

    made = {}
    for dtype in options["dtypes"]:
        for length in options["lengths"]:
            for kind in ("keras_hub", "causal_lm"):
                made[_name(kind, dtype, length)] = functools.partial(make_ar, kind, dtype, length)
            for steps in options["steps"]:
                for canvases in options["canvases"]:
                    made[_diffusion_name(dtype, length, steps, canvases)] = functools.partial(
                        make_diffusion, dtype, length, steps, canvases
                    )
    return made


def _first_prompt_length(length):
    """Return how much of a row is prompt in the call that is compared, and not timed."""
    return PROMPT_LENGTH if length <= LONGEST_COMPARED else length - PROMPT_LENGTH


def _name(kind, dtype, length):
    return f"{kind} {dtype} {length}"


def _diffusion_name(dtype, length, steps, canvases):
    return _name(f"diffusion, steps {steps}, canvases {canvases},", dtype, length)


SIDES = {"keras": cases}


# === Comparison ===


def compare(start, options):
    sides = {backend: start("keras", backend) for backend in options["backends"]}
    rows = []
    for length in options["lengths"]:
        for dtype in options["dtypes"]:
            rows.append(_compare_length(sides, dtype, length, options))
            result = {"prompt_length": PROMPT_LENGTH, "rows": rows, **_summarize(rows, options)}
            harness.keep(result, options)
    return result


def _compare_length(sides, dtype, length, options):
    """Time all that writes texts of one length, in one dtype, on all backends."""
    calls, equal = {}, {}
    wanted = [set(entry.split()) for entry in options["only"]] or [set()]
    for backend, side in sides.items():
        outputs = {}
        for case in side.cases:
            words = {backend, *case.replace(",", "").split()}
            of_row = case.endswith(f" {dtype} {length}")
            if of_row and any(words >= entry for entry in wanted):
                kind = case.removesuffix(f" {dtype} {length}").rstrip(",")
                outputs[kind], seconds = side.open(case)
                calls[f"{backend}: {kind}"] = (side, case)
                harness.note(f"{backend}: {case} is ready, first call {seconds:.1f} s")
        if {"causal_lm", "keras_hub"} <= set(outputs):
            same = outputs["causal_lm"] == outputs["keras_hub"]
            equal[backend] = float(np.mean(same[_first_prompt_length(length) :]))
            if dtype == "float32":
                harness.check_close(f"{backend}, tokens of both AR models", 1 - equal[backend], 0.0)
    times = harness.interleave(calls, options["repeats"])
    for side in sides.values():
        side.close()
    return {
        "length": length,
        "dtype": dtype,
        "share_of_equal_tokens": equal,
        "times": times,
        "ar_tokens_per_second": {
            name: round((length - PROMPT_LENGTH) / times[name]["median_s"], 2)
            for name in times
            if "diffusion" not in name
        },
        "ar_of_keras_hub": {
            backend: round(
                times[f"{backend}: keras_hub"]["median_s"]
                / times[f"{backend}: causal_lm"]["median_s"],
                3,
            )
            for backend in equal
        },
    }


def _summarize(rows, options):
    """Return speedups over KerasHub's fastest, and bars."""
    floats = [dtype for dtype in options["dtypes"] if dtype != "int8"]
    speedups, bars = _speedups(rows, options, floats), []
    for entry in speedups:
        if (entry["length"], entry["steps"], entry["canvases"]) == (BAR_LENGTH, BAR_STEPS, 1):
            what = f"diffusion, of KerasHub's cached AR, {BAR_LENGTH} tokens, {BAR_STEPS} steps"
            bars.append(harness.bar(what, entry["speedup"], at_least=4.0))
    for row in rows:
        for backend, ratio in row["ar_of_keras_hub"].items():
            what = f"CausalLM, of KerasHub's, {backend} {row['dtype']}, {row['length']} tokens"
            bars.append(harness.bar(what, ratio, at_least=1.0))
    result = {"speedups": speedups, "paper_speedups": _paper(), "bars": bars}
    if "int8" in options["dtypes"]:
        result["speedups_of_int8"] = _speedups(rows, options, ["int8"])
    return result


def _speedups(rows, options, dtypes):
    """Return how many times as fast diffusion in these dtypes is as KerasHub's fastest."""
    speedups = []
    for length in options["lengths"]:
        times = {
            (name, row["dtype"]): value["median_s"]
            for row in rows
            if row["length"] == length
            for name, value in row["times"].items()
        }

        def fastest(kind, dtypes, times=times):
            found = [
                (seconds, f"{name}, {dtype}")
                for (name, dtype), seconds in times.items()
                if name.endswith(f": {kind}") and dtype in dtypes
            ]
            return min(found, default=(None, None))

        hub_seconds, hub_name = fastest("keras_hub", options["dtypes"])
        for steps in options["steps"]:
            for canvases in options["canvases"]:
                kind = f"diffusion, steps {steps}, canvases {canvases}"
                seconds, name = fastest(kind, dtypes)
                if hub_name is None or name is None:  # not among --only
                    continue
                speedups.append(
                    {
                        "length": length,
                        "steps": steps,
                        "canvases": canvases,
                        "fastest": name,
                        "seconds": seconds,
                        "fastest_ar_of_keras_hub": hub_name,
                        "ar_seconds": hub_seconds,
                        "speedup": round(hub_seconds / seconds, 3),
                    }
                )
    return speedups


def _paper():
    """Return the paper's speedups at 10 steps, by length."""
    sys.path.append(str(pathlib.Path(__file__).parents[1]))
    from reproduction.paper import FIGURE_3

    return FIGURE_3


def draw(report, path):
    """Draw seconds and speedups against the length."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    speedups = report["speedups"]
    lengths = sorted({entry["length"] for entry in speedups})
    ar = {entry["length"]: entry["ar_seconds"] for entry in speedups}
    left.plot(lengths, [ar[length] for length in lengths], "ko-", label="KerasHub, AR, cached")
    for steps, canvases in sorted({(entry["steps"], entry["canvases"]) for entry in speedups}):
        points = [e for e in speedups if (e["steps"], e["canvases"]) == (steps, canvases)]
        label = f"diffusion, {steps} steps, {canvases} canvas{'es' * (canvases > 1)}"
        places = [entry["length"] for entry in points]
        style = "o-" if canvases == 1 else "s--"
        left.plot(places, [entry["seconds"] for entry in points], style, label=label)
        right.plot(places, [entry["speedup"] for entry in points], style, label=label)
    paper = report["paper_speedups"]
    places = sorted(map(int, paper))
    values = [paper.get(place, paper.get(str(place))) for place in places]
    right.plot(places, values, "D", color="#777777", label="Han et al. 2024, 10 steps")
    for axis, title in ((left, "seconds"), (right, "times as fast as KerasHub's AR")):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(lengths, [str(length) for length in lengths])
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
        axis.set_xlabel("tokens of a text")
        axis.set_title(f"{title}, fastest backend and dtype of each", fontsize=10)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
