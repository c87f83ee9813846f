"""Run all reference solutions of HumanEval and MBPP in the sandbox, and list those that fail.

python tools/check_sandbox.py ../shared/data/code_tasks/*.jsonl.xz
"""

import argparse
import collections
import concurrent.futures
import json
import lzma
import time

from keras_textdiff.evaluation import Sandbox, code_problem


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="problems as .jsonl or .jsonl.xz")
    parser.add_argument("--num_workers", type=int, default=2, help="programs at a time")
    arguments = parser.parse_args()
    sandbox = Sandbox(wall_seconds=30)

    def run(row):
        program, tests, entry_point = code_problem(row)
        return row["task_id"], sandbox.run(program, tests, entry_point=entry_point)

    for name in arguments.files:
        with (lzma.open if name.endswith(".xz") else open)(name, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(arguments.num_workers) as pool:
            results = list(pool.map(run, rows))
        seconds = time.perf_counter() - start
        print(
            name,
            dict(collections.Counter(result.status for _, result in results)),
            f"{1000 * seconds / len(rows):.0f} ms a program, {arguments.num_workers} at a time",
        )
        for task_id, result in results:
            if result.status != "pass":
                print(f"  {task_id}: {result.status}: {result.message}")


if __name__ == "__main__":
    main()
