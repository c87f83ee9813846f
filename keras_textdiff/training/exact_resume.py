"""A run that was killed goes on as if it never had been."""

import contextlib
import logging
import signal
import threading
import warnings

from keras_textdiff.data.batches import IndexedBatches
from keras_textdiff.models.fit_callback import FitCallback
from keras_textdiff.training import run_state
from keras_textdiff.training.background_writer import BackgroundWriter
from keras_textdiff.training.checkpoint_folder import CheckpointFolder, checkpoint_name
from keras_textdiff.training.resuming_callbacks import ResumingCallbacks
from keras_textdiff.utils import processes, random
from keras_textdiff.utils.checks import check_integer

logger = logging.getLogger("keras_textdiff")
SIGTERM_STEPS = 10  # steps after which several processes ask each other for a SIGTERM
EXIT_CODE = 128 + signal.SIGTERM  # 143: what shells and schedulers report for a SIGTERM


class ExactResume(FitCallback):
    """Saves a run of `fit` and, when the same script runs again, goes on where it stopped.

    A checkpoint holds the weights, the optimizer with its averages, the metrics' running sums,
    every random stream, the position in the data, the step, the history, and the numbers,
    strings and lists that other callbacks keep as attributes. Training goes on while it is
    written; a checkpoint counts once all of it is on disk with a checksum of every file. On
    CPU, a run that was killed at any moment ends with the same bits as one that never was.

    SIGTERM saves after the running step (in validation: after it) and ends the process with exit
    code 143. A checkpoint with NaN or inf is not kept. Where writing fails, say because the disk
    is full, training goes on with a warning, and the checkpoints before stay.

    A run may go on with another number of devices; then equal up to rounding.

    Several processes all pass the same folder, which each must be able to read. The first one
    writes, and needs memory for the whole model; they go on as many as they were. A SIGTERM that
    one of them gets stops all, after at most 10 steps.

    Data in memory, a `PyDataset` and grain go on at once. Other iterables are read again from
    their start, without tokenizing: exact if they yield the same batches each time the script
    runs.

    Args:
        directory: str or path, a folder for this run alone.
        save_every_steps: int, steps from one checkpoint to the next; the end of training is
            saved too.
        max_to_keep: int, newest checkpoints that stay.

    Raises:
        ValueError: before the first step, where the newest valid checkpoint belongs to another
            model, data set or configuration.

    Example:
    ```python
    resume = keras_textdiff.training.ExactResume("runs/1/checkpoints", save_every_steps=500)
    lm.fit(texts, epochs=3, callbacks=[resume])
    ```
    """

    def __init__(self, directory, *, save_every_steps=1000, max_to_keep=3):
        super().__init__()
        self.save_every_steps = check_integer("save_every_steps", save_every_steps, minimum=1)
        check_integer("max_to_keep", max_to_keep, minimum=1)
        self._folder = CheckpointFolder(directory, max_to_keep)
        self.skipped = {}
        self._run = None
        self._writer = None

    @contextlib.contextmanager
    def around_fit(self, model, arguments):
        """Find where to go on; see `FitCallback`."""
        _check_arguments(model, arguments)
        model.optimizer.build(model.trainable_variables)
        self._description = run_state.describe_run(model, arguments)
        self._batches = arguments["x"]
        self._num_epochs = arguments["epochs"]
        self._step = self._batch = self._num_read = 0
        self._epoch = arguments.get("initial_epoch", 0)
        self._saved = None
        self._terminated = False
        self._arrays, self._run = self._newest_valid()
        if self._run is None:
            self._start_random = random.get_states()
        else:
            self._start_random = self._run["start_random"]
            random.set_states(self._start_random)
            self._step, self._epoch, self._batch = (
                self._run[key] for key in ("step", "epoch", "batch")
            )
            self._num_read = self._batch
            self._saved = checkpoint_name(self._step, self._epoch)
            arguments["initial_epoch"] = self._num_epochs if self._run["ended"] else self._epoch
        arguments["callbacks"] = ResumingCallbacks(
            arguments["callbacks"],
            self,
            self._batch,
            add_history=True,
            add_progbar=arguments.get("verbose", "auto") != 0,
            model=model,
            verbose=arguments.get("verbose", "auto"),
            epochs=self._num_epochs,
            steps=_num_steps(arguments),
        )
        try:
            with self._handle_sigterm(), BackgroundWriter(self._folder, self.skipped) as writer:
                self._writer = writer
                yield
                self._wait_for_writer()
        finally:
            self._writer = self._arrays = self._run = None
        if self._terminated:  # when all was trained and saved
            raise SystemExit(EXIT_CODE)

    @property
    def is_running(self):
        """Whether a `fit` that this callback is part of is under way."""
        return self._writer is not None

    def roll_back(self):
        """Give weights and optimizer the newest valid checkpoint's values; data go on.

        Raises:
            RuntimeError: where there is no valid checkpoint.
        """
        self._wait_for_writer()
        name, _ = self._find()
        if name is None:
            raise RuntimeError(
                f"There is no valid checkpoint in {self._folder.path} to go back to. Save earlier."
            )
        arrays, _ = self._folder.read(name)
        run_state.assign_variables(self.model, arrays)
        _say(f"Back to {self._folder.path / name}, with the data that come now.")

    def _find(self):
        """Return `(name or None, {name: problem})`, as the first process finds it."""
        found = None
        if processes.is_first_process():
            self._folder.remove_unfinished()
            found = self._folder.newest_valid()
        return processes.gather_json(found)[0]

    def _newest_valid(self):
        name, problems = self._find()
        self.skipped.clear()
        self.skipped.update(problems)
        for skipped, problem in problems.items():
            _say(f"Skipping checkpoint {self._folder.path / skipped}: {problem}.")
        if name is None:
            if problems:
                _say("No checkpoint is valid: training starts from the beginning.")
            return None, None
        arrays, run = self._folder.read(name)
        self._check_same_run(name, run)
        _say(
            f"Resuming from {self._folder.path / name}: epoch {run['epoch']}, batch "
            f"{run['batch']}, {run['step']} steps in all."
        )
        if run["num_devices"] != processes.num_devices():
            _say(
                f"It was saved on {run['num_devices']} devices and goes on with "
                f"{processes.num_devices()}: sums are rounded in another order from here on."
            )
        index, count = processes.process_index_and_count()
        if len(run["of_processes"]) != count:
            raise ValueError(
                f"{self._folder.path / name} was saved by {len(run['of_processes'])} processes, "
                f"each with its own place in the data, and there are {count}. Start as many."
            )
        run |= run["of_processes"][index]
        return arrays, run

    def _check_same_run(self, name, run):
        lines = run_state.differences(run["description"], self._description)
        if lines:
            more = f"\n  and {len(lines) - 8} more" if len(lines) > 8 else ""
            raise ValueError(
                f"{self._folder.path / name} is a checkpoint of another run:\n  "
                + "\n  ".join(lines[:8])
                + f"{more}\nPass what that run was started with, or another directory."
            )

    # === What the list of callbacks tells ===

    def on_train_begin(self, logs=None):
        """Refuse a `fit` that cannot resume."""
        if self._writer is None:
            raise ValueError(
                "ExactResume works in `fit` of DiffusionLM and CausalLM. Got "
                f"{type(self.model).__name__}'s."
            )

    def train_began(self, callbacks, wait_for_callbacks):
        """Restore the run.

        Args:
            callbacks: list of callbacks.
            wait_for_callbacks: callable that returns once all of them, also those that Keras runs
                in threads (`async_safe`), have heard of all steps so far.
        """
        self._wait_for_callbacks = wait_for_callbacks
        self._callbacks = [callback for callback in callbacks if callback is not self]
        self._fresh_attributes = [
            run_state.plain_attributes(callback) for callback in self._callbacks
        ]
        if self._run is None:
            self._batches.follow()
            return
        self._batches.follow(self._run["position"], num_stand_ins=self._batch)
        self._restore()

    def epoch_began(self, epoch, go_on):
        """Restore the run again where an epoch goes on that callbacks have just begun."""
        self._epoch = epoch
        if go_on:
            self._restore()
        self._arrays = None

    def steps_were_passed(self):
        """Restore the random streams: Keras' data loaders have drawn from them."""
        random.set_states(self._run["random"])

    def step_ended(self, num_batches):
        """Save if it is time; `num_batches` of the epoch are done."""
        self._step += num_batches - self._batch
        self._num_read += num_batches - self._batch
        self._batch = num_batches
        self._report(self._writer.outcome())
        if self._is_terminated():
            self._save_and_exit(epoch_ended=False)
        if self._step % self.save_every_steps == 0:
            self._save(epoch_ended=False)

    def epoch_ended(self, epoch):
        """Save the end of training, or on SIGTERM."""
        self._epoch, self._batch = epoch + 1, 0
        if self._is_terminated(ask=True):
            self._save_and_exit(epoch_ended=True)
        if self._epoch == self._num_epochs or self.model.stop_training:
            self._save(epoch_ended=True)

    def _is_terminated(self, ask=False):
        """Return whether a process got a SIGTERM; several ask each other now and then."""
        if processes.process_index_and_count()[1] == 1:
            return self._terminated
        if ask or self._step % SIGTERM_STEPS == 0:
            self._terminated = any(processes.gather_json(self._terminated))
            return self._terminated
        return False

    # === Saving ===

    def _wait_for_writer(self):
        self._report(self._writer.wait())
        processes.wait_for_all("checkpoint")

    def _restore(self):
        run_state.assign_variables(self.model, self._arrays)
        run_state.restore_callbacks(
            self._callbacks, self._run["callbacks"], self._arrays.get("callbacks")
        )
        random.set_states(self._run["random"])

    def _save(self, epoch_ended):
        name = checkpoint_name(self._step, self._epoch)
        if name == self._saved:
            return
        self._report(self._writer.wait())
        self._wait_for_callbacks()
        model = self.model  # reading this brings jax's state back to the model
        arrays = run_state.copy_variables(model)
        callbacks, callback_arrays = run_state.callback_states(
            self._callbacks, self._fresh_attributes
        )
        if callback_arrays:
            arrays["callbacks"] = callback_arrays
        run = {
            "step": self._step,
            "epoch": self._epoch,
            "batch": self._batch,
            "ended": epoch_ended and bool(model.stop_training),
            "description": self._description,
            "num_devices": processes.num_devices(),
            "names": run_state.variable_names(model),
        }
        own = {
            "position": self._batches.position(self._num_read, epoch_ended),
            "callbacks": callbacks,
            "random": random.get_states(),
            "start_random": self._start_random,
        }
        run["of_processes"] = processes.gather_json(own)
        if processes.is_first_process():
            self._writer.start(name, arrays, run)
        self._saved = name

    def _save_and_exit(self, epoch_ended):
        self._save(epoch_ended)
        self._wait_for_writer()
        _say(
            f"SIGTERM: the newest checkpoint is {self._folder.path / self._folder.names()[-1]}."
            if self._folder.names()
            else "SIGTERM: there is no checkpoint."
        )
        raise SystemExit(EXIT_CODE)

    def _report(self, outcome):
        if outcome is None:
            return
        name, error = outcome
        if error is not None:
            self._saved = None
        if error is None:
            logger.info("Saved %s", self._folder.path / name)
        elif isinstance(error, FloatingPointError):
            warnings.warn(
                f"{name} is not kept: {error} holds NaN or inf. The checkpoints before stay.",
                stacklevel=2,
            )
        else:
            warnings.warn(
                f"{name} could not be saved ({type(error).__name__}: {error}). The checkpoints "
                "before stay, and training goes on.",
                stacklevel=2,
            )

    @contextlib.contextmanager
    def _handle_sigterm(self):
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return

        def handler(number, frame):
            self._terminated = True

        previous = signal.signal(signal.SIGTERM, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


def _check_arguments(model, arguments):
    callbacks = arguments["callbacks"]
    if sum(isinstance(callback, ExactResume) for callback in callbacks) > 1:
        raise ValueError("A run has one ExactResume callback. Got several.")
    if model.steps_per_execution != 1:
        raise ValueError(
            "ExactResume counts single steps. Compile the model with steps_per_execution=1. "
            f"Got {model.steps_per_execution}."
        )


def _say(text):
    if processes.is_first_process():
        print(text, flush=True)


def _num_steps(arguments):
    if arguments["steps_per_epoch"] is None and isinstance(arguments["x"], IndexedBatches):
        return len(arguments["x"])
    return arguments["steps_per_epoch"]
