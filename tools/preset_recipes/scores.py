"""Measures a finished model, once: held-out cross-entropy, and what it writes."""

import ast
import json
import re
import warnings

import keras_hub
from reproduction.models import jit_compile
from reproduction.stages import write_json

from keras_textdiff.evaluation import denoiser_cross_entropy, log_likelihood
from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.samplers import SundaeSampler

JUDGEMENTS = {
    "python": "share of written functions that `ast.parse` accepts",
    "english": "share of written words that occur in the training text",
}


def measure(workshop, stage):
    """Return the scores, samples and infilled texts of a stage's model; kept in scores.json.

    Args:
        workshop: `Workshop` whose stage has been trained and written as a preset.
        stage: "ar", "ar2diff" or "diffusion".
    """
    path = workshop.folder / stage / "scores.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    recipe = workshop.recipe
    lm, write = load_writer(workshop, stage)
    if stage == "ar":
        found = log_likelihood(lm, workshop.held_out)
        scores = {"held-out cross-entropy, nats per token": found["nats_per_token"]}
    else:
        found = denoiser_cross_entropy(lm, workshop.held_out)
        scores = {
            f"held-out denoiser cross-entropy at {level:.0%} noise, nats per token": nats
            for level, nats in found.items()
        }
    judge = make_judge(workshop)
    prompts = opening_prompts(workshop)
    written = write(prompts)
    scores[JUDGEMENTS[recipe.domain]] = judge(written)
    result = {
        "scores": {name: round(score, 4) for name, score in scores.items()},
        "num_prompts": len(prompts),
        "written": written,
        "samples": write(list(recipe.prompts)),
        "infilled": [],
    }
    if stage != "ar":
        result["infilled"] = [
            lm.infill(list(pieces), lengths=list(lengths), seed=recipe.seed)
            for pieces, lengths in recipe.gaps
        ]
    write_json(path, result)
    return result


def load_writer(workshop, stage):
    """Return a stage's model as it ships, compiled, and a function from prompts to texts."""
    recipe = workshop.recipe
    if stage == "ar":
        lm = CausalLM.from_preset(workshop.shipped(stage), dtype="float32")
        sampler = keras_hub.samplers.RandomSampler(temperature=recipe.temperature, seed=recipe.seed)
        lm.compile(sampler=sampler, jit_compile=jit_compile())
        return lm, lm.generate
    lm = DiffusionLM.from_preset(workshop.shipped(stage), dtype="float32")
    lm.compile(sampler=SundaeSampler(**dict(recipe.sampler)), jit_compile=jit_compile())
    return lm, lambda prompts: lm.generate(prompts, seed=recipe.seed, batch_size=16)


def opening_prompts(workshop):
    """Return the beginnings of held-out texts: a function's first line, a sentence's two words."""
    pattern = r"[^\n]+" if workshop.recipe.domain == "python" else r"\S+ \S+"
    # A line without its end: the tokenizer joins that to the next line's spaces.
    found = [re.match(pattern, text) for text in workshop.held_out]
    prompts = [match.group() for match in found if match and match.group()[:1] != "@"]
    return list(dict.fromkeys(prompts))[: workshop.recipe.generated]


def make_judge(workshop):
    """Return a function from texts to the share that is right, see `JUDGEMENTS`."""
    if workshop.recipe.domain == "python":
        return lambda written: sum(map(is_python, written)) / len(written)
    known = {word for text in workshop.corpus.train for word in _words(text)}

    def share_known(written):
        words = [word for text in written for word in _words(text)]
        return sum(word in known for word in words) / max(len(words), 1)

    return share_known


def is_python(text):
    """Return whether a text parses as Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _words(text):
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
