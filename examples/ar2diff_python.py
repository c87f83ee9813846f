"""AR2Diff on the Python standard library: does autoregressive pretraining help diffusion?

Trains small language models on the functions of this machine's own standard library, several
seeds of each, and compares at equal compute (Han et al. 2024, arXiv 2401.17181):

- AR: autoregressive pretraining and fine-tuning, the baseline;
- AR2Diff_0: the same pretraining, `ar2diff`, then diffusion fine-tuning at once;
- AR2Diff_N: the last N passes of the pretraining are diffusion already;
- from scratch: diffusion all the way.

Pretraining reads chunks of source. Fine-tuning completes functions: the prompt is the first half
of a function's lines, the response is the rest. Compute is counted in passes: one forward and
backward pass over a batch. A SUNDAE step with one unroll takes two, an AR step one.

    python examples/ar2diff_python.py            # all of it, minutes on two CPU cores
    python examples/ar2diff_python.py --fast     # everything tiny, to see that it runs

Results, plots and a preset are written to --output. KERAS_BACKEND names the backend.
"""

import ast
import hashlib
import json
import os
import pathlib
import sysconfig
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # the fastest on CPU at this size
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import ar2diff_python_report as report
import keras
import keras_hub
import numpy as np
import rich.console
import rich.progress
import tokenizers
from absl import app, flags

from keras_textdiff.backbones import TransformerBackbone
from keras_textdiff.evaluation import denoiser_cross_entropy
from keras_textdiff.models import CausalLM, CausalLMPreprocessor
from keras_textdiff.objectives import Sundae
from keras_textdiff.samplers import SundaeSampler
from keras_textdiff.transfer.ar2diff import ar2diff

END_TOKEN = "<|endoftext|>"
PASSES_PER_EPOCH = 20  # one point of the training curves
EVALUATION_PASSES = 30  # what one evaluation is worth in the estimate of the remaining time
NOISE_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)

SETTINGS = {  # name: (default, value of --fast, help)
    "seeds": (3, 2, "Seeds, each trains all arms."),
    "pretraining_passes": (160, 40, "Forward and backward passes of pretraining."),
    "diffusion_passes": (60, 20, "N: the last passes of AR2Diff_N's pretraining, in diffusion."),
    "finetuning_passes": (60, 20, "Passes of fine-tuning, the same for all arms."),
    "batch_size": (16, 4, "Rows of a batch."),
    "sequence_length": (128, 64, "Tokens of a row, prompt and response together."),
    "vocabulary_size": (1024, 400, "Tokens of the byte-pair vocabulary."),
    "hidden_dim": (128, 16, "Size of the hidden states."),
    "layers": (4, 1, "Transformer blocks."),
    "prompts": (32, 4, "Held-out functions to complete, for each model."),
    "evaluation_rows": (128, 8, "Held-out functions for the cross-entropies."),
    "timed_tokens": (256, 32, "Tokens to generate when timing."),
    "source_files": (10_000, 80, "Most files of the standard library to read."),
}
for name, (default, fast, text) in SETTINGS.items():
    flags.DEFINE_integer(name, None, f"{text} Default {default}, with --fast {fast}.", 1)
flags.DEFINE_float("learning_rate", 2e-3, "Peak of AdamW's learning rate, the same for all arms.")
flags.DEFINE_string("output", "runs/ar2diff_python", "Folder for results, plots and the preset.")
flags.DEFINE_bool("fast", False, "Make everything tiny: shows that it runs, not what it learns.")


# === Data: the standard library's functions ===


def collect_functions(most_files):
    """Return `{"train": ..., "held_out": ...}`: for each file, the list of its functions.

    Functions are written out by `ast.unparse`, without docstrings: one style throughout, and
    more of them fit into a row. A function that occurs twice counts once, and whole files are
    held out, so none is in both parts.
    """
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
    paths = [
        path for path in sorted(root.rglob("*.py")) if not skipped & {*path.relative_to(root).parts}
    ]
    parts, seen = {"train": [], "held_out": []}, set()
    for path in paths[:most_files]:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        functions = []
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if ast.get_docstring(node, clean=False) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
                source = ast.unparse(node)
                if source not in seen:
                    seen.add(source)
                    functions.append(source)
        digest = hashlib.blake2b(path.relative_to(root).as_posix().encode()).digest()
        parts["held_out" if digest[0] < 26 else "train"].append(functions)
    return parts


def train_tokenizer(functions, vocabulary_size):
    """Train a byte-level byte-pair tokenizer and wrap it for KerasHub."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    # A line break with its indentation, a word, a number or punctuation with a space before it.
    pieces = tokenizers.Regex(r"\s*\n\s*| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(pieces, "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_TOKEN],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(functions, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return keras_hub.models.GPT2Tokenizer(
        vocabulary=model["vocab"], merges=[" ".join(merge) for merge in model["merges"]]
    )


def make_chunks(files, tokenizer, length):
    """Cut each file's functions, line by line, into texts that fill a row of `length` tokens."""
    chunks = []
    for functions in files:
        lines = "\n".join(functions).splitlines(keepends=True)
        chunk, room = "", length - 1  # the last token ends the text
        for line, tokens in zip(lines, tokenizer(lines) if lines else [], strict=True):
            if len(tokens) > room and chunk:
                chunks.append(chunk)
                chunk, room = "", length - 1
            chunk, room = chunk + line, room - len(tokens)
        chunks.append(chunk)
    return [chunk for chunk in chunks if chunk]


def make_completions(files, tokenizer, length):
    """Split the functions that fill a row at least by half into prompts and responses."""
    functions = [function for functions in files for function in functions]
    prompts, responses = [], []
    for function, tokens in zip(functions, tokenizer(functions), strict=True):
        lines = function.split("\n")
        if length // 2 <= len(tokens) < length and len(lines) > 2:
            half = (len(lines) + 1) // 2
            prompts.append("\n".join(lines[:half]))
            responses.append("\n" + "\n".join(lines[half:]))
    return {"prompts": prompts, "responses": responses}


def spread_out(examples, count):
    """Return at most `count` prompts and responses, evenly spread over the files."""
    count = min(count, len(examples["prompts"]))
    rows = np.linspace(0, len(examples["prompts"]) - 1, count).astype(int)
    return {key: [values[row] for row in rows] for key, values in examples.items()}


def whole_batches(examples, batch_size):
    """Leave out the rows of a last, smaller batch: it would be compiled for itself."""
    if isinstance(examples, dict):
        return {key: whole_batches(values, batch_size) for key, values in examples.items()}
    return examples[: len(examples) // batch_size * batch_size]


# === Models ===


def make_backbone(settings, vocabulary_size):
    """Return an untrained causal Transformer."""
    return TransformerBackbone(
        vocabulary_size=vocabulary_size,
        num_layers=settings["layers"],
        num_query_heads=4,
        num_key_value_heads=4,
        head_dim=settings["hidden_dim"] // 4,
        hidden_dim=settings["hidden_dim"],
        intermediate_dim=2 * settings["hidden_dim"],
        attention="causal",
        rope={"theta": 10000.0},
        dtype="float32",
    )


def restart(model, weights):
    """Give a compiled model other weights and a fresh optimizer.

    From AR to diffusion this is what `ar2diff(causal_lm)` does, into a model that is compiled
    already: compiling takes longer than many an arm's training.
    """
    model.backbone.set_weights(weights)
    for variable in model.optimizer.variables:
        variable.assign(keras.ops.zeros(variable.shape, variable.dtype))


class Follow(keras.callbacks.Callback):
    """Moves the progress bar and keeps the training curve, in nats per token and pass."""

    def __init__(self, bar, passes_per_step, curve):
        super().__init__()
        self.bar, self.passes_per_step, self.curve = bar, passes_per_step, curve

    def on_train_batch_end(self, batch, logs=None):
        self.bar.advance(self.passes_per_step)

    def on_epoch_end(self, epoch, logs=None):
        self.curve.append(float(logs["loss"]) / self.passes_per_step)


class Bar:
    """One progress bar for the whole run, with a line for each stage that has ended."""

    def __init__(self, console, total):
        columns = (
            *rich.progress.Progress.get_default_columns()[:-1],
            rich.progress.TimeElapsedColumn(),
        )
        left = rich.progress.TimeRemainingColumn(elapsed_when_finished=False)
        self.progress = rich.progress.Progress(*columns, "remaining", left, console=console)
        self.task = self.progress.add_task("starting", total=total)

    def advance(self, passes):
        self.progress.advance(self.task, passes)

    def stage(self, name):
        self.progress.update(self.task, description=name)

    def note(self, text):
        self.progress.console.print(text, highlight=False)


class Lab:
    """The two compiled models, the data and the settings that all seeds and arms share."""

    def __init__(self, settings, learning_rate, console):
        self.settings = settings
        self.learning_rate = learning_rate
        length, batch_size = settings["sequence_length"], settings["batch_size"]
        files = collect_functions(settings["source_files"])
        functions = [function for part in files["train"] for function in part]
        self.tokenizer = train_tokenizer(functions, settings["vocabulary_size"])
        self.chunks = whole_batches(make_chunks(files["train"], self.tokenizer, length), batch_size)
        self.completions = whole_batches(
            make_completions(files["train"], self.tokenizer, length), batch_size
        )
        held_out = make_completions(files["held_out"], self.tokenizer, length)
        self.held_out = spread_out(held_out, settings["evaluation_rows"])
        self.tasks = spread_out(held_out, settings["prompts"])
        console.print(
            f"{len(functions)} functions to train on: {len(self.chunks)} chunks of source, "
            f"{len(self.completions['prompts'])} completions. Held out, from other files: "
            f"{len(held_out['prompts'])} completions."
        )
        preprocessor = CausalLMPreprocessor(self.tokenizer, sequence_length=length)
        backbone = make_backbone(settings, self.tokenizer.vocabulary_size())
        self.causal_lm = CausalLM(backbone, preprocessor)
        self.causal_lm.compile(optimizer=keras.optimizers.AdamW(learning_rate), sampler="greedy")
        self.lm = ar2diff(self.causal_lm)
        self.lm.compile(
            optimizer=keras.optimizers.AdamW(learning_rate),
            objective=Sundae(num_unroll_steps=1),
            sampler=SundaeSampler(num_denoising_steps=10, num_canvases=8),
        )
        self.bar = Bar(console, self.total_passes())

    def total_passes(self):
        """Return the passes of all seeds and arms, evaluations included."""
        pretraining, finetuning = (
            self.settings["pretraining_passes"],
            self.settings["finetuning_passes"],
        )
        passes = 2 * pretraining + self.settings["diffusion_passes"] + 4 * finetuning
        return self.settings["seeds"] * (passes + 4 * EVALUATION_PASSES)

    def train(self, model, data, first_pass, last_pass, *, name, seed, decay=False):
        """Train from one count of passes to another; return the training curve.

        The learning rate rises over the first passes; with `decay` it then falls to zero.
        """
        passes_per_step = 1 if model is self.causal_lm else 2
        first, last = first_pass // PASSES_PER_EPOCH, last_pass // PASSES_PER_EPOCH

        def learning_rate(epoch, _):
            rate = self.learning_rate * min(1.0, (epoch + 1) / 3)
            return rate * (1 - epoch / last) if decay else rate

        if first == last:
            return []
        curve, start = [], time.perf_counter()
        self.bar.stage(f"seed {seed}: {name}")
        keras.utils.set_random_seed(seed)  # all arms see the same rows in the same order
        model.fit(
            data,
            batch_size=self.settings["batch_size"],
            initial_epoch=first,
            epochs=last,
            steps_per_epoch=PASSES_PER_EPOCH // passes_per_step,
            callbacks=[
                keras.callbacks.LearningRateScheduler(learning_rate),
                Follow(self.bar, passes_per_step, curve),
            ],
            verbose=0,
        )
        self.bar.note(
            f"seed {seed}: {name}, {last_pass - first_pass} passes in "
            f"{time.perf_counter() - start:.0f} s, loss {curve[0]:.2f} -> {curve[-1]:.2f}"
        )
        return curve

    def evaluate(self, model, seed, name):
        """Complete the held-out prompts and measure cross-entropies; see `report.judge`."""
        start = time.perf_counter()
        self.bar.stage(f"seed {seed}: {name} evaluation")
        options = {"max_length": self.settings["sequence_length"], "strip_prompt": True}
        if model is self.lm:
            options.update(seed=seed, batch_size=16)
        prompts = self.tasks["prompts"]
        results = report.judge(prompts, model.generate(prompts, **options))
        if model is self.lm:
            results["cross_entropies"] = self.cross_entropies()
        self.bar.note(f"seed {seed}: {name} evaluation in {time.perf_counter() - start:.0f} s")
        self.bar.advance(EVALUATION_PASSES)
        return results

    def cross_entropies(self):
        """Return the diffusion model's held-out cross-entropy at each noise level."""
        return denoiser_cross_entropy(self.lm, self.held_out, NOISE_LEVELS)


def run_seed(lab, seed):
    """Train and evaluate all arms; return the measurements and the weights of AR2Diff_N."""
    settings, causal_lm, lm = lab.settings, lab.causal_lm, lab.lm
    pretraining, finetuning = settings["pretraining_passes"], settings["finetuning_passes"]
    branch = pretraining - settings["diffusion_passes"]  # where AR2Diff_N leaves AR
    keras.utils.set_random_seed(seed)
    untrained = make_backbone(settings, lab.tokenizer.vocabulary_size()).get_weights()
    curves, results = {}, {}

    restart(causal_lm, untrained)
    curve = lab.train(causal_lm, lab.chunks, 0, branch, name="AR pretraining", seed=seed)
    at_branch = causal_lm.backbone.get_weights()
    curve += lab.train(causal_lm, lab.chunks, branch, pretraining, name="AR, rest", seed=seed + 1)
    pretrained = causal_lm.backbone.get_weights()
    restart(causal_lm, pretrained)
    curve += lab.train(
        causal_lm, lab.completions, 0, finetuning, name="AR fine-tuning", seed=seed, decay=True
    )
    curves["AR"] = (0, curve)
    results["AR"] = lab.evaluate(causal_lm, seed, "AR")

    restart(lm, untrained)
    results["untrained"] = {"cross_entropies": lab.cross_entropies()}
    # Each arm: the weights it starts from, and at which pass of the pretraining it does.
    starts = {
        "AR2Diff_0": (pretrained, pretraining),
        "AR2Diff_N": (at_branch, branch),
        "from scratch": (untrained, 0),
    }
    for arm, (weights, start) in starts.items():
        restart(lm, weights)
        curve = lab.train(
            lm, lab.chunks, 0, pretraining - start, name=f"{arm} pretraining", seed=seed
        )
        restart(lm, lm.backbone.get_weights())
        curve += lab.train(
            lm, lab.completions, 0, finetuning, name=f"{arm} fine-tuning", seed=seed, decay=True
        )
        curves[arm] = (start, curve)
        results[arm] = lab.evaluate(lm, seed, arm)
        if arm == "AR2Diff_N":
            final = lm.backbone.get_weights()
    return {"arms": results, "curves": curves}, final


def seconds_per_generation(lab):
    """Time the generation of `timed_tokens` tokens behind one prompt, compilation excluded."""
    causal_lm, lm, num_tokens = lab.causal_lm, lab.lm, lab.settings["timed_tokens"]
    lab.bar.stage("timing")
    prompt = lab.tasks["prompts"][0]
    length = len(lab.tokenizer(prompt)) + num_tokens

    def measure(generate):
        times = []
        for _ in range(4):
            start = time.perf_counter()
            generate()
            times.append(time.perf_counter() - start)
        return sorted(times[1:])[1]  # the first call compiles; the median of the others

    results = {
        "AR, greedy": measure(
            lambda: causal_lm.generate(prompt, max_length=length, stop_token_ids=None)
        )
    }
    for canvases in (1, 8):
        sampler = SundaeSampler(10, num_canvases=canvases, stop_when_unchanged=False)
        lm.compile(optimizer=lm.optimizer, sampler=sampler)
        results[f"diffusion, 10 steps, {canvases} canvas{'es' * (canvases > 1)}"] = measure(
            lambda: lm.generate(prompt, max_length=length, seed=0)
        )
    return results


def main(_):
    start = time.perf_counter()
    values = flags.FLAGS.flag_values_dict()
    settings = {
        name: values[name] or (fast if values["fast"] else default)
        for name, (default, fast, _) in SETTINGS.items()
    }
    check_settings(settings)
    console = rich.console.Console()
    keras.utils.set_random_seed(0)
    lab = Lab(settings, values["learning_rate"], console)
    with lab.bar.progress:
        seeds, final = [], None
        for seed in range(settings["seeds"]):
            measurements, final = run_seed(lab, seed)
            seeds.append(measurements)
        seconds = seconds_per_generation(lab)
    output = pathlib.Path(values["output"])
    output.mkdir(parents=True, exist_ok=True)
    restart(lab.lm, final)
    lab.lm.save_to_preset(str(output / "preset"))
    references = report.judge(lab.tasks["prompts"], lab.tasks["responses"])
    results = {
        "backend": keras.config.backend(),
        "settings": {**settings, "learning_rate": values["learning_rate"]},
        "passes_per_epoch": PASSES_PER_EPOCH,
        "parameters": lab.lm.count_params(),
        "seeds": seeds,
        "references": references,
        "prompts": lab.tasks["prompts"],
        "seconds": seconds,
        "wall_seconds": time.perf_counter() - start,
    }
    report.show(results, console)
    report.write(results, output)
    console.print(f"Results, plots and a preset are in {output}.")


def check_settings(settings):
    """Raise a ValueError for budgets that do not fit together."""
    for name in ("pretraining_passes", "diffusion_passes", "finetuning_passes"):
        if settings[name] % PASSES_PER_EPOCH:
            raise ValueError(
                f"--{name} must be a multiple of {PASSES_PER_EPOCH}. Got {settings[name]}."
            )
    if settings["diffusion_passes"] >= settings["pretraining_passes"]:
        raise ValueError("--diffusion_passes must be smaller than --pretraining_passes.")
    if settings["hidden_dim"] % 8:
        raise ValueError(f"--hidden_dim must be a multiple of 8. Got {settings['hidden_dim']}.")


if __name__ == "__main__":
    app.run(main)
