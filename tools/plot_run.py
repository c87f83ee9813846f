"""Draw the curves of runs that `keras_textdiff.training.RunLog` logged.

    python tools/plot_run.py runs/1/log.jsonl --output=run.png
    python tools/plot_run.py runs/*/log.jsonl --output=runs.png --metrics=loss,accuracy --x=tokens

One panel for each metric, one curve for each run; results of validation are dots. Runs are named
by what tells their paths apart.
"""

import sys

from absl import app, flags
from training_run import curves

OUTPUT = flags.DEFINE_string("output", None, "File of the picture (.png, .pdf, .svg).")
METRICS = flags.DEFINE_list(
    "metrics",
    None,
    "What to draw, names in the log, a panel each. By default loss, accuracy, learning_rate, "
    "tokens_per_second and mfu, as far as the logs have them.",
)
X = flags.DEFINE_enum("x", "step", ["step", "tokens", "hours"], "What the curves run along.")

flags.mark_flag_as_required("output")


def main(arguments):
    """Read the logs, draw, and write."""
    try:
        runs = curves.read_runs(arguments[1:])
        metrics = curves.choose_metrics(runs, METRICS.value, X.value)
        figure = curves.draw(runs, metrics, X.value)
        try:
            figure.savefig(OUTPUT.value, dpi=110)
        except OSError as error:
            raise ValueError(f"--output cannot be written: {error}.") from error
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{OUTPUT.value}: {', '.join(metrics)} of {', '.join(runs)}")


if __name__ == "__main__":
    app.run(main)
