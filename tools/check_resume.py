"""Kill runs at random, damage checkpoints at random, and count what ExactResume makes of it.

    KERAS_BACKEND=torch python tools/check_resume.py --kills=200 --terms=100 --corruptions=60
    KERAS_BACKEND=jax python tools/check_resume.py --kills=0 --terms=0 --corruptions=0 --devices

A tiny model with dropout trains on shuffled data and saves every two steps. Processes that train
it are killed (SIGKILL) or asked to end (SIGTERM) at random moments and started again, until they
are done; then weights, optimizer, metrics and history must equal those of an undisturbed run, bit
for bit. With --devices, runs also go on with another number of devices (virtual CPU devices of
jax, all ordered pairs of 1, 2, 4 and 8), weights and optimizer split among them: what the first
step finds must be what was saved, bit for bit. Prints one line of JSON; the exit status says
whether all is well.
"""

import argparse
import hashlib
import json
import logging
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np

import keras_textdiff
from keras_textdiff.training import run_state
from keras_textdiff.training.checkpoint_folder import CheckpointFolder, checkpoint_name
from keras_textdiff.utils.orbax import import_orbax

EPOCHS, ROWS, BATCH, EVERY = 3, 16, 4, 2
LENGTH, VOCABULARY = 8, 17
NUM_DEVICES = (1, 2, 4, 8)
CONFIG = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 1,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "hidden_dim": 8,
    "intermediate_dim": 8,
    "rope": {"theta": 10000.0},
    "dropout": 0.3,
}


class Tell(keras.callbacks.Callback):
    """Tells the parent process what happened, a line at a time."""

    def __init__(self, write, num_steps=None, compare=False):
        super().__init__()
        self.write = write
        # Iterators, because ExactResume saves and restores plain attributes.
        self._steps = num_steps and iter(range(1, num_steps))
        self._compare = iter([compare])

    def on_train_begin(self, logs=None):
        self.write("training")

    def on_train_batch_begin(self, batch, logs=None):
        if next(self._compare, False):
            self.write(f"found {digest_of(run_state.copy_variables(self.model))}")

    def on_train_batch_end(self, batch, logs=None):
        self.write("step")
        if self._steps and next(self._steps, None) is None:
            raise SystemExit(0)


class Pipe(logging.Handler):
    """Passes on what ExactResume reports as saved."""

    def __init__(self, write):
        super().__init__()
        self.write = write

    def emit(self, record):
        if record.msg.startswith("Saved"):
            self.write(f"saved {pathlib.Path(record.args[0]).name}")


def digest_of(groups):
    """Return a digest of weights and optimizer; metrics start anew with an epoch."""
    digest = hashlib.sha256()
    for group in ("model", "optimizer"):
        for key, array in sorted(groups[group].items()):
            digest.update(f"{group} {key}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def distribute(num_devices):
    """Split weights and optimizer, and the rows of a batch, among virtual devices."""
    distribution = keras.distribution
    devices = distribution.list_devices()[:num_devices]
    mesh = distribution.DeviceMesh((num_devices,), ("batch",), devices)
    layouts = keras_textdiff.distribution.layout_map(CONFIG, mesh, fully_sharded=True)
    distribution.set_distribution(distribution.ModelParallel(layout_map=layouts))


def train(folder, write, num_devices=None, num_steps=None):
    """Run the script that is killed, and return a digest of everything it ends with."""
    logger = logging.getLogger("keras_textdiff")
    logger.setLevel(logging.INFO)
    logger.addHandler(Pipe(write))
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        jax.config.update("jax_disable_most_optimizations", True)
        jax.config.update("jax_compilation_cache_dir", f"{folder.parent}/compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    keras.utils.set_random_seed(7)
    if num_devices is not None:
        distribute(num_devices)
        newest = CheckpointFolder(folder, 3).newest_valid()[0]
        if newest is not None:
            write(f"expected {digest_of(CheckpointFolder(folder, 3).read(newest)[0])}")
    backbone = keras_textdiff.backbones.TransformerBackbone(**CONFIG)
    model = keras_textdiff.models.DiffusionLM(backbone)
    optimizer = keras.optimizers.Adam(0.01, use_ema=True)
    # A few steps of a tiny model: tensorflow's tracing would take longest of all.
    model.compile(optimizer, jit_compile=backend == "jax", run_eagerly=backend == "tensorflow")
    token_ids = np.random.default_rng(0).integers(0, VOCABULARY, (ROWS, LENGTH))
    resume = keras_textdiff.training.ExactResume(folder, save_every_steps=EVERY, max_to_keep=3)
    history = model.fit(
        {"token_ids": token_ids},
        batch_size=BATCH,
        epochs=EPOCHS,
        validation_data={"token_ids": token_ids[:BATCH]},
        verbose=0,
        callbacks=[Tell(write, num_steps, compare=num_devices is not None), resume],
    )
    write("trained")
    digest = hashlib.sha256(json.dumps(history.history, sort_keys=True).encode())
    for variable in [*model.variables, *optimizer.variables]:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return digest.hexdigest()


class Process:
    """A forked process that trains; what it tells arrives through a pipe."""

    def __init__(self, folder, **options):
        self.pipe, write_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._child(folder, write_end, options)
        os.close(write_end)
        os.set_blocking(self.pipe, False)
        self.text = b""
        self.status = None

    @staticmethod
    def _child(folder, write_end, options):
        def write(line):
            os.write(write_end, f"{line}\n".encode())

        code = 1
        try:
            # What it prints is of interest where it fails.
            log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            write(f"digest {train(folder, write, **options)}")
            code = 0
        except SystemExit as error:
            code = error.code
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def read(self):
        """Return all lines so far; notice the end."""
        while True:
            try:
                chunk = os.read(self.pipe, 65536)
            except BlockingIOError:
                break
            if not chunk:
                break
            self.text += chunk
        return self.text.decode().splitlines()

    def poll(self):
        """Return whether the process has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def wait(self, seconds=None, for_line=None):
        """Wait for the end, for some seconds, or for a line; return whether it has ended."""
        end = None if seconds is None else time.monotonic() + seconds
        while not self.poll():
            if for_line in self.read() or (end is not None and time.monotonic() > end):
                return False
            time.sleep(0.001)
        return True

    def close(self):
        """Return all lines, after the end."""
        lines = self.read()
        os.close(self.pipe)
        return lines


def told(lines, word):
    """Return what followed `word` in the lines."""
    return [line.split(" ", 1)[1] for line in lines if line.startswith(f"{word} ")]


class Check:
    """Starts, ends and compares runs.

    Args:
        root: path of a folder for all of them.
        seed: int of the random moments.
    """

    def __init__(self, root, seed):
        self.root = pathlib.Path(root)
        self.random = random.Random(seed)
        self.failures = []
        self.num_runs = 0
        start = time.monotonic()
        process = Process(self.new_folder())
        process.wait(for_line="training")
        middle = time.monotonic()
        process.wait()
        self.seconds = time.monotonic() - middle
        self.expected = told(process.close(), "digest")
        if not self.expected:
            sys.exit((self.root / "run_1.log").read_text())
        print(
            f"one run: {middle - start:.1f} s to begin, {self.seconds:.1f} s to train",
            file=sys.stderr,
        )

    def new_folder(self):
        """Return the path of a new run."""
        self.num_runs += 1
        return self.root / f"run_{self.num_runs}"

    def disturb(self, number, signal_number, judge):
        """Send a signal at `number` random moments, starting each run again until it is done."""
        sent, finished = 0, 0
        while sent < number:
            folder = self.new_folder()
            while True:
                fresh = not folder.exists()
                process = Process(folder)
                ended = process.wait(for_line="training")
                start = time.monotonic()
                # Most of the time trains and saves; some moments fall behind the end.
                if not ended and sent < number:
                    ended = process.wait(self.random.uniform(0, 0.7 * self.seconds))
                    if not ended:
                        os.kill(process.pid, signal_number)
                        sent += 1
                    elif fresh:  # the machine was busier when the first run was timed
                        self.seconds = min(self.seconds, time.monotonic() - start)
                process.wait()
                lines = process.close()
                if told(lines, "digest"):
                    finished += 1
                    if told(lines, "digest") != self.expected:
                        self.failures.append(f"{folder} ended with other bits")
                    break
                problem = judge(folder, process.status, lines)
                if problem:
                    self.failures.append(f"{folder}: {problem}")
                    if process.status not in (-signal.SIGKILL, 143):
                        print(pathlib.Path(f"{folder}.log").read_text()[-3000:], file=sys.stderr)
                        break
        return {"sent": sent, "runs finished": finished}

    def after_kill(self, folder, status, lines):
        """Return what is wrong after SIGKILL, or None: what was reported saved is there."""
        if status != -signal.SIGKILL:
            return f"exit code {status}"
        reported = told(lines, "saved")
        newest, problems = CheckpointFolder(folder, 3).newest_valid()
        if problems:
            return f"a checkpoint that is not whole: {problems}"
        if reported and (newest is None or newest < reported[-1]):
            return f"{reported[-1]} was reported saved, and the newest is {newest}"
        return None

    def after_term(self, folder, status, lines):
        """Return what is wrong after SIGTERM, or None: the last step is saved."""
        # Behind the end of `fit` nothing handles the signal, and nothing is left to save.
        if status != 143 and not (status == -signal.SIGTERM and "trained" in lines):
            return f"exit code {status}"
        newest, problems = CheckpointFolder(folder, 3).newest_valid()
        if problems or newest is None:
            return f"no valid newest checkpoint: {problems}"
        before = pathlib.Path(f"{folder}.steps")
        start = int(before.read_text()) if before.exists() else 0
        steps = start + lines.count("step")
        before.write_text(str(steps))
        if not newest.startswith(checkpoint_name(steps, 0)[: len("step_0000000000")]):
            return f"{steps} steps were done, and the newest checkpoint is {newest}"
        return None

    def corrupt(self, number):
        """Damage the newest or the two newest checkpoints of a run `number` times."""
        original = self.root / "run_1"
        names = CheckpointFolder(original, 3).names()
        for count in range(number):
            folder = self.root / "damaged"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(original, folder)
            damaged = names[-1 - count % 2 :]
            done = [damage(folder / name, self.random) for name in damaged]
            newest, problems = CheckpointFolder(folder, 3).newest_valid()
            if set(problems) != set(damaged) or newest != names[-1 - len(damaged)]:
                self.failures.append(f"damage {done} of {damaged}: {newest} taken, {problems}")
        return {"damaged": number}

    def change_devices(self):
        """Save a run on each number of devices, and go on with each other one."""
        pairs, exact = 0, 0
        for before in NUM_DEVICES:
            original = self.new_folder()
            process = Process(original, num_devices=before, num_steps=2 * EVERY + 1)
            process.wait()
            process.close()
            for after in NUM_DEVICES:
                if after == before:
                    continue
                folder = self.new_folder()
                shutil.copytree(original, folder)
                process = Process(folder, num_devices=after)
                process.wait()
                lines = process.close()
                expected, found = told(lines, "expected"), told(lines, "found")
                pairs += 1
                if expected and expected == found and told(lines, "digest"):
                    exact += 1
                else:
                    self.failures.append(f"{folder}: {before} to {after} devices, {lines[-3:]}")
                    print(pathlib.Path(f"{folder}.log").read_text()[-3000:], file=sys.stderr)
        return {"changes": pairs, "exact": exact}


def damage(checkpoint, rng):
    """Damage one checkpoint: cut a file, flip a bit, remove a file, or swap two; say what."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    full = [path for path in files if path.stat().st_size]
    kind = rng.choice(["cut", "flip", "remove", "swap"])
    path = rng.choice(full)
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "flip":
        position = rng.randrange(len(content))
        flipped = content[position] ^ (1 << rng.randrange(8))
        path.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
    elif kind == "remove":
        path = rng.choice(files)
        path.unlink()
    else:
        others = [file for file in files if file.read_bytes() != content]
        other = rng.choice(others)
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    return f"{kind} {path.relative_to(checkpoint)}"


def main(arguments=None):
    """Read the command line, check, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--terms", type=int, default=100)
    parser.add_argument("--corruptions", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--devices", action="store_true")
    options = parser.parse_args(arguments)
    if options.devices:  # read when a process first uses jax
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={max(NUM_DEVICES)}"
    import_orbax()  # once, for all processes that are forked from here
    with tempfile.TemporaryDirectory() as root:
        check = Check(root, options.seed)
        result = {
            "backend": keras.config.backend(),
            "SIGKILL": check.disturb(options.kills, signal.SIGKILL, check.after_kill),
            "SIGTERM": check.disturb(options.terms, signal.SIGTERM, check.after_term),
            "corruptions": check.corrupt(options.corruptions),
            "devices": check.change_devices() if options.devices else None,
            "failures": check.failures,
        }
    print(json.dumps(result))
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
