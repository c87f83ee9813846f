"""Seconds that `import keras_textdiff` adds to `import keras_hub`, per backend.

    python tools/benchmarks/import_time.py --output=results/import_time.json

Bytecode is cached, as it is for every package after its first import: a run before the measured
ones fills a cache of the benchmark's own, whatever PYTHONDONTWRITEBYTECODE says. What `import
keras_hub` leaves to the garbage collector is collected before the clock goes on: with TensorFlow
that takes 0.2 s, and falls into whatever happens to be imported next.
"""

import os
import statistics
import subprocess
import sys
import tempfile

import harness

OPTIONS = {"backends": ["jax", "tensorflow", "torch"], "repeats": 5}
TINY = {"backends": ["jax"], "repeats": 1}
SIDES = {}
CODE = """
import gc
import time
start = time.perf_counter()
import keras_hub
gc.collect()
middle = time.perf_counter()
import keras_textdiff
print(middle - start, time.perf_counter() - middle)
"""


def measure(backend, cache, repeats):
    """Return the seconds of `import keras_hub` and of `import keras_textdiff` behind it."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    runs = []
    for _ in range(1 + repeats):
        output = subprocess.run(
            [sys.executable, "-c", CODE],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
            text=True,
        ).stdout
        runs.append([float(x) for x in output.split()])
    return [statistics.median(column) for column in zip(*runs[1:], strict=True)]


def compare(start, options):
    rows, bars = [], []
    with tempfile.TemporaryDirectory() as cache:
        for backend in options["backends"]:
            hub, own = measure(backend, cache, options["repeats"])
            rows.append(
                {"backend": backend, "keras_hub_s": round(hub, 3), "added_s": round(own, 3)}
            )
            what = f"import, seconds on top of keras_hub, {backend}"
            bars.append(harness.bar(what, own, at_most=0.2))
    return {"rows": rows, "bars": bars}


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
