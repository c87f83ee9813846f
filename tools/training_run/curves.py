"""Curves of runs: what plot_run.py draws."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker

from keras_textdiff.training import read_run_log

DEFAULT_METRICS = ("loss", "accuracy", "learning_rate", "tokens_per_second", "mfu")
COLUMNS = 3
COLORS = ("#4477aa", "#cc6677", "#228833", "#aa3377", "#ccbb44", "#66ccee")
LABELS = {
    "loss": "loss (nats, mean since the last line)",
    "learning_rate": "learning rate",
    "tokens_per_second": "tokens per second",
    "mfu": "MFU (share of the devices' peak)",
    "remaining_hours": "remaining time (hours)",
    "step": "step",
    "tokens": "tokens",
    "hours": "hours since the first line",
}


def read_runs(paths):
    """Return a dict from the name of a run to its lines."""
    if not paths:
        raise ValueError("Nothing to draw. Pass the files of one or more runs.")
    runs = {}
    for path, name in zip(paths, run_names(paths), strict=True):
        lines = read_run_log(path)
        if not lines:
            raise ValueError(
                f"{path} holds no line yet. RunLog writes one every `every_steps` steps."
            )
        for line in lines:
            line["hours"] = (line["time"] - lines[0]["time"]) / 3600
        runs[name] = lines
    return runs


def run_names(paths):
    """Return what tells paths apart: their parts without those that all of them have."""
    if len(set(paths)) < len(paths):
        raise ValueError(f"Each run can be drawn once. Got {paths}.")
    parts = [pathlib.Path(path).with_suffix("").parts for path in paths]
    if len(parts) == 1:
        return [parts[0][-1]]
    while all(len(p) > 1 and p[0] == parts[0][0] for p in parts):
        parts = [p[1:] for p in parts]
    while all(len(p) > 1 and p[-1] == parts[0][-1] for p in parts):
        parts = [p[:-1] for p in parts]
    names = ["/".join(p) for p in parts]
    return names if len(set(names)) == len(names) else list(paths)


def choose_metrics(runs, wanted, x):
    """Return the names of what is drawn."""
    known = {name for lines in runs.values() for line in lines for name in line}
    numbers = sorted(known - {"step", "epoch", "time", "hours"})
    for name in [x, *(wanted or [])]:
        if name not in known:
            raise ValueError(f"The logs have no {name!r}. They have {numbers}.")
    return wanted or [name for name in DEFAULT_METRICS if name in known]


def points(lines, x, name):
    """Return where lines have both numbers, as two lists."""
    pairs = [(line[x], line[name]) for line in lines if line.get(name) is not None and x in line]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def draw(runs, metrics, x):
    """Return the figure."""
    columns = min(COLUMNS, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 3.8 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(metrics) :]:
        axis.remove()
    for axis, metric in zip(axes.flat, metrics, strict=False):
        for index, (name, lines) in enumerate(runs.items()):
            color = COLORS[index % len(COLORS)]
            style = ("-", "--", ":")[index // len(COLORS) % 3]
            xs, ys = points(lines, x, metric)
            marker = "." if len(xs) < 40 else None
            axis.plot(xs, ys, color=color, ls=style, lw=1.3, marker=marker, ms=5, label=name)
            xs, ys = points(lines, x, f"val_{metric}")
            if xs:
                axis.plot(xs, ys, "D", color=color, mec="white", ms=7, label=f"{name}, validation")
        axis.set_title(LABELS.get(metric, metric), fontsize=11)
        axis.set_xlabel(LABELS[x])
        if x != "hours":
            axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        if metric == "tokens_per_second":
            axis.yaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    if len(runs) > 1 or len(axes.flat[0].get_lines()) > 1:
        axes.flat[0].legend(fontsize=8)
    return figure
