"""Runs one stage after the other; each goes on where it was stopped, and is never run twice."""

import itertools
import json
import pathlib
import platform
import statistics
import time

import keras
import numpy as np

from keras_textdiff.data import ResumableDataset, pipeline
from keras_textdiff.evaluation import denoiser_cross_entropy, evaluate, log_likelihood
from reproduction import corpora, models, paper, plan, tasks, timing, tokens

WARM_UP = 3  # segments in which the learning rate rises
NOISE_LEVELS = (0.3, 0.6, 0.9)  # shares of corrupted tokens in the denoiser's cross-entropy


class OutOfTime(Exception):
    """The time limit has come; everything is saved."""


class Clock:
    """Says when to stop.

    Args:
        minutes: float, or None for never.
    """

    def __init__(self, minutes=None):
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def left(self):
        """Return the seconds that are left."""
        return float("inf") if self.end is None else self.end - time.monotonic()


class Laboratory:
    """Everything that stages share: data, tokenizer, models, folders.

    Results are small JSON files in `results`, one for each stage that a table or figure shows;
    where one exists, nothing is run. Checkpoints, logs and texts are in `output`; where a
    checkpoint is missing, it is made again from its own parents.

    Args:
        scale: `Scale`.
        options: `DataOptions`.
        output: str or path of a folder.
        results: str or path of a folder.
        clock: `Clock`.
        progress: callable `(stage name, done, total, note)` for people to watch.
    """

    def __init__(self, scale, options, output, results, clock, progress):
        self.scale = scale
        self.options = options
        self.output = pathlib.Path(output, scale.name)
        self.results = pathlib.Path(results, scale.name)
        self.clock = clock
        self.progress = progress
        self._sources = self._models = None
        self._tasks, self._keys = {}, {}

    def result_path(self, stage):
        """Return where a stage's result is, once it is there."""
        return self.results / f"{self._key(stage)}.json"

    def read_result(self, stage):
        """Return a stage's result, or None."""
        path = self.result_path(stage)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def missing_stages(self, cells):
        """Return the stages that these cells still need, in order, each once."""
        stages = {}
        for cell in cells:
            if self.read_result(cell.stage) is None:
                stages.update(dict.fromkeys(self._missing(cell.stage)))
        return list(stages)

    def measured(self, cells):
        """Return the seconds that finished stages took, by `plan.cost_class`, as medians."""
        found = {}
        for cell in cells:
            result = self.read_result(cell.stage)
            if result is None:
                continue
            found.setdefault(plan.cost_class(cell.stage), []).append(result["seconds"])
            for stage, log in zip(
                plan.needed_stages(cell), result.get("training", ()), strict=False
            ):
                found.setdefault(plan.cost_class(stage), []).append(log["seconds"])
        return {key: statistics.median(seconds) for key, seconds in found.items()}

    def run(self, stage):
        """Run a stage, unless it has been run."""
        if self._is_done(stage):
            return
        if isinstance(stage, plan.Training):
            self._train(stage)
            return
        if self.clock.left() <= 0:
            raise OutOfTime
        run = self._evaluate if isinstance(stage, plan.Evaluation) else self._time
        start = time.perf_counter()
        found = run(stage)
        result = {
            "name": stage.name,
            "seconds": time.perf_counter() - start,
            **found,
            "backend": keras.config.backend(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "keras": keras.__version__,
        }
        write_json(self.result_path(stage), result)

    # === Stages ===

    def _train(self, stage):
        folder = self._folder(stage)
        model = self.models.trainer(stage.architecture, stage.mode, stage.size)
        log = self._enter(stage, model, folder)
        saved, total = time.monotonic(), stage.last_step - stage.first_step
        while log["step"] < stage.last_step:
            done = log["step"] - stage.first_step
            self.progress(
                stage.name, done, total, f"loss {(log['curve'] or [float('nan')])[-1]:.2f}"
            )
            if self.clock.left() <= 0:
                self._save(folder / "checkpoint.npz", model, log)
                raise OutOfTime
            if time.monotonic() - saved > self.scale.checkpoint_seconds:
                self._save(folder / "checkpoint.npz", model, log)
                saved = time.monotonic()
            self._train_segment(stage, model, log, folder)
        # The optimizer is kept where training may go on with it.
        only_weights = stage.mode == "diffusion" or stage.data != "pretraining"
        self._save(folder / "end.npz", model, log, only_weights)
        write_json(folder / "result.json", {"name": stage.name, **log})
        (folder / "checkpoint.npz").unlink(missing_ok=True)
        self.progress(stage.name, total, total, f"{log['seconds']:.0f} s")

    def _enter(self, stage, model, folder):
        """Set the model to where the stage stands, and return its log so far."""
        for path in (folder / "checkpoint.npz", self._end(stage.parent)):
            if path is not None and path.is_file():
                break
        else:
            path = None
        log = {"step": stage.first_step, "data_state": None, "curve": [], "seconds": 0.0}
        if path is None:
            weights = self.models.initial_weights(stage.architecture, stage.size, stage.seed)
            models.start_training(model, weights, stage.seed)
            return log
        state = models.load_arrays(path)
        found = json.loads(str(state.pop("log")))
        if path.parent == folder:
            models.write_state(model, state)
            return found
        if stage.goes_on:
            models.write_state(model, state)
            return {**log, "data_state": found["data_state"]}
        models.start_training(model, models.take_weights(state), stage.seed)
        return log

    def _train_segment(self, stage, model, log, folder):
        """Train to the next point of the log, where the run can be entered again."""
        steps = min(self.scale.segment_steps, stage.last_step - log["step"])
        dataset = ResumableDataset(self._batches(stage), log["data_state"])
        model.optimizer.learning_rate = self._learning_rate(stage, log["step"])
        start = time.perf_counter()
        history = model.fit(dataset, steps_per_epoch=steps, verbose=0)
        log["seconds"] += time.perf_counter() - start
        log["step"] += steps
        log["data_state"] = dataset.state_after(steps)
        # SUNDAE adds up the losses of its two passes.
        loss = history.history["loss"][0] / (1 if stage.mode == "ar" else 2)
        log["curve"].append(round(float(loss), 4))
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
            line = {"step": log["step"], "loss": float(loss), "seconds": log["seconds"]}
            file.write(json.dumps(line) + "\n")

    def _learning_rate(self, stage, step):
        segments = step // self.scale.segment_steps + 1
        rate = self.scale.learning_rate * min(1.0, segments / WARM_UP)
        if self.scale.decay and stage.data != "pretraining":
            rate *= 1 - step / stage.last_step
        return rate

    def _batches(self, stage):
        if stage.data == "pretraining":
            rows = corpora.pretraining_rows(self.sources, stage.seed)
        else:
            rows = corpora.task_rows(self.task(stage.data).rows, stage.seed)
        preprocessor = self.models.preprocessor(
            stage.architecture, stage.mode, stage.data, stage.objective
        )
        batch_size = self.scale.batch_size(stage.data)
        return pipeline(rows, preprocessor, batch_size=batch_size, seed=stage.seed)

    def _evaluate(self, stage):
        finetuned = stage.model
        model = self.models.writer(
            finetuned.architecture,
            finetuned.mode,
            finetuned.size,
            finetuned.data,
            dict(stage.sampler),
        )
        state = models.load_arrays(self._end(finetuned))
        model.backbone.set_weights(models.take_weights(state))
        task = self.task(finetuned.data)
        report = evaluate(
            model,
            task.make(task.examples),
            seed=finetuned.seed,
            progress=lambda what, done, total: self.progress(stage.name, done, total, what),
        )
        metrics = {**report.metrics, **self._likelihoods(model, finetuned, task)}
        write_json(self._folder(stage) / "outputs.json", report.outputs)
        self.progress(stage.name, 1, 1, f"{task.metric} {report.metrics[task.metric]:.2f}")
        logs = [
            json.loads((self._folder(part) / "result.json").read_text(encoding="utf-8"))
            for part in finetuned.ancestors()
        ]
        return {
            "task": task.title,
            "metric": task.metric,
            "metrics": metrics,
            "details": report.details,
            "training": [
                {
                    "name": log["name"],
                    "passes": part.passes,
                    "curve": log["curve"],
                    "seconds": log["seconds"],
                }
                for part, log in zip(finetuned.ancestors(), logs, strict=True)
            ],
        }

    def _likelihoods(self, model, finetuned, task):
        """Return how well a model knows the held-out answers, in nats per token.

        It tells models apart long before they write well. AR and diffusion are not comparable:
        a denoiser sees some of the answer.
        """
        rows = {
            key: [example[key] for example in task.examples] for key in ("prompts", "responses")
        }
        if finetuned.mode == "ar":
            return {"nats_per_token": log_likelihood(model, rows)["nats_per_token"]}
        found = denoiser_cross_entropy(
            model, rows, NOISE_LEVELS, positions="corrupted", seed=finetuned.seed
        )
        return {f"cross_entropy_{level}": nats for level, nats in found.items()}

    def _time(self, stage):
        self.progress(stage.name, 0, 1, "timing")
        result = timing.measure(self.models, stage)
        self.progress(stage.name, 1, 1, f"{result['seconds_per_text']:.3f} s")
        return result

    # === What stages share, made when first needed ===

    @property
    def sources(self):
        """The text of pretraining."""
        if self._sources is None:
            self._sources = corpora.pretraining_sources(self.scale, self.options)
        return self._sources

    @property
    def models(self):
        """The models, around a tokenizer that is trained once and kept."""
        if self._models is None:
            path = self.output / f"tokenizer-{self.options.describe()['data']}.json"
            if path.is_file():
                tokenizer = tokens.make_tokenizer(json.loads(path.read_text(encoding="utf-8")))
            else:
                self.progress("tokenizer", 0, 1, "")
                tokenizer = tokens.train_tokenizer(
                    self._tokenizer_texts(), self.scale.vocabulary_size, self.scale.sentinels
                )
                write_json(path, tokens.tokenizer_config(tokenizer))
                self.progress("tokenizer", 1, 1, f"{tokenizer.vocabulary_size()} tokens")
            self._models = models.Models(self.scale, tokenizer)
        return self._models

    def _tokenizer_texts(self):
        """Mix pretraining and the tasks' training rows: all come in few tokens then."""
        rows = iter(corpora.pretraining_rows(self.sources, 0))
        texts = [(row["text"] for row in rows)]
        for name in paper.TASKS:
            rows = iter(corpora.task_rows(tasks.load_task(name, self.scale, self.options).rows, 0))
            texts.append(row["prompts"] + row["responses"] for row in rows)
        return itertools.chain.from_iterable(zip(*texts, strict=True))

    def task(self, name):
        """Return a task with examples that fit into a row."""
        if name not in self._tasks:
            task = tasks.load_task(name, self.scale, self.options)
            self._tasks[name] = tasks.limit(task, name, self.scale, self.models.tokenizer)
        return self._tasks[name]

    # === Folders ===

    def _key(self, stage):
        if stage not in self._keys:
            digest = plan.fingerprint(stage, self.scale, self.options.describe())
            self._keys[stage] = f"{stage.name}-{digest}"
        return self._keys[stage]

    def _folder(self, stage):
        return self.output / self._key(stage)

    def _end(self, training):
        return None if training is None else self._folder(training) / "end.npz"

    def _is_done(self, stage):
        if isinstance(stage, plan.Training):
            names = ("end.npz", "result.json")
            return all((self._folder(stage) / name).is_file() for name in names)
        return self.read_result(stage) is not None

    def _missing(self, stage):
        """Return a stage and those before it whose checkpoints are not there."""
        if self._is_done(stage):
            return []
        parent = getattr(stage, "model", None) or getattr(stage, "parent", None)
        return [*(self._missing(parent) if parent else []), stage]

    def _save(self, path, model, log, only_weights=False):
        arrays = models.read_state(model)
        if only_weights:
            arrays = {name: array for name, array in arrays.items() if name.startswith("weights_")}
        models.save_arrays(path, {**arrays, "log": np.array(json.dumps(log))})


def write_json(path, value):
    """Write a JSON file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value) + "\n", encoding="utf-8")
    partial.replace(path)
