"""The tables and curves as pictures."""

import functools

import matplotlib

from reproduction import paper, summary

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = ("#4477aa", "#cc6677", "#228833", "#aa3377", "#ccbb44")


def draw_all(results, scale, folder):
    """Write a PNG for each table and figure that has results; return their paths."""
    drawings = {
        **{f"table{n}.png": functools.partial(_draw_table, results, scale, n) for n in (1, 2, 3)},
        "cross_entropy.png": lambda: _draw_cross_entropies(results, scale),
        "curves.png": lambda: _draw_curves(results, scale),
        "figure3.png": lambda: _draw_figure_3(results),
    }
    paths = []
    for name, draw in drawings.items():
        figure = draw()
        if figure is not None:
            figure.savefig(folder / name, dpi=110)
            paths.append(folder / name)
        plt.close("all")
    return paths


def _draw_table(results, scale, table):
    """Dots with error bars: ours above, the paper's below; a color for each group of rows."""
    rows = summary.rows_of(table, scale)
    figure, axes = _panels(results, rows, scale, 2)
    if not _draw_groups(results, rows, axes):
        return None
    axes[1][0].set_ylabel("Han et al. 2024")
    return figure


def _draw_cross_entropies(results, scale):
    """What tells the arms of Table 2 apart best."""
    rows = [row for row in summary.rows_of(2, scale) if row["label"] != "AR"]
    figure, axes = _panels(results, rows, scale, 1)
    if not _draw_groups(results, rows, axes, summary.CROSS_ENTROPY):
        return None
    for axis, name in zip(axes[0], rows[0]["cells"], strict=True):
        axis.set_title(f"{name}: cross-entropy, nats per replaced token", fontsize=10)
    return figure


def _draw_groups(results, rows, axes, metric=None):
    """Draw rows into `_panels`; return whether there is anything to see."""
    labels = list(dict.fromkeys(row["label"] for row in rows))
    groups = list(dict.fromkeys(row["group"] for row in rows))
    is_any = False
    for index, group in enumerate(groups):
        part = [row for row in rows if row["group"] == group]
        shift = 0.16 * (index - (len(groups) - 1) / 2)
        for column, name in enumerate(rows[0]["cells"]):
            numbers = [summary.value(results, row["cells"][name], metric) for row in part]
            _dots(axes[0][column], numbers, COLORS[index], shift, group)
            is_any = is_any or any(numbers)
            if len(axes) > 1 and part[0]["paper"] is not None:
                known = [row["paper"][name] for row in part]
                places = [place + shift for place in range(len(labels))]
                label = part[0]["paper_group"]
                axes[1][column].plot(places, known, "D", color=COLORS[index], label=label)
    for axis in axes[-1]:
        ticks = [label.replace(", ", "\n") for label in labels]
        axis.set_xticks(range(len(labels)), ticks, fontsize=8)
    if metric is None:
        for axis in axes[0]:
            axis.set_ylim(bottom=0)
    for row in axes:
        if row[0].get_legend_handles_labels()[0]:
            row[0].legend(fontsize=8)
    return is_any


def _panels(results, rows, scale, count):
    """Return a figure and its axes: a column for each task, and `count` rows."""
    names = list(rows[0]["cells"])
    figure, axes = plt.subplots(
        count, len(names), figsize=(4.4 * len(names), 3.2 * count), sharex="col", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for column, name in enumerate(names):
        entries = [results["cells"].get(row["cells"][name]) for row in rows]
        metric = next((entry["metric"] for entry in entries if entry), "")
        axes[0][column].set_title(f"{name}: {metric}", fontsize=10)
        for row in axes:
            row[column].grid(axis="y", alpha=0.3)
            row[column].margins(x=0.12)
    axes[0][0].set_ylabel(f'ours, scale "{scale.name}"')
    return figure, axes


def _dots(axis, numbers, color, shift, label=None):
    """Draw means with standard deviations, and the seeds as small dots."""
    for place, spread in enumerate(numbers):
        if spread is None:
            continue
        axis.errorbar(
            place + shift, spread["mean"], yerr=spread["deviation"] or 0, fmt="o", color=color,
            capsize=3, label=label,
        )  # fmt: skip
        label = None
        values = spread["values"]
        axis.plot([place + shift + 0.05] * len(values), values, ".", color=color, alpha=0.45)


def _draw_curves(results, scale):
    """Training losses against passes: pretraining, then the fine-tuning on each task."""
    arms = {summary.arm_label(arm, scale): f"table2/{scale.base_size}/{arm}" for arm in paper.ARMS}
    if not any(f"{name}/{paper.TASKS[0]}" in results["curves"] for name in arms.values()):
        return None
    figure, axes = plt.subplots(1, 4, figsize=(17, 4.2), layout="constrained")
    for axis, title in zip(axes, ("pretraining", *paper.TASKS), strict=True):
        axis.set_title(title if title == "pretraining" else f"fine-tuning: {title}", fontsize=10)
        axis.set_xlabel("passes")
        axis.grid(alpha=0.3)
        for color, (label, name) in zip(COLORS, arms.items(), strict=True):
            task = paper.TASKS[0] if title == "pretraining" else title
            runs = results["curves"].get(f"{name}/{task}", [])
            for run in runs:
                parts = run[:-1] if title == "pretraining" else run[-1:]
                passes, losses = _join(parts)
                axis.plot(passes, losses, color=color, lw=1, alpha=0.8, label=label)
                label = None
    axes[0].set_ylabel("training loss, nats per token and pass\n(AR: next token; else: denoising)")
    axes[0].legend(fontsize=8)
    return figure


def _join(parts):
    """Return the passes and losses of stages that follow each other."""
    passes, losses, start = [], [], 0
    for part in parts:
        count = len(part["curve"])
        passes += [start + part["passes"] * (index + 1) / count for index in range(count)]
        losses += part["curve"]
        start += part["passes"]
    return passes, losses


def _draw_figure_3(results):
    if not results["seconds"]:
        return None
    sizes = list(dict.fromkeys(name.split("/")[1] for name in results["seconds"]))
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(5.2 * len(sizes), 4.2), squeeze=False, layout="constrained"
    )
    for axis, size in zip(axes[0], sizes, strict=True):
        curves = {n: p for n, p in results["seconds"].items() if n.split("/")[1] == size}
        for color, (name, points) in zip(COLORS, curves.items(), strict=False):
            method = name.split("/")[2]
            steps = method.removeprefix("diffusion")
            label = "AR, cached" if method == "ar" else f"diffusion, {steps} steps"
            lengths = sorted(points)
            axis.plot(lengths, [points[n] for n in lengths], "o-", color=color, label=label)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        ticks = sorted({length for points in curves.values() for length in points})
        axis.set_xticks(ticks, ticks)
        axis.set_title(f"size {size}, random weights, one text, one canvas", fontsize=10)
        axis.set_xlabel("tokens written")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("seconds")
    return figure
