"""Seconds that `import keras_textdiff` adds to `import keras_hub`, per backend.

python tools/benchmarks/import_time.py
"""

import json
import os
import statistics
import subprocess
import sys

CODE = """
import time
start = time.perf_counter()
import keras_hub
middle = time.perf_counter()
import keras_textdiff
print(middle - start, time.perf_counter() - middle)
"""


def main():
    rows = {}
    for backend in ("jax", "tensorflow", "torch"):
        environment = {**os.environ, "KERAS_BACKEND": backend}
        runs = []
        for _ in range(5):
            output = subprocess.run(
                [sys.executable, "-c", CODE],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=True,
                text=True,
            ).stdout
            runs.append([float(x) for x in output.split()])
        hub, own = (statistics.median(column) for column in zip(*runs, strict=True))
        rows[backend] = {"keras_hub_s": round(hub, 3), "added_s": round(own, 3)}
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
