"""From the results of single runs to tables, beside the paper's."""

import math
import statistics

from reproduction import paper, plan

DECIMALS = {"translation": 2, "qa": 1, "code": 1}
CROSS_ENTROPY = "cross_entropy_0.6"  # of the noise levels, the one that has a table
LIKELIHOODS = ("cross_entropy", "nats")  # how their names begin; no sampler changes them


def summarize(laboratory, cells):
    """Return what the finished cells say, as a dict that can be written as JSON.

    Args:
        laboratory: `Laboratory`, which reads the results.
        cells: list of `plan.Cell`.

    Returns:
        Dict of "scale"; "settings"; "cells", from a cell's name without its seed to its metrics,
        each with mean, standard deviation, and the values of the seeds; "seconds", from a curve
        of Figure 3 to its points; "curves", of training; "backends" and "tasks".
    """
    values, seconds, curves, backends, titles = {}, {}, {}, set(), {}
    for cell in cells:
        result = laboratory.read_result(cell.stage)
        if result is None:
            continue
        backends.add(result["backend"])
        name, _, last = cell.name.rpartition("/")
        if isinstance(cell.stage, plan.Timing):
            seconds.setdefault(name, {})[int(last)] = result["seconds_per_text"]
            continue
        task = cell.stage.model.data
        titles[task] = result["task"]
        entry = values.setdefault(name, {"metric": result["metric"], "metrics": {}})
        for metric, value in result["metrics"].items():
            entry["metrics"].setdefault(metric, []).append(value)
        curves.setdefault(name, []).append(result["training"])
    for entry in values.values():
        entry["metrics"] = {name: spread(numbers) for name, numbers in entry["metrics"].items()}
    return {
        "scale": laboratory.scale.name,
        "backends": sorted(backends),
        "tasks": titles,
        "cells": values,
        "seconds": seconds,
        "curves": curves,
    }


def spread(numbers):
    """Return mean, sample standard deviation (None for one number) and the numbers."""
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": statistics.mean(numbers), "deviation": deviation, "values": numbers}


def value(summary, name, metric=None):
    """Return the spread of a metric, by default the cell's own; None where there is none."""
    entry = summary["cells"].get(name)
    return None if entry is None else entry["metrics"].get(metric or entry["metric"])


def rows_of(table, scale):
    """Return a table's rows.

    Args:
        table: 1, 2 or 3.
        scale: `Scale`.

    Returns:
        List of dicts of "group" (str, or None where a table has but one), "label", "cells" by
        task, "paper_group" (what the paper calls the group) and "paper" (scores by task, or None
        where it has none).
    """
    if table == 1:
        return [
            _row(
                None,
                f"{architecture}, {objective.replace('_', ' ')}",
                f"table1/{architecture}-{objective}",
                paper.TASKS,
                scores,
            )
            for (architecture, objective), scores in paper.TABLE_1.items()
        ]
    if table == 3:
        return [
            _row(
                arm_label(arm, scale),
                f"{steps} steps, {canvases} samples",
                f"table3/{arm}/steps{steps}-samples{canvases}",
                paper.TABLE_3_TASKS,
                scores if arm == "diffusion" else None,
                "diffusion",
            )
            for arm in paper.TABLE_3_ARMS
            for (steps, canvases), scores in paper.TABLE_3.items()
        ]
    return [
        _row(
            size,
            arm_label(arm, scale),
            f"table2/{size}/{arm}",
            paper.TASKS,
            scores[arm],
            paper_size,
        )
        for size, (paper_size, scores) in zip(scale.sizes, paper.TABLE_2.items(), strict=False)
        for arm in paper.ARMS
    ]


def arm_label(arm, scale):
    """Return an arm's name with its N."""
    if arm in ("ar2diff_n1", "ar2diff_n2"):
        return f"AR2Diff, N = {scale.conversion_steps[arm == 'ar2diff_n2']}"
    return {"ar": "AR", "diffusion": "diffusion", "ar2diff_0": "AR2Diff, N = 0"}[arm]


def _row(group, label, name, task_names, scores, paper_group=None):
    return {
        "group": group,
        "label": label,
        "cells": {task: f"{name}/{task}" for task in task_names},
        "paper_group": paper_group,
        "paper": None if scores is None else dict(zip(task_names, scores, strict=True)),
    }


def _title(row):
    return row["label"] if row["group"] is None else f"{row['group']}, {row['label']}"


def markdown(summary, scale):
    """Return everything as Markdown."""
    lines = [
        f'# AR2Diff at the scale "{scale.name}"',
        "",
        "Mean ± standard deviation over seeds; in brackets what Han et al. 2024 (arXiv "
        "2401.17181) report, on other tasks and with models a thousand times larger.",
        "",
        *(f"- {task}: {title}" for task, title in summary["tasks"].items()),
        f"- backend: {', '.join(summary['backends'])}",
        "",
    ]
    titles = {
        1: f"Table 1: architecture and pretraining objective, diffusion, size {scale.base_size}",
        2: "Table 2: AR, diffusion and AR2Diff, decoders, prefix LM",
        3: f"Table 3: denoising steps and samples, size {scale.base_size}",
    }
    for table, title in titles.items():
        rows = rows_of(table, scale)
        names = list(rows[0]["cells"])
        if not any(value(summary, cell) for row in rows for cell in row["cells"].values()):
            continue
        heads = [f"{name} ({_metric(summary, rows, name)})" for name in names]
        lines += [f"## {title}", "", f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(names)]
        for row in rows:
            texts = []
            for name in names:
                known = "" if row["paper"] is None else f" ({row['paper'][name]})"
                texts.append(show(value(summary, row["cells"][name]), DECIMALS[name]) + known)
            lines.append(f"| {_title(row)} | {' | '.join(texts)} |")
        lines.append("")
        cross_entropies = _cross_entropies(summary, rows) if table < 3 else []
        lines += cross_entropies
        if cross_entropies and table == 1:
            lines += [
                "With an encoder, more of a row is padding, which is easy to repair: compare these "
                "numbers among models of one architecture only.",
                "",
            ]
        lines += _further_metrics(summary, rows, table)
    lines += _figure_3(summary)
    return "\n".join(lines)


def show(numbers, decimals=1):
    """Return a spread as text."""
    if numbers is None:
        return "not run"
    mean, deviation = numbers["mean"], numbers["deviation"]
    text = f"{mean:.{decimals}f}"
    return text if deviation is None else f"{text} ± {deviation:.{decimals}f}"


def _metric(summary, rows, task):
    entries = (summary["cells"].get(row["cells"][task]) for row in rows)
    entry = next((entry for entry in entries if entry), None)
    return "not run" if entry is None else entry["metric"]


def _cross_entropies(summary, rows):
    """Return a table of how well one denoiser call repairs the held-out answers."""
    lines = []
    for row in rows:
        found = [value(summary, cell, CROSS_ENTROPY) for cell in row["cells"].values()]
        if any(found):
            lines.append(f"| {_title(row)} | {' | '.join(show(n, 3) for n in found)} |")
    if not lines:
        return []
    level = float(CROSS_ENTROPY.rpartition("_")[2])
    names = list(rows[0]["cells"])
    return [
        f"Cross-entropy of one denoiser call on held-out answers, {level:.0%} of their tokens "
        "replaced, in nats per replaced token (lower is better):",
        "",
        f"| | {' | '.join(names)} |",
        "|---|" + "---:|" * len(names),
        *lines,
        "",
    ]


def _further_metrics(summary, rows, table):
    """Return the metrics that the paper's table does not have, as a line per row."""
    without = LIKELIHOODS if table == 3 else ()
    lines = []
    for row in rows:
        parts = []
        for task, cell in row["cells"].items():
            entry = summary["cells"].get(cell, {"metrics": {}, "metric": None})
            for name, numbers in entry["metrics"].items():
                if name not in (entry["metric"], CROSS_ENTROPY) and not name.startswith(without):
                    decimals = 3 if name.startswith(LIKELIHOODS) else 1
                    parts.append(f"{task} {name} {show(numbers, decimals)}")
        if parts:
            lines.append(f"- {_title(row)}: {', '.join(parts)}")
    return [*(["Further metrics:", "", *lines, ""] if lines else [])]


def _figure_3(summary):
    """Return a table of seconds for each size of Figure 3."""
    lines = []
    for size in dict.fromkeys(name.split("/")[1] for name in summary["seconds"]):
        curves = {
            name.split("/")[2]: points
            for name, points in summary["seconds"].items()
            if name.split("/")[1] == size
        }
        lengths = sorted({length for points in curves.values() for length in points})
        lines += [
            f"## Figure 3: seconds for one text, size {size}, random weights, one canvas",
            "",
            f"| tokens | {' | '.join(map(str, lengths))} |",
            "|---|" + "---:|" * len(lengths),
        ]
        for name, points in curves.items():
            texts = [f"{points[n]:.3f}" if n in points else "not run" for n in lengths]
            lines.append(f"| {name} | {' | '.join(texts)} |")
        if {"ar", "diffusion10"} <= set(curves):
            ratios = [
                curves["ar"].get(n, math.nan) / curves["diffusion10"].get(n, math.nan)
                for n in lengths
            ]
            lines.append(f"| AR / diffusion10 | {' | '.join(f'{r:.1f}' for r in ratios)} |")
        known = ", ".join(f"{ratio} times at {n}" for n, ratio in paper.FIGURE_3.items())
        lines += ["", f"The paper: 10-step diffusion is faster than AR {known} tokens.", ""]
    return lines
