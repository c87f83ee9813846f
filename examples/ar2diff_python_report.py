"""Tables, plots and sentences for `ar2diff_python.py`."""

import ast
import json
import statistics
import warnings

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

ARMS = ("AR", "AR2Diff_0", "AR2Diff_N", "from scratch")
COLORS = {
    "AR": "#7f7f7f",
    "AR2Diff_0": "#e69f00",
    "AR2Diff_N": "#0072b2",
    "from scratch": "#d55e00",
}
COMPARED = "0.3"  # the noise level of the closing sentence


def judge(prompts, completions):
    """Return the completions, the share that Python can parse, and their mean length."""
    valid = 0
    for prompt, completion in zip(prompts, completions, strict=True):
        with warnings.catch_warnings(action="ignore"):  # Python's remarks on odd literals
            try:
                ast.parse(prompt + completion)
                valid += 1
            except (SyntaxError, ValueError):  # ValueError: a null byte
                pass
    return {
        "completions": list(completions),
        "valid": valid / len(prompts),
        "characters": sum(map(len, completions)) / len(prompts),
    }


def spread(values):
    """Return mean and standard deviation; one value has no deviation."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else float("nan")


def plus_minus(values, digits=2):
    """Return "mean ± standard deviation", or the value alone where there is only one."""
    mean, deviation = spread(values)
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(values) > 1 else "")


def of_seeds(results, arm, key):
    """Return one measurement of an arm for each seed."""
    return [seed["arms"][arm][key] for seed in results["seeds"]]


def tables(results):
    """Return `(title, header, rows)` of each table."""
    settings = results["settings"]
    seeds = settings["seeds"]
    deviation = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    levels = [str(level) for level in results["seeds"][0]["arms"]["untrained"]["cross_entropies"]]
    cross_entropies = []
    for arm in ("untrained", *ARMS[1:]):
        values = of_seeds(results, arm, "cross_entropies")
        values = [{str(level): nats for level, nats in seed.items()} for seed in values]
        row = [plus_minus([seed[level] for seed in values]) for level in levels]
        cross_entropies.append([arm, *row])
    completions = []
    for arm in ARMS:
        values = [100 * share for share in of_seeds(results, arm, "valid")]
        length = plus_minus(of_seeds(results, arm, "characters"), 0)
        completions.append(
            [f"{arm}, greedy" if arm == "AR" else arm, plus_minus(values, 0), length]
        )
    for name, empty in (("held-out original", False), ("prompt alone", True)):
        reference = results["references"]
        if empty:
            reference = judge(results["prompts"], [""] * len(results["prompts"]))
        row = [name, f"{100 * reference['valid']:.0f}", f"{reference['characters']:.0f}"]
        completions.append(row)
    tokens = settings["timed_tokens"]
    return [
        (
            "Held-out cross-entropy of one denoiser call, nats per token, by share of target "
            f"tokens replaced with random ones ({deviation}; {settings['evaluation_rows']} "
            "functions; all target positions count, end padding included, as in training)",
            ["", *(f"{float(level):.0%}" for level in levels)],
            cross_entropies,
        ),
        (
            f"Completions of {settings['prompts']} held-out functions per seed ({deviation}). "
            "Diffusion: 10 steps, the best of 8 canvases. The originals fit into the row "
            "entirely; a prompt alone can be valid too, so an empty answer is no failure here",
            ["", "ast.parse accepts, %", "characters"],
            completions,
        ),
        (
            f"Seconds for {tokens} generated tokens, one prompt, warm (compilation excluded; "
            "median of 3)",
            ["", "seconds"],
            [[name, f"{seconds:.2f}"] for name, seconds in results["seconds"].items()],
        ),
    ]


def budget(results):
    """Return the sentence that says what was equal."""
    settings = results["settings"]
    tokens = settings["batch_size"] * settings["sequence_length"]
    pretraining, finetuning = settings["pretraining_passes"], settings["finetuning_passes"]
    branch = pretraining - settings["diffusion_passes"]
    return (
        f"Equal compute: every arm has {pretraining} pretraining and {finetuning} fine-tuning "
        f"passes (forward and backward over {tokens} tokens). A SUNDAE step with 1 unroll takes "
        f"two passes, an AR step one. AR2Diff_N: {branch} passes AR, then "
        f"{settings['diffusion_passes']} passes diffusion. {results['parameters']:,} parameters, "
        f"float32, {results['backend']}."
    )


def conclusion(results):
    """Return the sentence that says which of AR2Diff_N and from scratch is better, if any."""
    sides = []
    for arm in ("AR2Diff_N", "from scratch"):
        values = of_seeds(results, arm, "cross_entropies")
        sides.append([{str(k): v for k, v in seed.items()}[COMPARED] for seed in values])
    gains = [scratch - ours for ours, scratch in zip(*sides, strict=True)]
    mean, deviation = spread(gains)
    where = f"nats per token at {float(COMPARED):.0%} corruption"
    better, worse = ("AR2Diff_N", "from scratch") if mean > 0 else ("from scratch", "AR2Diff_N")
    if len(gains) == 1:
        return f"{better} is better than {worse} by {abs(mean):.3f} {where} in a single seed."
    if abs(mean) <= deviation:
        return (
            "AR2Diff_N and from scratch: no difference beyond the spread "
            f"({mean:+.3f} ± {deviation:.3f} {where} for AR2Diff_N)."
        )
    return (
        f"{better} is better than {worse} by {abs(mean):.3f} ± {deviation:.3f} {where} "
        f"(mean ± standard deviation of the {len(gains)} seeds' differences)."
    )


def samples(results, count=4):
    """Return `(prompt, {name: completion})` for the last seed, evenly spread."""
    arms = results["seeds"][-1]["arms"]
    step = max(1, len(results["prompts"]) // count)
    for row in range(0, step * count, step):
        if row < len(results["prompts"]):
            texts = {arm: arms[arm]["completions"][row] for arm in ("AR", *ARMS[2:])}
            original = results["references"]["completions"][row]
            yield results["prompts"][row], {**texts, "original": original}


def show(results, console):
    """Print everything."""
    console.print()
    console.print(escape(budget(results)), highlight=False)
    for title, header, rows in tables(results):
        table = Table(title=title, title_justify="left", title_style="bold")
        for index, name in enumerate(header):
            table.add_column(name, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"[bold]{escape(conclusion(results))}[/bold]", highlight=False)
    for prompt, texts in samples(results):
        text = "\n".join(
            [f"[dim]{escape(prompt)}[/dim]"]
            + [f"[bold]# {arm}[/bold]{escape(_body(text))}" for arm, text in texts.items()]
        )
        console.print(Panel(text, title="sample", title_align="left"))
    console.print(f"{results['wall_seconds']:.0f} s in total.", highlight=False)


def _body(text):
    """Return a completion that starts on its own line, in printable characters, without gaps."""
    text = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    lines = [line for line in text.split("\n") if line.strip()]
    return "\n" + "\n".join(lines or ["(nothing)"])


def write(results, output):
    """Write results.json, results.md and curves.png into the folder `output`."""
    record = {**results, "conclusion": conclusion(results), "equal_compute": budget(results)}
    (output / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    parts = ["# AR2Diff on the Python standard library", budget(results)]
    for title, header, rows in tables(results):
        lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
        parts += [f"{title}:", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    parts += [f"**{conclusion(results)}**", "![Training curves and cross-entropies](curves.png)"]
    parts.append("## Samples of the last seed")
    for prompt, texts in samples(results):
        parts.append("\n".join(["Prompt:", "```python", prompt, "```"]))
        for arm, text in texts.items():
            parts.append("\n".join([f"{arm}:", f"```python{_body(text)}", "```"]))
    parts.append(f"{results['wall_seconds']:.0f} s in total.")
    (output / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    plot(results, output / "curves.png")


def plot(results, path):
    """Draw the training curves of all arms and the cross-entropy by noise level."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 5), width_ratios=(1.5, 1), layout="constrained"
    )
    seeds, every = results["seeds"], results["passes_per_epoch"]
    pretraining = results["settings"]["pretraining_passes"]
    for arm in ARMS:
        start = seeds[0]["curves"][arm][0]
        columns = list(zip(*(seed["curves"][arm][1] for seed in seeds), strict=True))
        passes = [start + every * (index + 0.5) for index in range(len(columns))]
        means = [statistics.mean(column) for column in columns]
        style = "--" if arm == "AR" else "-"
        left.plot(passes, means, style, color=COLORS[arm], label=arm)
        lows, highs = [min(column) for column in columns], [max(column) for column in columns]
        left.fill_between(passes, lows, highs, color=COLORS[arm], alpha=0.2, linewidth=0)
    left.axvline(pretraining, color="black", linewidth=0.8, linestyle=":")
    left.annotate(
        "fine-tuning",
        (pretraining, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
    )
    left.set_xlabel("compute, forward and backward passes")
    left.set_ylabel("training loss, nats per token and pass")
    left.set_title("Training: AR next token, others SUNDAE (band: lowest to highest seed)")
    for arm in ("untrained", *ARMS[1:]):
        values = of_seeds(results, arm, "cross_entropies")
        levels = list(values[0])
        stats = [spread([seed[level] for seed in values]) for level in levels]
        right.errorbar(
            [100 * float(level) for level in levels],
            [mean for mean, _ in stats],
            [0 if deviation != deviation else deviation for _, deviation in stats],
            marker="o",
            markersize=4,
            capsize=3,
            linestyle=":" if arm == "untrained" else "-",
            color=COLORS.get(arm, "black"),
            label=arm,
        )
    right.set_xlabel("target tokens replaced with random ones, %")
    right.set_ylabel("held-out cross-entropy, nats per token")
    right.set_title("Held out, one denoiser call (bar: standard deviation)")
    right.set_ylim(bottom=0)
    named = {}
    for axes in (right, left):
        named.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=5)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
