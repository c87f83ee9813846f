"""Set everything up and run something: the only command that needs nothing but Python 3.11.

    python3 tools/start.py example          # the main job: examples/ar2diff_python.py
    python3 tools/start.py test             # all tests, on jax, tensorflow and torch
    python3 tools/start.py lint             # ruff

Everything behind the word is passed on (`example --fast`, `test tests/samplers`). The virtual
environment is kept in .venv and reused; --venv=DIR, directly behind start.py, puts it elsewhere.
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import time
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
BACKENDS = ("torch", "tensorflow", "jax")  # the first is the fastest
TORCH = "torch==2.13.0"


def environment(directory, extras):
    """Create or update the virtual environment and return its Python."""
    if sys.version_info < (3, 11):  # noqa: UP036 (run by whatever python3 is)
        sys.exit(f"Python 3.11 or newer is needed. This is {sys.version.split()[0]}.")
    python = directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = directory / f"installed-{extras}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"Installing into {directory} (once; a few minutes) ...", flush=True)
    if not python.exists():
        venv.create(directory, with_pip=True, clear=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if "test" in extras:  # first, so that nothing else picks another build
        subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, "--editable", f"{ROOT}[{extras}]"], check=True)
    stamp.write_text(wanted)
    return python


def run_example(directory, arguments):
    """Run the main job; its backend comes from KERAS_BACKEND or its own default."""
    python = environment(directory, "tensorflow,jax,examples")
    script = ROOT / "examples" / "ar2diff_python.py"
    return subprocess.run([python, script, *arguments], cwd=ROOT).returncode


def run_tests(directory, arguments):
    """Run pytest once per backend, all at a time, and print each report in full."""
    python = environment(directory, "test")
    backends = [os.environ["KERAS_BACKEND"]] if os.environ.get("KERAS_BACKEND") else BACKENDS
    running, failed = {}, []
    logs = directory / "test-logs"
    logs.mkdir(exist_ok=True)
    for backend in backends:
        print(f"[{backend}] tests started", flush=True)
        # What needs no backend is tested once, with the first of them.
        once = [] if backend == backends[0] else ["-m", "not backend_free"]
        log = open(logs / f"{backend}.txt", "w")  # noqa: SIM115 (closed when it ends)
        process = subprocess.Popen(
            [python, "-m", "pytest", *once, *arguments],
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": backend},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        running[backend] = (process, log, time.time())
    while running:
        time.sleep(1)
        for backend, (process, log, start) in list(running.items()):
            if process.poll() is None:
                continue
            log.close()
            del running[backend]
            print(f"\n===== {backend}, {time.time() - start:.0f} s =====", flush=True)
            print((logs / f"{backend}.txt").read_text(), flush=True)
            if process.returncode:
                failed.append(backend)
    print("All backends passed." if not failed else f"Failed: {', '.join(failed)}.")
    return 1 if failed else 0


def run_lint(directory, arguments):
    """Run ruff's checks."""
    python = environment(directory, "test")
    for command in (["check"], ["format", "--check"]):
        code = subprocess.run([python, "-m", "ruff", *command, ROOT, *arguments]).returncode
        if code:
            return code
    return 0


def main():
    """Read the command line."""
    commands = {"example": run_example, "test": run_tests, "lint": run_lint}
    arguments, directory = sys.argv[1:], ROOT / ".venv"
    if arguments and arguments[0].startswith("--venv="):
        directory = pathlib.Path(arguments.pop(0).removeprefix("--venv=")).resolve()
    if not arguments or arguments[0] not in commands:
        sys.exit(__doc__)
    sys.exit(commands[arguments[0]](directory, arguments[1:]))


if __name__ == "__main__":
    main()
