"""Makes the small presets that ship: an AR model, AR2Diff of it, and diffusion from scratch.

    python tools/make_presets.py --domain=python --minutes=40
    python tools/make_presets.py --domain=english --data=novels.jsonl.xz --passes=2400
    python tools/make_presets.py --domain=python --export=keras_textdiff/presets/shipped

Trains the three models of a domain on one CPU core, measures them, and writes each as a preset in
bfloat16 with a model card. The number of steps is fixed at the first start (by --passes, or from
--minutes and the operations needed) and kept in plan.json. A run that was stopped, in whatever
way, goes on when the same command is given again. KERAS_BACKEND names the backend.

Compute is counted in passes, one forward and backward pass over a batch: AR takes --passes of
them, AR2Diff goes on from it with three times as many, and diffusion from scratch has as many as
both together.
"""

import logging
import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # the fastest on CPU at small sizes
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags
from absl import logging as absl_logging
from preset_recipes import export, pipeline, recipes, texts

DOMAIN = flags.DEFINE_enum("domain", None, sorted(recipes.RECIPES), "What to train on.")
PASSES = flags.DEFINE_integer("passes", None, "Passes of the AR training, an even number.")
MINUTES = flags.DEFINE_float("minutes", None, "Rough duration, in place of --passes.")
DATA = flags.DEFINE_string("data", None, "For English: a .jsonl(.xz) file of novels.")
OUTPUT = flags.DEFINE_string("output", "runs/presets", "Folder of logs, checkpoints and results.")
EXPORT = flags.DEFINE_string("export", None, "Folder to copy the finished presets to, by name.")
flags.mark_flag_as_required("domain")


def main(_):
    """Read the flags and do what they say."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells of every step of a save
    recipe = recipes.RECIPES[DOMAIN.value]
    folder = pathlib.Path(OUTPUT.value, recipe.domain)
    try:
        corpus = texts.load_corpus(recipe.domain, DATA.value)
        plan = pipeline.find_plan(recipe, corpus, folder, PASSES.value, MINUTES.value)
        finished = pipeline.make_presets(recipe, plan, corpus, folder)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if EXPORT.value:
        for name, directory in finished.items():
            export.copy_preset(directory, pathlib.Path(EXPORT.value, name))


if __name__ == "__main__":
    app.run(main)
