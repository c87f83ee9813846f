"""A SUNDAE training step of GPT-2 size: ours against a plain PyTorch loop on Transformers' GPT-2.

    python tools/benchmarks/training_step.py --output=results/training_step.json
    python tools/benchmarks/training_step.py --backends=jax --rows=4 --length=256

Both sides start from the same random weights, and a step is the same: the loss of a corrupted
canvas, most likely tokens as the next canvas, its loss, gradients, AdamW. The plain loop computes
all logits at once, in float32 or under bfloat16 autocast, with the fused AdamW. Ours is
`train_on_batch`, in either dtype policy; the weights are float32 on both sides.
The canvas is given, the same for both, so that the losses of the first steps can be compared
before; drawing it takes next to nothing on either side.
One of ours at a time is timed in turn with both forms of the plain loop.
"""

import functools
import sys
import tempfile

import gpt2
import harness
import numpy as np

OPTIONS = {
    "backends": harness.BACKENDS,
    "policies": ["float32", "mixed_bfloat16"],
    "rows": 8,
    "length": 128,
    "size": "small",
    "repeats": 3,
}
TINY = {
    "backends": ["jax"],
    "policies": ["mixed_bfloat16"],
    "rows": 2,
    "length": 8,
    "size": "tiny",
    "repeats": 1,
}
# Of the losses of the first two steps; the second shows gradients and the optimizer.
TOLERANCES = {"float32": 1e-4, "mixed_bfloat16": 3e-2}
ADAMW = {"learning_rate": 1e-4, "weight_decay": 0.01, "epsilon": 1e-8}
PLAIN = ("float32", "bfloat16")


def given_canvas(options):
    """Return the targets and a canvas with half of them replaced."""
    shape = (options["rows"], options["length"])
    targets = gpt2.token_ids(options["size"], *shape)
    noise = gpt2.token_ids(options["size"], *shape, seed=1)
    noisy = np.random.default_rng(2).random(shape) < 0.5
    return targets, np.where(noisy, noise, targets), noisy


# === Cases ===


def plain_cases(options):
    import torch

    gpt2.save(options["folder"], options["size"])
    device = harness.torch_device()
    targets, canvas, _ = (
        torch.tensor(x, dtype=torch.int64, device=device) for x in given_canvas(options)
    )

    def make(dtype):
        model = gpt2.load_transformers(options["folder"]).train().to(device)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=ADAMW["learning_rate"],
            weight_decay=ADAMW["weight_decay"],
            eps=ADAMW["epsilon"],
            fused=True,
        )

        def step():
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                first = model(input_ids=canvas, use_cache=False).logits
                candidates = first.detach().argmax(-1)
                second = model(input_ids=candidates, use_cache=False).logits
            loss = sum(
                torch.nn.functional.cross_entropy(x.flatten(0, 1).float(), targets.flatten())
                for x in (first, second)
            )
            loss.backward()
            optimizer.step()
            return loss.item()

        return _twice_at_first(step)

    return {dtype: functools.partial(make, dtype) for dtype in PLAIN}


def our_cases(options):
    def make(policy):
        import keras
        from keras import ops

        from keras_textdiff import corruption, objectives

        targets, canvas, noisy = given_canvas(options)

        class GivenCanvas(corruption.UniformCorruption):
            def __call__(self, token_ids, target_mask, vocabulary_size, seed):
                return ops.convert_to_tensor(canvas), ops.convert_to_tensor(noisy)

        lm = gpt2.load_diffusion_lm(options["folder"], policy)
        lm.compile(
            keras.optimizers.AdamW(**ADAMW),
            objective=objectives.Sundae(corruption=GivenCanvas()),
            jit_compile=harness.jit_compile(options["backend"]),
        )
        return _twice_at_first(lambda: lm.train_on_batch({"token_ids": targets})[0])

    return {policy: functools.partial(make, policy) for policy in options["policies"]}


def _twice_at_first(step):
    """Return a callable whose first call takes two steps, and returns the losses of both."""
    calls = iter((2,))

    def call():
        return np.array([float(step()) for _ in range(next(calls, 1))])

    return call


SIDES = {"plain": plain_cases, "ours": our_cases}


# === Comparison ===


def compare(start, options):
    rows = []
    num_tokens = options["rows"] * options["length"]
    with tempfile.TemporaryDirectory() as folder:
        plain = start("plain", "torch", folder=folder)
        losses = {dtype: plain.open(dtype)[0] for dtype in PLAIN}
        harness.check_close(
            "plain loop, bfloat16",
            harness.relative_difference(losses["bfloat16"], losses["float32"]),
            TOLERANCES["mixed_bfloat16"],
        )
        for backend in options["backends"]:
            for policy in options["policies"]:
                side = start("ours", backend, folder=folder)
                output, seconds = side.open(policy)
                what = f"{backend} {policy}"
                difference = harness.relative_difference(output, losses["float32"])
                harness.check_close(f"{what}, losses", difference, TOLERANCES[policy])
                harness.note(
                    f"{what} is ready in {seconds:.1f} s, losses differ by {difference:.2g}"
                )
                calls = {f"plain {dtype}": (plain, dtype) for dtype in PLAIN}
                times = harness.interleave({"ours": (side, policy), **calls}, options["repeats"])
                side.stop()
                tokens = {
                    name: round(num_tokens / value["median_s"], 1) for name, value in times.items()
                }
                rows.append(
                    {
                        "backend": backend,
                        "policy": policy,
                        "largest_relative_difference_of_losses": difference,
                        "first_two_steps_s": round(seconds, 2),
                        "tokens_per_second": tokens,
                        "of_the_fastest_plain_loop": round(
                            tokens["ours"] / max(tokens[f"plain {dtype}"] for dtype in PLAIN), 3
                        ),
                        "times": times,
                    }
                )
    best = max(rows, key=lambda row: row["of_the_fastest_plain_loop"])
    what = f"fastest step ({best['backend']} {best['policy']}), of the fastest plain loop"
    bars = [harness.bar(what, best["of_the_fastest_plain_loop"], at_least=1.2)]
    for row in rows:
        if row["policy"] == "float32":
            tokens = row["tokens_per_second"]
            ratio = tokens["ours"] / tokens["plain float32"]
            what = f"{row['backend']} float32, of the plain float32 loop"
            bars.append(harness.bar(what, ratio, at_least=1.2))
    return {"rows": rows, "bars": bars}


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
