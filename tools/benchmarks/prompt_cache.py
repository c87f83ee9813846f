"""What it saves to read a prompt once: sampling with attention "block" and "prefix".

    python tools/benchmarks/prompt_cache.py --output=results/prompt_cache.json
    python tools/benchmarks/prompt_cache.py --backends=torch --prompts=768 --length=1024

GPT-2 of --size with random weights fills a row of --length tokens behind --prompts tokens, by
--steps denoising steps on --canvases canvases. Timed in turn: with keys and values of the prompt
kept, as the sampler does it where the mask lets it, and with all positions computed at each step.
Both write the same tokens, which is checked first.
"""

import functools
import itertools
import sys

import gpt2
import harness
import numpy as np

OPTIONS = {
    "backends": harness.BACKENDS,
    "dtypes": ["float32", "bfloat16"],
    "attention": ["block", "prefix"],
    "prompts": [256, 384],
    "length": 512,
    "steps": 10,
    "canvases": 1,
    "size": "small",
    "repeats": 5,
}
TINY = {
    "backends": ["jax"],
    "dtypes": ["float32"],
    "prompts": [32],
    "length": 64,
    "steps": 2,
    "canvases": 2,
    "size": "tiny",
    "repeats": 1,
}
BLOCK_LENGTH = 32
KINDS = ("kept", "computed again")


def cases(options):
    def make(dtype, attention, num_prompt, kind):
        import keras_textdiff
        from keras_textdiff.samplers import SundaeSampler
        from keras_textdiff.utils.capture import recording_at_once
        from keras_textdiff.utils.compilation import specializes

        hub = gpt2.hub_backbone(options["size"], dtype=dtype)
        more = {"block_length": BLOCK_LENGTH} if attention == "block" else {}
        lm = keras_textdiff.ar2diff(hub, attention=attention, **more)
        steps, canvases = options["steps"], options["canvases"]
        sampler = SundaeSampler(steps, 0, num_canvases=canvases, stop_when_unchanged=False)
        lm.compile(sampler=sampler, jit_compile=harness.jit_compile(options["backend"]))
        if kind != "kept":
            lm.backbone.count_settled = lambda count: 0
        inputs = {
            "token_ids": gpt2.token_ids(options["size"], 1, options["length"]),
            "padding_mask": np.arange(options["length"])[None] < num_prompt,
        }

        def call():
            return lm.generate(inputs, seed=0, stop_token_ids=None)["token_ids"]

        with recording_at_once():  # on torch; elsewhere until the loop leaves the prompt out
            call()
            for _ in itertools.takewhile(lambda calls: not specializes(calls), itertools.count(1)):
                call()
        return call

    return {
        f"{kind} {dtype} {attention} {num_prompt}": functools.partial(
            make, dtype, attention, num_prompt, kind
        )
        for dtype in options["dtypes"]
        for attention in options["attention"]
        for num_prompt in map(int, options["prompts"])
        for kind in KINDS
    }


SIDES = {"keras": cases}


def compare(start, options):
    rows = []
    for backend in options["backends"]:
        side = start("keras", backend)
        for dtype in options["dtypes"]:
            for attention in options["attention"]:
                for num_prompt in options["prompts"]:
                    names = {kind: f"{kind} {dtype} {attention} {num_prompt}" for kind in KINDS}
                    tokens = [side.open(name)[0] for name in names.values()]
                    off = float(np.mean(np.not_equal(*tokens)))
                    harness.check_close(f"{backend} {dtype} {attention}, tokens", off, 0.05)
                    calls = {kind: (side, name) for kind, name in names.items()}
                    times = harness.interleave(calls, options["repeats"])
                    side.close()
                    speedup = times["computed again"]["median_s"] / times["kept"]["median_s"]
                    harness.note(f"{backend} {names['kept']}: {speedup:.2f} times as fast")
                    rows.append(
                        {
                            "backend": backend,
                            "dtype": dtype,
                            "attention": attention,
                            "prompt": int(num_prompt),
                            "share_of_other_tokens": off,
                            "speedup": round(speedup, 3),
                            "times": times,
                        }
                    )
                    harness.keep({"rows": rows}, options)
        side.stop()
    bars = [
        harness.bar(
            f"prompt kept, {row['backend']} {row['dtype']} {row['attention']} {row['prompt']}",
            row["speedup"],
            at_least=1.0,
        )
        for row in rows
    ]
    return {"rows": rows, "bars": bars}


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
