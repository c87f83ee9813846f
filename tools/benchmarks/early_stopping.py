"""Early stopping on a trained model: seconds and right tokens, AR and diffusion.

    python tools/benchmarks/early_stopping.py --output=results/early_stopping.json
    python tools/benchmarks/early_stopping.py --folder=models/reciter --backends=torch

Early stopping pays where a model is sure of what it writes, which random weights never are. So a
model is trained first, in some 20 minutes on two cores, and kept in --folder, from which later runs
take it: KerasHub's `GPT2CausalLM` learns --texts articles of Python's own documentation by heart
with its own `fit`, `ar2diff` makes a `DiffusionLM` of it, and that is trained on with SUNDAE. Both
then recite: the prompt is an article's first 8 tokens, the text a row of --length tokens.

Quality is the share of tokens that are those of the article, so it can be compared between models
and with what could be reached. On each backend and dtype are timed in turn: KerasHub's cached
`generate`, greedy; our `CausalLM` with the same weights; diffusion with all --steps denoising
steps; and diffusion that stops where a step changes nothing. A case writes all texts, one at a
time, on one canvas.
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
    "backends": harness.BACKENDS,
    "dtypes": ["float32", "bfloat16"],
    "folder": "",
    "training_backend": "tensorflow_without_xla",
    "texts": 8,
    "length": 512,
    "size": "reciter",
    "ar_steps": 200,
    "diffusion_steps": 300,
    "steps": 10,
    "repeats": 3,
}
TINY = {
    "backends": ["jax"],
    "dtypes": ["float32"],
    "training_backend": "",
    "texts": 2,
    "length": 32,
    "size": "tiny_reciter",
    "ar_steps": 1,
    "diffusion_steps": 1,
    "steps": 2,
    "repeats": 1,
}
KINDS = ("keras_hub", "causal_lm", "all steps", "early stopping")
PROMPT_LENGTH = 8
LEARNING_RATE = 1e-3
TOLERANCE = 0.01  # of the share of right tokens: what counts as equal quality
TOKENIZER = "ar2diff_tiny_english"


# === Texts ===


def load_texts(options):
    """Return the beginnings of articles, int32 `(texts, length)`, whose prompts differ."""
    from pydoc_data.topics import topics

    from keras_textdiff.models import DiffusionLM

    tokenizer = DiffusionLM.from_preset(TOKENIZER).preprocessor.tokenizer
    rows, prompts = [], set()
    for _, text in sorted(topics.items()):
        ids = [int(token) for token in tokenizer(text)][: options["length"]]
        prompt = tuple(ids[:PROMPT_LENGTH])
        if len(ids) == options["length"] and prompt not in prompts:
            prompts.add(prompt)
            rows.append(ids)
    return np.array(rows[: options["texts"]], "int32")


def with_masks(token_ids):
    """Return rows with masks: an article is prompt and target."""
    prompt = np.broadcast_to(np.arange(token_ids.shape[1]) < PROMPT_LENGTH, token_ids.shape)
    return {
        "token_ids": token_ids,
        "padding_mask": np.ones(token_ids.shape, bool),
        "prompt_mask": np.array(prompt),
    }


# === Training ===


def training_cases(options):
    """Return one case, which trains what is not yet in the folder."""
    return {"train": lambda: lambda: train(options)}


def train(options):
    """Train both models, unless they are there; return the last losses."""
    import keras
    import keras_hub

    import keras_textdiff

    folder = pathlib.Path(options["folder"])
    losses_path = folder / "losses.npy"
    if losses_path.exists():
        return np.load(losses_path)
    rows = with_masks(load_texts(options))
    jit_compile = harness.jit_compile(options["backend"])

    def optimizer(num_steps):
        warmup = max(num_steps // 10, 1)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, num_steps, warmup_target=LEARNING_RATE, warmup_steps=warmup
        )
        return keras.optimizers.AdamW(schedule, weight_decay=0.01, beta_2=0.98, global_clipnorm=1.0)

    def fit(what, model, num_steps, **data):
        # A step per epoch: all texts are in a batch.
        log = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: (
                None if epoch % 20 else harness.note(f"{what}, step {epoch}: {logs['loss']:.3f}")
            )
        )
        history = model.fit(
            **data,
            batch_size=options["texts"],
            epochs=num_steps,
            shuffle=False,
            verbose=0,
            callbacks=[log],
        )
        return history.history["loss"][-1]

    backbone = gpt2.hub_backbone(
        options["size"], num_positions=options["length"], dtype="mixed_bfloat16"
    )
    causal_lm = keras_hub.models.GPT2CausalLM(backbone)
    causal_lm.compile(
        optimizer(options["ar_steps"]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
        jit_compile=jit_compile,
    )
    inputs = {name: rows[name] for name in ("token_ids", "padding_mask")}
    labels = np.roll(rows["token_ids"], -1, axis=1)
    weights = np.broadcast_to(np.arange(options["length"]) < options["length"] - 1, labels.shape)
    data = {"x": inputs, "y": labels, "sample_weight": weights.astype("float32")}
    ar_loss = fit("AR", causal_lm, options["ar_steps"], **data)
    backbone.save_to_preset(str(folder / "keras_hub"))

    lm = keras_textdiff.ar2diff(backbone)
    lm.compile(optimizer(options["diffusion_steps"]), jit_compile=jit_compile)
    diffusion_loss = fit("AR2Diff", lm, options["diffusion_steps"], x=rows)
    lm.save_to_preset(str(folder / "ar2diff"))
    np.save(losses_path, np.array([ar_loss, diffusion_loss], "float32"))
    return np.load(losses_path)


# === Cases ===


def cases(options):
    """Return a case per kind and dtype, which writes all texts, and the steps that they took."""
    jit_compile = harness.jit_compile(options["backend"])
    folder = pathlib.Path(options["folder"])

    @functools.cache
    def prompts():
        rows = with_masks(load_texts(options))
        mask = rows["prompt_mask"]
        ids = np.where(mask, rows["token_ids"], 0)
        return [
            {"token_ids": ids[i : i + 1], "padding_mask": mask[i : i + 1]} for i in range(len(ids))
        ]

    def make_ar(kind, dtype):
        import keras_hub

        backbone = keras_hub.models.Backbone.from_preset(str(folder / "keras_hub"), dtype=dtype)
        model = gpt2.causal_lm(kind, backbone, jit_compile)

        def write(prompt):
            return model.generate(dict(prompt), stop_token_ids=None)["token_ids"]

        return lambda: np.concatenate([write(prompt) for prompt in prompts()])

    def make_diffusion(kind, dtype, what="token_ids"):
        import keras_textdiff

        lm = keras_textdiff.models.DiffusionLM.from_preset(str(folder / "ar2diff"), dtype=dtype)
        sampler = keras_textdiff.samplers.SundaeSampler(
            options["steps"], num_canvases=1, stop_when_unchanged=kind == "early stopping"
        )
        lm.compile(sampler=sampler, jit_compile=jit_compile)

        def write(prompt):
            if what == "token_ids":
                return lm.generate(dict(prompt), seed=0, stop_token_ids=None)["token_ids"]
            _, trajectory = lm.generate(
                dict(prompt), seed=0, stop_token_ids=None, return_trajectory=True
            )
            return trajectory.num_steps

        return lambda: np.concatenate([write(prompt) for prompt in prompts()])

    made = {}
    for dtype in options["dtypes"]:
        for kind in KINDS[:2]:
            made[f"{kind} {dtype}"] = functools.partial(make_ar, kind, dtype)
        for kind in KINDS[2:]:
            made[f"{kind} {dtype}"] = functools.partial(make_diffusion, kind, dtype)
        made[f"num_steps {dtype}"] = functools.partial(
            make_diffusion, "early stopping", dtype, "num_steps"
        )
    return made


SIDES = {"training": training_cases, "keras": cases}


# === Comparison ===


def compare(start, options):
    with tempfile.TemporaryDirectory() as temporary:
        folder = options["folder"] or temporary
        os.makedirs(folder, exist_ok=True)
        backend = options["training_backend"] or options["backends"][0]
        training = start("training", backend, folder=folder)
        losses, _ = training.open("train")
        training.stop()
        articles = load_texts(options)
        sides = {name: start("keras", name, folder=folder) for name in options["backends"]}
        rows = [_compare_dtype(sides, dtype, articles, options) for dtype in options["dtypes"]]
    return {
        "model": gpt2.SIZES[options["size"]],
        "losses": {"AR": float(losses[0]), "AR2Diff": float(losses[1])},
        "rows": rows,
        **_summarize(rows),
    }


def _compare_dtype(sides, dtype, articles, options):
    """Time all that writes the articles in one dtype, on all backends."""
    calls, right, num_steps = {}, {}, {}
    for backend, side in sides.items():
        for kind in KINDS:
            output, _ = side.open(f"{kind} {dtype}")
            name = f"{backend}: {kind}"
            calls[name] = (side, f"{kind} {dtype}")
            equal = output.reshape(articles.shape) == articles
            right[name] = float(np.mean(equal[:, PROMPT_LENGTH:]))
            harness.note(f"{name}, {dtype}: {right[name]:.4f} of the tokens are right")
        num_steps[backend] = [int(count) for count in side.open(f"num_steps {dtype}")[0]]
        harness.note(f"{backend}, {dtype}: denoising steps {num_steps[backend]}")
    times = harness.interleave(calls, options["repeats"])
    for side in sides.values():
        side.close()
    return {
        "dtype": dtype,
        "share_of_right_tokens": right,
        "num_steps": num_steps,
        "times": times,
    }


def _summarize(rows):
    """Return the fastest of each kind, and bars."""
    fastest = {}
    for kind in KINDS:
        seconds, name, row = min(
            (value["median_s"], name, row["dtype"])
            for row in rows
            for name, value in row["times"].items()
            if name.endswith(f": {kind}")
        )
        shares = next(r["share_of_right_tokens"] for r in rows if r["dtype"] == row)
        fastest[kind] = {
            "name": f"{name}, {row}",
            "seconds": seconds,
            "share_of_right_tokens": shares[name],
        }
    stopped, hub = fastest["early stopping"], fastest["keras_hub"]
    bars = [
        harness.bar(
            "diffusion with early stopping, of KerasHub's cached AR",
            hub["seconds"] / stopped["seconds"],
            at_least=8.0,
        )
    ]
    for kind in ("keras_hub", "all steps"):
        bars.append(
            harness.bar(
                f"share of right tokens, early stopping less {kind}",
                stopped["share_of_right_tokens"] - fastest[kind]["share_of_right_tokens"],
                at_least=-TOLERANCE,
            )
        )
    return {"fastest": fastest, "bars": bars}


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
