"""Reproduces the tables and curves of AR2Diff (Han et al. 2024, arXiv 2401.17181).

    python tools/reproduce_ar2diff.py --scale=minutes --plan_only     # what there is to do
    python tools/reproduce_ar2diff.py --scale=minutes                 # all of it
    python tools/reproduce_ar2diff.py --cells='table2/small/*/qa/*'   # a part
    python tools/reproduce_ar2diff.py --time_limit_minutes=60         # one sitting
    python tools/reproduce_ar2diff.py --report_only

Table 1 compares architectures and pretraining objectives; Table 2 AR, diffusion and AR2Diff_N, in
several sizes; Table 3 denoising steps and samples; Figure 3 how long writing takes. A run that was
stopped, in whatever way, goes on when the same command is given again, and ends with the same
numbers; what is finished is a small JSON file under --results and not run again.

Compute is counted in passes, one forward and backward pass over a batch: an AR step takes one, a
SUNDAE step with its unroll two. Below the scale "paper" all arms of a table have the same number
of passes in pretraining and in fine-tuning: diffusion takes half the steps, and the N steps of
AR2Diff_N stand in place of the last 2 N steps of the AR pretraining. KERAS_BACKEND names the
backend.
"""

import fnmatch
import logging
import os
import pathlib
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # the fastest on CPU at small sizes
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import rich.console
import rich.progress
import rich.table
from absl import app, flags
from reproduction import corpora, plan, scales, stages, summary, tasks

ROOT = pathlib.Path(__file__).resolve().parents[1]

SCALE = flags.DEFINE_enum("scale", "minutes", sorted(scales.SCALES), "How large everything is.")
TABLES = flags.DEFINE_list("tables", ["1", "2", "3"], "Tables to make.")
FIGURES = flags.DEFINE_list("figures", ["3"], "Figures to make.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds, each trains everything.", lower_bound=1)
CELLS = flags.DEFINE_string("cells", "*", "Pattern of the names of cells to run.")
DATA = flags.DEFINE_string(
    "data", None, "Folder of data: mt, qa, text, code_tasks. Default: ../shared/data beside the "
    "repository where there is one; 'none' for what Python brings."
)  # fmt: skip
TRANSLATION = flags.DEFINE_enum(
    "translation", "tatoeba", tasks.TRANSLATION_CORPORA, "Sentences to translate."
)
CODE = flags.DEFINE_enum("code", "programs", tasks.CODE_CORPORA, "Programming tasks.")
OUTPUT = flags.DEFINE_string("output", "runs/reproduction", "Folder of checkpoints and logs.")
RESULTS = flags.DEFINE_string(
    "results", str(ROOT / "examples/reproduction/results"), "Folder of results, small JSON files."
)
TIME_LIMIT = flags.DEFINE_float("time_limit_minutes", None, "Stop, with all saved, after this.")
PLAN_ONLY = flags.DEFINE_bool("plan_only", False, "Print the plan and stop.")
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Make the report of what is finished.")


class Screen:
    """Prints a line for each stage that ends, and shows how far the current one is.

    Args:
        console: `rich.console.Console`.
        total: float, estimated seconds of everything.
    """

    def __init__(self, console, total):
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            rich.progress.TimeElapsedColumn(),
            console=console,
        )
        self.all = self.bar.add_task("everything, as estimated", total=total)
        self.current = self.bar.add_task("")

    def __call__(self, name, done, total, note):
        """Show progress, see `Laboratory`."""
        self.bar.update(self.current, description=f"{name}  {note}", completed=done, total=total)

    def finished(self, stage, seconds, estimate):
        """Print that a stage has ended."""
        note = self.bar.tasks[self.current].description
        line = f"{note}  ({seconds:.0f} s in all)"
        self.bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self.bar.advance(self.all, estimate)


def print_plan(laboratory, cells, console):
    """Print what is to be run, and return the seconds that it will take by stage."""
    measured = laboratory.measured(cells)
    missing = laboratory.missing_stages(cells)
    estimates = {
        stage: plan.estimate_seconds(stage, laboratory.scale, measured) for stage in missing
    }
    table = rich.table.Table(title=f"scale {laboratory.scale.name}")
    for head in ("part", "cells", "finished", "stages to run", "tokens", "hours"):
        table.add_column(head, justify="left" if head == "part" else "right")
    counted = set()
    for part in dict.fromkeys(_part(cell) for cell in cells):
        members = [cell for cell in cells if _part(cell) == part]
        finished = sum(laboratory.read_result(cell.stage) is not None for cell in members)
        own = [
            stage
            for stage in laboratory.missing_stages(members)
            if stage not in counted and not counted.add(stage)
        ]
        tokens = sum(plan.tokens_of(stage, laboratory.scale) for stage in own)
        hours = sum(estimates[stage] for stage in own) / 3600
        table.add_row(
            part, str(len(members)), str(finished), str(len(own)), f"{tokens:.2e}", f"{hours:.2f}"
        )
    console.print(table)
    known = "finished runs" if measured else f"{laboratory.scale.flops:.1e} operations a second"
    console.print(
        f"{len(missing)} stages, {sum(estimates.values()) / 3600:.2f} hours estimated from {known}."
        " Tokens count every pass and every denoising step.",
        highlight=False,
    )
    return estimates


def _part(cell):
    words = cell.name.split("/")
    return "/".join(words[:2]) if words[0] in ("table2", "figure3") else words[0]


def run(laboratory, estimates, console):
    """Run what is missing; return whether the time sufficed."""
    screen = Screen(console, sum(estimates.values()))
    laboratory.progress = screen
    with screen.bar:
        for stage, estimate in estimates.items():
            start = time.perf_counter()
            try:
                laboratory.run(stage)
            except stages.OutOfTime:
                return False
            screen.finished(stage, time.perf_counter() - start, estimate)
    return True


def report(laboratory, cells, folder, console):
    """Write results.json, results.md and the pictures."""
    from reproduction import plots

    results = summary.summarize(laboratory, cells)
    folder.mkdir(parents=True, exist_ok=True)
    stages.write_json(folder / "results.json", results)
    text = summary.markdown(results, laboratory.scale)
    (folder / "results.md").write_text(text + "\n", encoding="utf-8")
    plots.draw_all(results, laboratory.scale, folder)
    console.print(f"Tables and pictures are in {folder}.", highlight=False)


def find_data():
    """Return the folder of data, or None."""
    if DATA.value == "none":
        return None
    folder = pathlib.Path(DATA.value or ROOT.parent / "shared" / "data")
    if folder.is_dir():
        return str(folder)
    if DATA.value:
        raise ValueError(f"--data: there is no folder {folder}. Pass 'none' to do without.")
    return None


def main(_):
    """Read the flags, print the plan, run, report."""
    # Many models are compiled once each; tensorflow takes it for one compiled too often.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    console = rich.console.Console()
    scale = scales.SCALES[SCALE.value]
    try:
        options = corpora.DataOptions(find_data(), TRANSLATION.value, CODE.value)
    except ValueError as error:
        sys.exit(f"error: {error}")
    cells = plan.make_cells(
        scale, range(SEEDS.value), [int(n) for n in TABLES.value], [int(n) for n in FIGURES.value]
    )
    chosen = [cell for cell in cells if fnmatch.fnmatch(cell.name, CELLS.value)]
    if not chosen:
        sys.exit(f"error: no cell is called {CELLS.value!r}. The first is {cells[0].name!r}.")
    clock = stages.Clock(TIME_LIMIT.value)
    laboratory = stages.Laboratory(
        scale, options, OUTPUT.value, RESULTS.value, clock, lambda *_: None
    )
    if not REPORT_ONLY.value:
        estimates = print_plan(laboratory, chosen, console)
        if PLAN_ONLY.value:
            return
        if not run(laboratory, estimates, console):
            console.print("The time is up. The same command goes on from here.")
    report(laboratory, cells, pathlib.Path(RESULTS.value, scale.name), console)


if __name__ == "__main__":
    app.run(main)
