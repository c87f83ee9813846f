"""Trains the three models of a domain; each stage goes on where it was stopped."""

import json
import pathlib
import time

import keras
from reproduction import tokens
from reproduction.models import jit_compile
from reproduction.stages import write_json

from keras_textdiff import ar2diff
from keras_textdiff.backbones import TransformerBackbone
from keras_textdiff.models import (
    CausalLM,
    CausalLMPreprocessor,
    DiffusionLM,
    DiffusionLMPreprocessor,
)
from keras_textdiff.training import ExactResume
from keras_textdiff.utils import random
from preset_recipes.recipes import PASSES_PER_STEP, preset_name


class Workshop:
    """The data, the tokenizer and the models of one domain.

    Args:
        recipe: `Recipe`.
        plan: `Plan`.
        corpus: `Corpus`; documents that do not fit into a row are left out here.
        folder: str or path of the domain's folder of logs, checkpoints and models.
        write: callable that takes a line of the log.
    """

    def __init__(self, recipe, plan, corpus, folder, write=print):
        self.recipe = recipe
        self.plan = plan
        self.corpus = corpus
        self.folder = pathlib.Path(folder)
        self.write = write
        self.tokenizer = self._load_tokenizer()
        self.train, self.held_out = (
            self._fitting(part) for part in (corpus.train, corpus.held_out)
        )
        self.held_out = self.held_out[: recipe.held_out]

    def preset(self, stage):
        """Return the folder of a stage's model in float32; it is there once the stage is done."""
        return self.folder / stage / "preset"

    def shipped(self, stage):
        """Return the folder of a stage's preset as it ships."""
        return self.folder / "presets" / preset_name(stage, self.recipe.domain)

    def result(self, stage):
        """Return what is known of a finished stage's training, or None."""
        path = self.folder / stage / "training.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def run(self, stage):
        """Train "ar", "ar2diff" or "diffusion", or what is left of it."""
        if self.result(stage) is not None:
            return
        keras.utils.set_random_seed(
            int(random.generator("preset", self.recipe.seed, stage).integers(2**31))
        )
        model = self._make_model(stage)
        steps = self.plan.steps[stage]
        epoch_steps = min(self.recipe.segment_steps, steps)
        epochs = -(-steps // epoch_steps)
        rate = self.recipe.learning_rate
        if stage == "ar2diff":
            rate = self.recipe.conversion_learning_rate
        warmup = min(self.recipe.warmup_steps, steps // 10)
        schedule = keras.optimizers.schedules.CosineDecay(
            rate / 100 if warmup else rate,
            epochs * epoch_steps - warmup,
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
        optimizer = keras.optimizers.AdamW(
            schedule, weight_decay=self.recipe.weight_decay, beta_2=0.98, global_clipnorm=1.0
        )
        model.compile(optimizer, jit_compile=jit_compile())
        row_tokens = self.recipe.batch_size * self.recipe.sequence_length
        log = _Log(stage, epochs, epoch_steps, row_tokens, self.write)
        resume = ExactResume(
            self.folder / stage / "checkpoints", save_every_steps=epoch_steps, max_to_keep=2
        )
        history = model.fit(
            self.train,
            batch_size=self.recipe.batch_size,
            steps_per_epoch=epoch_steps,
            epochs=epochs,
            verbose=0,
            callbacks=[log, resume],
        )
        # SUNDAE adds up the losses of its two passes.
        losses = [loss / PASSES_PER_STEP[stage] for loss in history.history["loss"]]
        model.save_to_preset(self.preset(stage))
        result = {
            "steps": epochs * epoch_steps,
            "passes": epochs * epoch_steps * PASSES_PER_STEP[stage],
            "batch_size": self.recipe.batch_size,
            "learning_rate": rate,
            "losses": [round(loss, 4) for loss in losses],
            "seconds": round(log.seconds, 1),
            "parameters": model.backbone.count_params(),
            "rows": len(self.train),
        }
        write_json(self.folder / stage / "training.json", result)

    def _make_model(self, stage):
        if stage == "ar2diff":
            causal_lm = CausalLM.from_preset(self.preset("ar"), dtype="float32")
            model = ar2diff(causal_lm)
            model.preprocessor = self._preprocessor(stage)
            return model
        backbone = TransformerBackbone(
            vocabulary_size=self.tokenizer.vocabulary_size(),
            attention="causal" if stage == "ar" else "bidirectional",
            dtype="float32",
            **self.recipe.backbone_config,
        )
        cls = CausalLM if stage == "ar" else DiffusionLM
        return cls(backbone, self._preprocessor(stage))

    def _preprocessor(self, stage):
        cls, format = CausalLMPreprocessor, "whole_document"
        if stage != "ar":
            cls, format = DiffusionLMPreprocessor, self.recipe.diffusion_format
        return cls(
            self.tokenizer,
            sequence_length=self.recipe.sequence_length,
            add_start_token=False,
            format=format,
        )

    def _load_tokenizer(self):
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            tokenizer = tokens.train_tokenizer(self.corpus.train, self.recipe.vocabulary_size, 0)
            write_json(path, tokens.tokenizer_config(tokenizer))
        return tokens.make_tokenizer(json.loads(path.read_text(encoding="utf-8")))

    def _fitting(self, part):
        """Return the documents that fit into a row with their end token."""
        longest = 6 * self.recipe.sequence_length  # letters; no token stands for more on average
        part = [text for text in part if len(text) <= longest]
        preprocessor = CausalLMPreprocessor(self.tokenizer)
        lengths = map(len, preprocessor.tokenize(part))
        return [
            text
            for text, length in zip(part, lengths, strict=True)
            if length < self.recipe.sequence_length
        ]


class _Log(keras.callbacks.Callback):
    """Writes a line for each segment; `ExactResume` keeps the seconds."""

    def __init__(self, stage, epochs, steps, row_tokens, write):
        super().__init__()
        self._stage, self._epochs, self._steps = stage, epochs, steps
        self._passes, self._write = PASSES_PER_STEP[stage], write
        self._step_tokens = row_tokens * self._passes
        self.seconds = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self._start
        self.seconds += seconds
        left = (self._epochs - epoch - 1) * seconds / 60
        speed = self._steps * self._step_tokens / seconds
        self._write(
            f"{self._stage} step {(epoch + 1) * self._steps}/"
            f"{self._epochs * self._steps}  loss {logs['loss'] / self._passes:.3f}  accuracy "
            f"{logs['accuracy']:.3f}  {speed:.0f} tokens/s  {left:.1f} min left"
        )
