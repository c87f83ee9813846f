"""What the benchmarks share: a process per side, calls timed in turn, the machine, the command.

A benchmark is a module with

    SIDES     dict from a side's name to a function of the options that returns its cases: a dict
              from a case's name to a function that makes the case. What that makes is a callable
              without arguments, which returns when its work is done.
    OPTIONS   dict of the options and their defaults; each is a flag of the command.
    TINY      dict of the options that make it run in seconds, to show that it runs (--tiny).
    compare   function `(start, options)` that opens and times cases, and returns the report;
              `start(side, backend)` gives a side, see `LocalSide`.

Each side lives in a process of its own that waits while another works, so cases of different
backends are timed in turn (A B A B ...), within one run, and no backend's threads are in the way
of another's. Where two sides compute the same, their outputs are compared before.
"""

import contextvars
import functools
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

# TensorFlow compiles with XLA unless told not to; without, it uses other matrix products.
BACKENDS = ["jax", "tensorflow", "tensorflow_without_xla", "torch"]
PACKAGES = (
    "keras", "keras-hub", "jax", "jaxlib", "tensorflow", "torch", "transformers", "numpy"
)  # fmt: skip
MAXIMUM_COMPARED = 2**20  # numbers of an output that are compared, evenly spread


# === The machine ===


def machine():
    """Describe the processor, its load, GPUs and the installed packages."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "gpus": gpus(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **versions,
    }


@functools.cache
def gpus():
    """Return the names of NVIDIA's GPUs that can be used here."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    hidden = result.returncode != 0 or os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return [] if hidden else result.stdout.splitlines()


# === Sides ===


class LocalSide:
    """Runs the cases of a side in this process.

    Args:
        cases: dict from a case's name to a function that makes it.
    """

    def __init__(self, cases):
        self.cases = list(cases)
        self._makers = cases
        self._calls = {}

    def open(self, case):
        """Make a case and call it once; return its output and the seconds of that first call."""
        call = self._makers[case]()
        start = time.perf_counter()
        output = call()
        seconds = time.perf_counter() - start
        self._calls[case] = call
        return thin_out(output), seconds

    def time(self, case):
        """Return the seconds of one call, by the clock and of all processors together."""
        start, processor_start = time.perf_counter(), time.process_time()
        output = self._calls[case]()
        seconds = time.perf_counter() - start, time.process_time() - processor_start
        del output
        return seconds

    def close(self):
        """Let go of all open cases."""
        self._calls.clear()
        gc.collect()  # models hold themselves

    def stop(self):
        """End the side."""
        self.close()


class ProcessSide:
    """Runs the cases of a side in a process of its own.

    Args:
        file: path of the benchmark.
        side: str, a name in its `SIDES`.
        backend: one of `BACKENDS`.
        options: dict of the benchmark's options; "environment", a dict, is set in the process.
        folder: path of a folder for what is passed on.
    """

    def __init__(self, file, side, backend, options, folder):
        environment = options.get("environment", {})
        options = json.dumps({**options, "backend": backend})
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, file, f"--side={side}", f"--options={options}"],
            env={
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # sides share a GPU
                **os.environ,
                **environment,
                "KERAS_BACKEND": keras_backend(backend),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.cases = self._reply()

    def open(self, case):
        path = str(pathlib.Path(self.folder) / "output.npy")
        seconds = self._ask("open", case, path)
        return np.load(path), seconds

    def time(self, case):
        return self._ask("time", case)

    def close(self):
        self._ask("close")

    def stop(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _ask(self, *request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._reply()

    def _reply(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"A measuring process ended, with code {self.process.wait()}; see above.")
        return json.loads(line)


def _serve(make_cases):
    """Answer the requests of a `ProcessSide`; what libraries print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(value):
        print(json.dumps(value), file=replies, flush=True)

    side = LocalSide(make_cases())
    reply(side.cases)
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        if request == "open":
            case, path = arguments
            output, result = side.open(case)
            np.save(path, output)
        else:
            result = getattr(side, request)(*arguments)
        reply(result)


def thin_out(output):
    """Return an output as a flat float32 array of moderate size."""
    output = np.ravel(to_numpy(output))
    return output[:: -(-output.size // MAXIMUM_COMPARED) or 1].astype("float32")


def to_numpy(output):
    """Return a tensor of any backend, or numbers, as a NumPy array."""
    if hasattr(output, "detach"):
        return output.detach().float().cpu().numpy()
    return np.asarray(output)


# === What cases are made of ===


def keras_backend(backend):
    """Return what KERAS_BACKEND is for one of `BACKENDS`."""
    return backend.removesuffix("_without_xla")


def jit_compile(backend):
    """Return what `compile(jit_compile=...)` is for one of `BACKENDS`."""
    return False if backend.endswith("_without_xla") else "auto"


def torch_device():
    """Return where plain torch runs, as Keras chooses it."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def finish(tensors):
    """Wait until tensors are computed, and return them."""
    if "jax" in sys.modules:
        sys.modules["jax"].block_until_ready(tensors)
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.synchronize()
    return tensors


def denoiser_call(lm, inputs):
    """Return a callable that computes the logits `(B, L, V)` of a `DiffusionLM` on `inputs`.

    It is compiled as in a sampler's loop, which knows that nothing is padded where nothing is, and
    looks at the weights once.
    """
    from keras import ops, tree

    from keras_textdiff.utils.capture import capture
    from keras_textdiff.utils.compilation import compile_tensors
    from keras_textdiff.utils.fused_attention import unmasked_attention
    from keras_textdiff.utils.steady_weights import weights_stay

    unmasked = lm.backbone.is_unmasked(inputs)
    inputs = tree.map_structure(ops.convert_to_tensor, inputs)

    def logits(x):
        with unmasked_attention(unmasked):
            return lm.backbone.logits(lm.hidden_states(x))

    # Samplers record a step on torch once it has run some times; here it is measured later.
    run = compile_tensors(lm, capture(lm, logits, after=0))
    context, stay = contextvars.copy_context(), weights_stay()
    context.run(stay.__enter__)

    def call(stay=stay):  # which ends with what is collected
        return finish(context.run(run, inputs))

    return call


def interleave(calls, repeats):
    """Time calls in turn.

    Args:
        calls: dict from a name to a pair `(side, case)`, the case open.
        repeats: int, calls of each.

    Returns:
        Dict from a name to "median_s", "min_s" and "max_s" by the clock; "cpu_s", the median of
        what all processors together spent, which other work on the machine lengthens less; and
        "seconds", the single measurements.
    """
    seconds = {name: [] for name in calls}
    for _ in range(repeats):
        for name, (side, case) in calls.items():
            seconds[name].append(side.time(case))
    times = {}
    for name, pairs in seconds.items():
        values, processor = zip(*pairs, strict=True)
        times[name] = {
            "median_s": round(statistics.median(values), 6),
            "min_s": round(min(values), 6),
            "max_s": round(max(values), 6),
            "cpu_s": round(statistics.median(processor), 6),
            "seconds": [round(value, 6) for value in values],
        }
        summary = {key: value for key, value in times[name].items() if key != "seconds"}
        note(f"{name}: {summary}")
    return times


# === Reports ===


def relative_difference(output, reference):
    """Return the largest difference of two outputs, as a share of the largest number."""
    return float(np.abs(output - reference).max() / np.abs(reference).max())


def check_close(what, difference, tolerance):
    """Stop where two sides do not compute the same: their times say nothing then."""
    if not difference <= tolerance:
        sys.exit(f"{what}: outputs differ by {difference:.2g}, more than {tolerance:.2g}.")
    return difference


def bar(what, value, *, at_least=None, at_most=None):
    """Return how a figure stands against the bar it is to clear."""
    met = value >= at_least if at_most is None else value <= at_most
    wanted = f">= {at_least}" if at_most is None else f"<= {at_most}"
    return {"what": what, "value": round(float(value), 3), "wanted": wanted, "met": bool(met)}


def note(text):
    """Say on stderr how far the benchmark is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def fastest(times, names):
    """Return `(name, seconds)` of the smallest median among `names`."""
    name = min(names, key=lambda name: times[name]["median_s"])
    return name, times[name]["median_s"]


# === The command ===


def run_locally(module, **options):
    """Run a benchmark in this process, whose backend must be the only one that is asked for."""
    options = {**module.OPTIONS, **module.TINY, **options}

    def start(side, backend, **more):
        return LocalSide(module.SIDES[side]({**options, **more, "backend": backend}))

    return make_report(module.compare(start, options), options)


def make_report(result, options):
    """Return a benchmark's result with what it was measured on and with."""
    return {"machine": machine(), "options": options, **result}


def keep(result, options):
    """Write what there is of a report to --output: a long run may be ended before its end."""
    is_command = flags.FLAGS.is_parsed() and "output" in flags.FLAGS  # else a test runs it
    if is_command and flags.FLAGS.output:
        _write(make_report({"complete": False, **result}, options))


def _write(report):
    """Write a report to --output, and return its path."""
    output = pathlib.Path(flags.FLAGS.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    return output


def main(module):
    """Run a benchmark, a module, from the command line."""
    flags.DEFINE_string("side", None, "For the benchmark itself: the side to serve.")
    flags.DEFINE_string("options", None, "For the benchmark itself: a JSON object.")
    flags.DEFINE_bool("tiny", False, "Whether to run at tiny sizes, whose times mean nothing.")
    flags.DEFINE_string("output", None, "File to write the JSON object to as well.")
    for name, default in module.OPTIONS.items():
        define = {list: flags.DEFINE_list, int: flags.DEFINE_integer, str: flags.DEFINE_string}
        define[type(default)](name, default, "See the top of the file.")
    app.run(lambda _: _run(module))


def _run(module):
    if flags.FLAGS.side:
        options = json.loads(flags.FLAGS.options)
        _serve(lambda: module.SIDES[flags.FLAGS.side](options))
        return
    options = {**module.OPTIONS, **(module.TINY if flags.FLAGS.tiny else {})}
    options.update({name: flags.FLAGS[name].value for name in options if flags.FLAGS[name].present})
    for name, default in module.OPTIONS.items():
        if isinstance(default, list) and default and isinstance(default[0], int):
            options[name] = [int(value) for value in options[name]]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated."))  # leaves no files behind
    sides = []
    with tempfile.TemporaryDirectory() as folder:

        def start(side, backend, **more):
            sides.append(ProcessSide(module.__file__, side, backend, {**options, **more}, folder))
            return sides[-1]

        try:
            report = make_report(module.compare(start, options), options)
        finally:
            for side in sides:
                side.stop()
    if flags.FLAGS.output:
        output = _write(report)
        if hasattr(module, "draw"):
            module.draw(report, output.with_suffix(".png"))
    print(json.dumps(report, indent=1))
