"""What a run does, step by step: a file for tools, numbers in the progress bar for people."""

import collections
import contextlib
import dataclasses
import threading
import time
from typing import Any

import keras

from keras_textdiff.backbones.flops import training_flops
from keras_textdiff.models.fit_callback import FitCallback
from keras_textdiff.training.pace import Pace
from keras_textdiff.training.run_log_file import RunLogFile
from keras_textdiff.training.tensorboard_writer import TensorBoardWriter
from keras_textdiff.utils import processes
from keras_textdiff.utils.checks import check_integer, check_number
from keras_textdiff.utils.devices import get_device


@dataclasses.dataclass
class _Step:
    """A step, or `steps_per_execution` of them, that began.

    Attributes:
        first: int, index of its first batch in the epoch.
        stop: int, index behind its last one.
        learning_rate: tensor, or None where the step is not logged.
        ended: time and logs, once it ended.
    """

    first: int
    stop: int
    learning_rate: Any
    ended: Any = None


@dataclasses.dataclass
class _Fit:
    """One call of `fit`: what ExactResume must not carry into another process.

    Attributes:
        batches: `IndexedBatches` or `BatchStream`, which know the shapes of batches.
        num_processes: int, those that have rows of their own.
        file: `RunLogFile`, or None in another process than the first.
        writer: `TensorBoardWriter` or None.
        opened: bool, whether the lines of steps that are to come were dropped.
        epoch: int.
        running: `_Step`s that began, the oldest first.
        pace: `Pace`.
        speeds: dict, what lines and progress bar say about the speed.
        row_flops: dict from the lengths of a row to its operations.
        clock: float, what makes seconds since 1970 of `time.perf_counter`, which never goes back.
    """

    batches: Any
    num_processes: int
    file: Any
    writer: Any = None
    opened: bool = False
    epoch: int = 0
    running: Any = dataclasses.field(default_factory=collections.deque)
    pace: Any = dataclasses.field(default_factory=Pace)
    speeds: Any = dataclasses.field(default_factory=dict)
    row_flops: Any = dataclasses.field(default_factory=dict)
    clock: float = dataclasses.field(default_factory=lambda: time.time() - time.perf_counter())


class RunLog(FitCallback):
    """Writes a line of JSON every few steps, and the speed of training into the progress bar.

    A line has "step" (from 1, over all epochs), "epoch" (from 0), "time" (seconds since 1970),
    the loss and the metrics, "learning_rate", and as far as they are known "tokens" (so far),
    "tokens_per_second", "mfu" and "remaining_hours". The last step of an epoch always has a line,
    with the results of validation ("val_loss"). What is not finite is null.

    - Loss and metrics are means over the steps since the line before, with equal weights. Keras
      gives running means over the epoch; their difference is exact where batches have equal
      weight, and nearly so where these vary little. "accuracy" is weighted by tokens: in batches
      of a few of them that vary much, its difference may even leave [0, 1].
    - Tokens are positions of a batch that go through the model: rows times columns, prompt,
      padding and rows that fill a batch up included, with an encoder those of the prefix as well.
      Each counts once per step, whatever the number of passes; with several processes, those of
      all. Batches that a `PyDataset` reads in other processes are not known.
    - MFU, model FLOPs utilization, is the share of the devices' peak that the model needs at this
      speed: 6 operations per weight and token and pass, and attention, as `backbones.flops`
      counts. SUNDAE makes a pass for the canvas and one for each unroll, AR one. What gradient
      checkpointing computes twice does not count; weights that are frozen count as trained.
    - Speeds are those since the line before, checkpoints included, without validation and without
      the first step, which is compiled. A step ends when one of Keras' threads hears of it, which
      may be some milliseconds late: choose `every_steps` so that lines are a second apart or more.
      The remaining time is what the steps left in `fit` take at the mean pace of this process.

    Nothing waits for a device that Keras does not wait for: numbers arrive in Keras' own threads
    on jax and torch, where other callbacks allow it.

    With `ExactResume`, a run that was killed goes on with the same file: lines of steps that are
    done again are dropped first, and a cut last line as well. A run that starts from the beginning
    replaces the file, and leaves the old one beside it (".old"). Only process 0 writes.

    Args:
        path: str or path of the file, such as "runs/1/log.jsonl".
        every_steps: int, steps from one line to the next.
        tensorboard: str or path of a folder for the same numbers as TensorBoard reads them, or
            None. Nothing but TensorBoard itself, to look at them, has to be installed.
        peak: what one device can do, for the MFU: operations per second, the name of a device
            (see `utils.devices`: "tpu_v5e", "tpu_v5p", "tpu_v6e", "h100", "h200", each in
            bfloat16), or None for no MFU.

    Raises:
        ValueError: before the first step, for a file that cannot be written or is no run log.

    Example:
    ```python
    log = keras_textdiff.training.RunLog("runs/1/log.jsonl", every_steps=50, peak="h100")
    lm.fit(texts, epochs=3, callbacks=[log])
    ```

    Reference: Chowdhery et al. 2022, arXiv 2204.02311, appendix B (MFU).
    """

    async_safe = True  # else Keras waits for each step's logs

    def __init__(self, path, *, every_steps=10, tensorboard=None, peak=None):
        super().__init__()
        self._path = path
        self._every_steps = check_integer("every_steps", every_steps, minimum=1)
        self._tensorboard = tensorboard
        if peak is None or isinstance(peak, str):
            self._peak = None if peak is None else get_device(peak).peak_flops
        else:
            self._peak = check_number("peak", peak, minimum=1)
        self._lock = threading.Lock()
        self._fit = None
        # What a resumed run must know: ExactResume keeps it. "batch" is how many batches of the
        # epoch are done, "line_batch" and "means" how many and which means the last line knew.
        self.state = {"step": 0, "tokens": 0, "epoch": 0, "batch": 0, "line_batch": 0, "means": {}}

    @contextlib.contextmanager
    def around_fit(self, model, arguments):
        """Open the file; see `FitCallback`."""
        _, num_processes = processes.row_part()
        file = RunLogFile(self._path) if processes.is_first_process() else None
        self._fit = _Fit(arguments["x"], num_processes, file)
        self._fit.batches.note_shapes()
        try:
            yield
        finally:
            with self._lock:
                for opened in (self._fit.file, self._fit.writer):
                    if opened is not None:
                        opened.close()
                self._fit = None

    def on_train_begin(self, logs=None):
        """Refuse another model's `fit`."""
        if self._fit is None:
            raise ValueError(
                "RunLog works in `fit` of DiffusionLM and CausalLM. Got "
                f"{type(self._model).__name__}'s."
            )

    # === Steps: begun in the main thread, ended in Keras' threads, perhaps out of order ===

    def on_epoch_begin(self, epoch, logs=None):
        """Begin to count batches, and start the clock."""
        self.state.update(epoch=epoch, batch=0, line_batch=0, means={})
        self._fit.epoch = epoch
        self._fit.pace.restart(time.perf_counter())

    def on_train_batch_begin(self, batch, logs=None):
        """Note that a step began."""
        stop = batch + self._model.steps_per_execution
        with self._lock:
            self._open()
            running = self._fit.running
            num_done = self.state["step"] + sum(step.stop - step.first for step in running)
            every, num_batches = self._every_steps, self.params.get("steps")
            logged = (num_done + stop - batch) // every > num_done // every
            logged = logged or (num_batches is not None and stop >= num_batches)
            rate = self._model.next_learning_rate() if logged else None
            running.append(_Step(batch, stop, rate))

    def on_train_batch_end(self, batch, logs=None):
        """Count the step; write a line if it is time."""
        now = time.perf_counter()
        with self._lock:
            if self._fit is None:  # the run was ended by an error
                return
            running = self._fit.running
            next(step for step in running if step.stop == batch + 1).ended = (now, dict(logs))
            while running and running[0].ended is not None:
                # No step ends after one that began behind it.
                now = min(step.ended[0] for step in running if step.ended is not None)
                self._count(running.popleft(), now)
            logs.update(self._fit.speeds)  # the progress bar comes behind this callback

    def on_epoch_end(self, epoch, logs=None):
        """Write the results of validation, and the last step's line if it has none."""
        validation = {name: value for name, value in logs.items() if name.startswith("val_")}
        with self._lock:
            self._open()
            self._fit.running.clear()  # a step that found no data began and never ends
            file = self._fit.file
            if file is None:
                return
            if file.last_step < self.state["step"]:  # how long the epoch is was not known
                means = {name: value for name, value in logs.items() if name not in validation}
                now = self._fit.clock + time.perf_counter()
                self._write(now, means, self._model.next_learning_rate())
            if validation:
                file.update_last(validation)
                self._write_scalars(validation)

    def _open(self):
        """Drop the lines of steps that are to come: by now ExactResume has restored `state`."""
        if self._fit.opened:
            return
        self._fit.opened = True
        if self._fit.file is None:
            return
        step = self.state["step"]
        num_dropped = self._fit.file.go_to(step)
        if num_dropped:
            how = f"goes on behind step {step}" if step else f"starts anew ({self._path}.old stays)"
            print(f"{self._path}: {num_dropped} lines dropped, the run {how}.", flush=True)
        if self._tensorboard is not None:
            self._fit.writer = TensorBoardWriter(self._tensorboard, step)

    def _count(self, step, now):
        """Count a step that ended at the time `now`, and log it if it is time."""
        state, num_steps = self.state, step.stop - step.first
        tokens, flops = self._work(step)
        state["step"] += num_steps
        state["batch"] = step.stop
        state["tokens"] = None if None in (tokens, state["tokens"]) else state["tokens"] + tokens
        self._fit.pace.step(now, num_steps, tokens, flops)
        if step.learning_rate is not None:
            self._fit.speeds = self._speeds()
            self._write(self._fit.clock + now, step.ended[1], step.learning_rate)

    def _work(self, step):
        """Return the tokens and operations of a step; None and None where they are not known."""
        tokens = flops = 0
        for index in range(step.first, step.stop):
            shape = self._fit.batches.next_shape(index)
            if shape is None:
                return None, None
            rows, length, prefix_length = shape
            tokens += rows * (length + prefix_length) * self._fit.num_processes
            flops += rows * self._row_flops(length, prefix_length) * self._fit.num_processes
        return tokens, flops

    def _row_flops(self, length, prefix_length):
        known, backbone = self._fit.row_flops, self._model.backbone
        if (length, prefix_length) not in known:
            known[length, prefix_length] = training_flops(
                backbone.complete_config(backbone.get_config()),
                length,
                num_passes=self._model.objective.num_passes,
                prefix_length=prefix_length,
            )
        return known[length, prefix_length]

    def _speeds(self):
        rates, speeds = self._fit.pace.lap(), {}
        if rates:
            speeds["tokens_per_second"] = rates["tokens"]
            if self._peak is not None:
                speeds["mfu"] = rates["flops"] / (self._peak * processes.num_devices())
        num_batches = self.params.get("steps")
        if num_batches is not None:
            num_left = num_batches * (self.params["epochs"] - self._fit.epoch) - self.state["batch"]
            seconds = self._fit.pace.seconds_for(num_left)
            if seconds is not None:
                speeds["remaining_hours"] = seconds / 3600
        return speeds

    def _write(self, seconds, running_means, learning_rate):
        """Write the line of the step in `state`."""
        state = self.state
        batch, before = state["batch"], state["line_batch"]
        means = running_means
        if batch > before:
            means = {
                name: (batch * value - before * state["means"].get(name, 0.0)) / (batch - before)
                for name, value in running_means.items()
            }
        state.update(line_batch=batch, means=dict(running_means))
        line = {"step": state["step"], "epoch": self._fit.epoch, "time": seconds, **means}
        line["learning_rate"] = float(keras.ops.convert_to_numpy(learning_rate))
        if state["tokens"] is not None:
            line["tokens"] = state["tokens"]
        line.update(self._fit.speeds)
        if self._fit.file is not None:
            self._fit.file.append(line)
            self._write_scalars(line)

    def _write_scalars(self, entries):
        if self._fit.writer is not None:
            scalars = {k: v for k, v in entries.items() if k not in ("step", "epoch", "time")}
            self._fit.writer.write(self.state["step"], scalars)
