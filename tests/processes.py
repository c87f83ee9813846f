"""Processes that a test runs side by side."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


def free_port():
    """Return a port that nothing listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_together(commands, timeout=600, **options):
    """Run commands side by side, and return what each printed; all must succeed.

    Args:
        commands: list of lists of strings.
        timeout: seconds.
        **options: of `subprocess.Popen`.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        runs = [
            subprocess.Popen(list(map(str, command)), stdout=file, stderr=file, **options)
            for command, file in zip(commands, files, strict=True)
        ]
        stack.callback(_end, runs)
        end = time.monotonic() + timeout
        while any(run.poll() is None for run in runs) and time.monotonic() < end:
            if any(run.poll() for run in runs):
                break  # the others would wait for it
            time.sleep(0.1)
        codes = [run.poll() for run in runs]
        outputs = []
        for file in files:
            file.seek(0)
            outputs.append(file.read())
    tails = "\n\n".join(output[-4000:] for output in outputs)
    assert not any(codes) and None not in codes, f"exit codes {codes}\n{tails}"
    return outputs


def run_on_eight_devices(tests, *xla_flags):
    """Run a file of tests in a process in which jax has 8 virtual CPU devices."""
    flags = " ".join(["--xla_force_host_platform_device_count=8", *xla_flags])
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax", "XLA_FLAGS": flags
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", tests]
    run_together([command], timeout=900, cwd=ROOT, env=environment)


def _end(runs):
    for run in runs:
        run.kill()
        run.wait()
