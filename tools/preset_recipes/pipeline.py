"""All that happens to a domain: training, measuring, writing; what is done is not done again."""

import json
import time

from reproduction.stages import write_json

from preset_recipes import export, recipes, scores, stages


def find_plan(recipe, corpus, folder, passes=None, minutes=None):
    """Return the `Plan` that a run in this folder began with, or make one and write it down.

    Args:
        recipe: `Recipe`.
        corpus: `Corpus`.
        folder: `pathlib.Path`.
        passes: int or None, passes of the AR training.
        minutes: float or None, rough duration in place of them.

    Raises:
        ValueError: where a run with another recipe, plan or text is in the folder, or a new run
            is not told how long to be.
    """
    path = folder / "plan.json"
    facts = {"corpus": corpus.digest, "recipe": json.loads(json.dumps(recipes.describe(recipe)))}
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        plan = recipes.Plan(passes or found["passes"])
        if found != {"passes": plan.passes, **facts}:
            raise ValueError(
                f"{path} is of a run with other passes, another recipe or other texts. Go on with "
                "what that run was started with, or pass another --output."
            )
        return plan
    if (passes is None) == (minutes is None):
        raise ValueError(
            f"A new run takes either --passes or --minutes. Got passes={passes} and "
            f"minutes={minutes}."
        )
    plan = recipes.Plan(passes) if passes else recipes.plan_within(recipe, 60 * minutes)
    write_json(path, {"passes": plan.passes, **facts})
    return plan


def make_presets(recipe, plan, corpus, folder):
    """Train, measure and write the presets of a domain.

    Args:
        recipe: `Recipe`.
        plan: `Plan`.
        corpus: `Corpus`.
        folder: `pathlib.Path` of the run.

    Returns:
        Dict from name to the folder of the preset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a", encoding="utf-8") as file:

        def write(line):
            line = f"{time.strftime('%H:%M:%S')} {line}"
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()

        workshop = stages.Workshop(recipe, plan, corpus, folder, write)
        write(
            f"{recipe.domain}: {len(workshop.train)} texts to train on, {len(workshop.held_out)} "
            f"held out, steps {plan.steps}, {plan.total_passes} passes in all"
        )
        for stage in plan.steps:
            workshop.run(stage)
            write(f"{stage} is trained: {workshop.result(stage)['seconds'] / 60:.1f} minutes")
        finished = {}
        for stage in plan.steps:
            export.write_preset(workshop, stage)
            write(f"{stage}: {json.dumps(scores.measure(workshop, stage)['scores'])}")
            export.write_card(workshop, stage)
            directory = workshop.shipped(stage)
            finished[directory.name] = directory
            write(f"{directory}: {export.size_of(directory) / 1e6:.2f} MB")
        return finished
