"""Evaluate a preset on a task and print a table.

    python tools/evaluate.py --preset=my_preset --task=translation --data=newstest2014.jsonl
    python tools/evaluate.py --preset=my_preset --task=qa --data=dev-v1.1.json --response_length=32
    python tools/evaluate.py --preset=my_preset --task=mbpp --data=mbpp.jsonl --task_ids=11-510 \\
        --num_samples=80 --k=1,10,80 --sampler_options=num_denoising_steps=20
    python tools/evaluate.py --preset=my_preset --task=likelihood --data=held_out.jsonl \\
        --prompt="{question}" --response="{answer}"

Data is a file of JSON lines, a JSON list or SQuAD's JSON, plain, .gz or .xz. KERAS_BACKEND names
the backend.
"""

import json
import pathlib
import sys

import keras_hub
import rich.console
import rich.progress
from absl import app, flags

from keras_textdiff import evaluation, samplers
from keras_textdiff.evaluation.prompts import fill_prompts
from keras_textdiff.models import DiffusionLM
from keras_textdiff.transfer.load_source import load_source

TASKS = ("translation", "qa", "mbpp", "humaneval", "cross_entropy", "likelihood")

PRESET = flags.DEFINE_string("preset", None, "Folder of a preset, or a handle.", required=True)
MODEL = flags.DEFINE_enum(
    "model", "diffusion", ["diffusion", "causal"], "What the preset holds: a DiffusionLM, or an "
    "autoregressive model of this package or of KerasHub."
)  # fmt: skip
DTYPE = flags.DEFINE_string("dtype", None, "Dtype or policy to load with.")
TASK = flags.DEFINE_enum("task", None, TASKS, "What to evaluate on.", required=True)
DATA = flags.DEFINE_string("data", None, "File with the examples.", required=True)
LIMIT = flags.DEFINE_integer("limit", None, "Use the first so many examples.", lower_bound=1)
TASK_IDS = flags.DEFINE_string("task_ids", None, "MBPP: use these, as FIRST-LAST (test: 11-510).")
PROMPT = flags.DEFINE_string("prompt", None, "Template of the prompt, fields in braces.")
RESPONSE = flags.DEFINE_string(
    "response", "{text}", "Template of the text to score, for cross_entropy and likelihood."
)
TARGET = flags.DEFINE_string("target", "fr", "Key of the translation.")
RESPONSE_LENGTH = flags.DEFINE_integer(
    "response_length", None, "Tokens for each text; by default the model's sequence length."
)
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Programs per problem (1), or denoiser calls per row of likelihood (16)."
)
K = flags.DEFINE_list("k", ["1"], "Numbers k of pass@k.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 64, "Steps of the likelihood bound.")
NOISE_LEVELS = flags.DEFINE_list("noise_levels", ["0.1", "0.3", "0.5", "0.7", "0.9"], "In [0, 1].")
SAMPLER = flags.DEFINE_string(
    "sampler", None, "Name of the sampler; 'sundae' or 'greedy' by default."
)
SAMPLER_OPTIONS = flags.DEFINE_multi_string(
    "sampler_options", [], "Options of the sampler, each as name=value."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Prompts or rows at a time.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of all that is drawn.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table and all outputs.")


def read_data():
    """Return the examples that the flags select."""
    examples = evaluation.read_examples(DATA.value)
    if TASK_IDS.value is not None:
        try:
            first, last = map(int, TASK_IDS.value.split("-"))
        except ValueError:
            raise ValueError(f"--task_ids is FIRST-LAST. Got {TASK_IDS.value!r}.") from None
        examples = [row for row in examples if first <= int(row.get("task_id", -1)) <= last]
    return examples[: LIMIT.value]


def make_task(examples):
    """Return the task."""
    prompt = {} if PROMPT.value is None else {"prompt": PROMPT.value}
    samples = {} if NUM_SAMPLES.value is None else {"num_samples": NUM_SAMPLES.value}
    length = {"response_length": RESPONSE_LENGTH.value}
    if TASK.value == "translation":
        return evaluation.TranslationTask(examples, target=TARGET.value, **prompt, **length)
    if TASK.value == "qa":
        return evaluation.QuestionAnsweringTask(examples, **prompt, **length)
    if TASK.value in ("mbpp", "humaneval"):
        return evaluation.CodeTask(
            examples,
            {"humaneval": "human_eval"}.get(TASK.value, TASK.value),
            k=[int(k) for k in K.value],
            **prompt,
            **samples,
            **length,
        )
    data = fill_prompts(RESPONSE.value, examples)
    if PROMPT.value is not None:
        data = {"prompts": fill_prompts(PROMPT.value, examples), "responses": data}
    if TASK.value == "cross_entropy":
        return evaluation.CrossEntropyTask(data, noise_levels=list(map(float, NOISE_LEVELS.value)))
    return evaluation.LikelihoodTask(data, num_steps=NUM_STEPS.value, **samples)


def make_sampler():
    """Return the sampler with the options of the flags."""
    if MODEL.value == "diffusion":
        sampler = samplers.get(SAMPLER.value or "sundae")
    else:
        sampler = keras_hub.samplers.get(SAMPLER.value or "greedy")
    options = {}
    for option in SAMPLER_OPTIONS.value:
        name, _, value = option.partition("=")
        if name not in sampler.get_config():
            raise ValueError(
                f"{type(sampler).__name__} has no option {name!r}. It has "
                f"{sorted(sampler.get_config())}; pass each as --sampler_options=name=value."
            )
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError(f"The value of {option!r} is no number, true or false.") from None
    return type(sampler)(**options)


def load_model():
    """Return the model of the preset, ready to generate."""
    dtype = {} if DTYPE.value is None else {"dtype": DTYPE.value}
    if MODEL.value == "diffusion":
        lm = DiffusionLM.from_preset(PRESET.value, **dtype)
    else:
        lm = load_source(PRESET.value, **dtype)
    lm.compile(sampler=make_sampler())
    return lm


def run(console):
    """Evaluate, with a progress bar, and return the report."""
    task = make_task(read_data())  # the data is checked before a model is loaded
    make_sampler()
    lm = load_model()
    columns = [
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
    ]
    with rich.progress.Progress(*columns, console=console) as bar:
        stages = {}

        def progress(stage, done, total):
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total)
            bar.update(stages[stage], completed=done)

        return evaluation.evaluate(
            lm, task, batch_size=BATCH_SIZE.value, seed=SEED.value, progress=progress
        )


def main(_):
    """Read the flags, evaluate, print and write."""
    console = rich.console.Console()
    if OUTPUT.value is not None and not pathlib.Path(OUTPUT.value).absolute().parent.is_dir():
        sys.exit(f"error: --output lies in a folder that does not exist: {OUTPUT.value}")
    try:
        report = run(console)
    except (ImportError, ValueError, evaluation.SandboxUnavailable) as error:
        sys.exit(f"error: {error}")
    console.print(report)
    if OUTPUT.value is not None:
        text = json.dumps({"preset": PRESET.value, **report.to_dict()}, indent=2)
        pathlib.Path(OUTPUT.value).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
