"""Run all benchmarks, or those named, and say which bars are met.

    python tools/benchmarks/run_all.py --output=results                  # all; two hours or more
    python tools/benchmarks/run_all.py --output=results sampling denoiser
    python tools/benchmarks/run_all.py --output=results --tiny           # only that they run
    python tools/benchmarks/run_all.py --output=results --summary        # of what is there

Each benchmark's JSON is kept in the folder --output; nothing else may run on the machine.
Further flags go to a benchmark itself: see the top of its file.
"""

import json
import pathlib
import subprocess
import sys

from absl import app, flags

_OUTPUT = flags.DEFINE_string("output", None, "Folder for the JSONs.", required=True)
_TINY = flags.DEFINE_bool("tiny", False, "Whether to run at tiny sizes, whose times mean nothing.")
_SUMMARY = flags.DEFINE_bool("summary", False, "Whether to run nothing, and print the table.")
# What a full run adds to the short defaults: the bar of writing is at 512 tokens.
BENCHMARKS = {
    "import_time": [],
    "denoiser": [],
    "attention": [],
    "sampling": [],
    "training_step": [],
    "cross_entropy_memory": [],
    "load_time": [],
    "generation": ["--lengths=128,512"],
    "early_stopping": [],
    "prompt_cache": ["--dtypes=bfloat16"],
}


def run(name, folder):
    """Run one benchmark; return whether it ended well."""
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    more = ["--tiny"] if _TINY.value else BENCHMARKS[name]
    print(f"===== {name} =====", flush=True)
    command = [sys.executable, path, f"--output={folder / name}.json", *more]
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def summarize(names, folder):
    """Return the lines of the table of all bars."""
    lines = []
    for name in names:
        path = folder / f"{name}.json"
        if not path.exists():
            lines.append(f"{name}: not there")
            continue
        report = json.loads(path.read_text())
        machine = report["machine"]
        lines.append(
            f"{name}: {machine['cpu']}, {machine['cores']} cores, load {machine['load_average']}"
        )
        for bar in report["bars"]:
            verdict = "met   " if bar["met"] else "missed"
            lines.append(f"  {verdict} {bar['value']:>9.3f}  {bar['wanted']:<8} {bar['what']}")
    return lines


def main(arguments):
    names = arguments[1:] or list(BENCHMARKS)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        sys.exit(f"Unknown benchmarks {unknown}. There are {list(BENCHMARKS)}.")
    folder = pathlib.Path(_OUTPUT.value)
    failed = []
    if not _SUMMARY.value:
        folder.mkdir(parents=True, exist_ok=True)
        failed = [name for name in names if not run(name, folder)]
    print("\n".join(summarize(names, folder)))
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    app.run(main)
