"""Model cards, made from what was measured."""

import platform

import keras

from preset_recipes.recipes import preset_name
from preset_recipes.scores import measure

TITLES = {
    "ar": "an autoregressive language model, the source of AR2Diff",
    "ar2diff": "a text diffusion model made from an autoregressive one (AR2Diff)",
    "diffusion": "a text diffusion model trained from scratch",
}
SECTIONS = ("Use", "Samples", "Scores", "Data", "Training", "Licence", "Limits", "Make it again")


def description(workshop, stage):
    """Return one line about a preset."""
    what = {"python": "short Python functions", "english": "English sentences"}
    return f"{TITLES[stage][0].upper()}{TITLES[stage][1:]}, for {what[workshop.recipe.domain]}."


def make_card(workshop, stage):
    """Return the Markdown of a preset's card."""
    recipe, result = workshop.recipe, workshop.result(stage)
    name = preset_name(stage, recipe.domain)
    measured = measure(workshop, stage)
    bodies = {
        "Use": _use(workshop, stage, name),
        "Samples": _samples(recipe, stage, measured),
        "Scores": _scores(workshop, measured),
        "Data": (
            f"Trained on {result['rows']} texts: {workshop.corpus.description}. Texts that do not "
            f"fit into a row of {recipe.sequence_length} tokens are left out. The tokenizer, byte "
            f"pairs, {workshop.tokenizer.vocabulary_size()} tokens, is made from the same text. "
            f"Digest of all texts: `{workshop.corpus.digest}`."
        ),
        "Training": _training(workshop, stage, result),
        "Licence": (
            f"Weights: Apache-2.0, as keras_textdiff. Text trained on: {workshop.corpus.licence}."
        ),
        "Limits": (
            f"{result['parameters'] / 1e6:.2f} million parameters and minutes of one CPU core: it "
            "shows how the library works and writes text of the right look, not text that is "
            "right. It repeats phrases of its training text. Nothing it writes should be run or "
            "believed unread."
        ),
        "Make it again": _command(workshop),
    }
    parts = [f"# {name}\n\n{description(workshop, stage)}"]
    parts += [f"## {section}\n\n{bodies[section]}" for section in SECTIONS]
    return "\n\n".join(parts) + "\n"


def _use(workshop, stage, name):
    prompt = workshop.recipe.prompts[0]
    if stage == "ar":
        lines = [
            "import keras_textdiff",
            "",
            f'causal_lm = keras_textdiff.models.CausalLM.from_preset("{name}")',
            f"causal_lm.generate({prompt!r})",
            f'lm = keras_textdiff.ar2diff("{name}")  # a diffusion model, to be trained on',
        ]
    else:
        options = ", ".join(f"{key}={value}" for key, value in workshop.recipe.sampler)
        lines = [
            "import keras_textdiff",
            "",
            f'lm = keras_textdiff.models.DiffusionLM.from_preset("{name}")',
            f"lm.compile(sampler=keras_textdiff.samplers.SundaeSampler({options}))",
            f"lm.generate({prompt!r}, seed=0)",
        ]
        if workshop.recipe.gaps:
            pieces, lengths = workshop.recipe.gaps[0]
            lines.append(f"lm.infill({list(pieces)!r}, lengths={list(lengths)}, seed=0)")
    return _code("\n".join(lines), "python")


def _samples(recipe, stage, measured):
    how = f"temperature {recipe.temperature}" if stage == "ar" else "the sampler above"
    parts = [
        f"All of them, with seed {recipe.seed} and {how}, behind the prompts "
        + ", ".join(f"`{prompt}`" for prompt in recipe.prompts)
        + ":"
    ]
    parts += [_code(text) for text in measured["samples"]]
    for (pieces, lengths), text in zip(recipe.gaps, measured["infilled"], strict=False):
        parts += [f"`infill({list(pieces)!r}, lengths={list(lengths)})`:", _code(text)]
    return "\n\n".join(parts)


def _scores(workshop, measured):
    rows = "\n".join(f"| {name} | {score:.3f} |" for name, score in measured["scores"].items())
    return (
        f"On {len(workshop.held_out)} held-out texts; the last one on texts written behind the "
        f"beginnings of {measured['num_prompts']} of them.\n\n| score | value |\n| --- | --- |\n"
        f"{rows}"
    )


def _training(workshop, stage, result):
    recipe = workshop.recipe
    objective = "next tokens" if stage == "ar" else "SUNDAE with one unroll"
    before = ""
    if stage == "ar2diff":
        before = (
            f"Starts from the weights of `{preset_name('ar', recipe.domain)}`, which had "
            f"{workshop.result('ar')['passes']} passes. "
        )
    return (
        f"{before}{result['steps']} steps ({result['passes']} passes, one forward and backward "
        f"each) of {result['batch_size']} rows of {recipe.sequence_length} tokens; objective: "
        f"{objective}; AdamW, learning rate {result['learning_rate']:g} with warm-up and cosine "
        f"decay, weight decay {recipe.weight_decay:g}, seed {recipe.seed}. {recipe.num_layers} "
        f"layers, width {recipe.hidden_dim}, {result['parameters']} parameters, stored in "
        f"bfloat16. Training loss at the end: {result['losses'][-1]:.3f} nats per token. It took "
        f"{result['seconds'] / 60:.0f} minutes on a CPU ({keras.config.backend()}, Keras "
        f"{keras.__version__}, Python {platform.python_version()})."
    )


def _command(workshop):
    data = " --data=<novels.jsonl.xz>" if workshop.recipe.domain == "english" else ""
    command = (
        f"python tools/make_presets.py --domain={workshop.recipe.domain}{data} "
        f"--passes={workshop.plan.passes}"
    )
    return f"{_code(command)}\n\nmakes all three presets of this domain; any stop is resumed."


def _code(text, language=""):
    return f"```{language}\n{text}\n```"
