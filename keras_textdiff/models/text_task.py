"""What AR and diffusion models share: training on anything, objectives, presets."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from keras_textdiff import objectives, presets
from keras_textdiff.backbones.attention_masks import segment_starts
from keras_textdiff.backbones.text_backbone import TextBackbone
from keras_textdiff.backbones.transformer_backbone import TransformerBackbone
from keras_textdiff.data.batches import BatchChecker, fill_rows, longest_document
from keras_textdiff.data.make_batches import in_memory, make_batches, read_ahead
from keras_textdiff.models.changed_weights import ChangedWeights
from keras_textdiff.models.fit_callback import around_fit
from keras_textdiff.models.kept_state import KeptState
from keras_textdiff.models.on_batch import OnBatch
from keras_textdiff.models.prediction import Prediction, no_surprise_at_the_end
from keras_textdiff.models.task_checks import (
    check_attention,
    check_fit_arguments,
    check_optimizer,
    check_preprocessor,
)
from keras_textdiff.models.text_preprocessor import TextPreprocessor
from keras_textdiff.objectives.cross_entropy import Denoiser
from keras_textdiff.utils import processes, random, registration
from keras_textdiff.utils.checks import check_texts
from keras_textdiff.utils.data_adapter import adapt, original
from keras_textdiff.utils.fused_adam import fuse_adam
from keras_textdiff.utils.replicas import averaged_gradients, mean_over_replicas, num_replicas

EVALUATION_SEED = 20240131  # evaluation draws the same noise every time


class TextTask(OnBatch, Prediction, KeptState, ChangedWeights):
    """A backbone, a preprocessor and an objective under the Keras training loop.

    Stands before a `keras_hub.models.Task` class among a class's bases (it is no `Task` itself:
    Keras cannot build functional models over a diamond of bases). Subclasses define `compile`
    and set `default_objective`.

    Args:
        backbone: `TransformerBackbone` or `EncoderDecoderBackbone`.
        preprocessor: `TextPreprocessor` or None for tokenized inputs.
        **kwargs: see `keras_hub.models.Task`.
    """

    backbone_cls = TransformerBackbone
    default_objective = None
    logit_shift = False  # True where the prediction for position i is read at position i - 1

    def __init__(self, backbone, preprocessor=None, **kwargs):
        if preprocessor is not None:
            check_preprocessor(backbone, preprocessor)
        self.backbone = backbone
        self.preprocessor = preprocessor
        inputs = backbone.input
        super().__init__(inputs=inputs, outputs=backbone.logits(backbone(inputs)), **kwargs)
        self.seed_generator = random.SeedGenerator(random.fresh_seed())

    # === The objective ===

    def compile(self, optimizer="auto", *, objective=None, **kwargs):
        """Set what `fit` minimizes and with what; see the subclasses."""
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.pop(name, None) not in (None, "auto"):
                raise ValueError(
                    f"`compile` takes an `objective` that brings its own loss and metrics. Got "
                    f"`{name}`. Pass e.g. objective={self.default_objective!r}."
                )
        if isinstance(optimizer, str) and optimizer == "auto":
            optimizer = keras.optimizers.AdamW(1e-4)
        objective = objectives.get(self.default_objective if objective is None else objective)
        check_attention(objective, self.backbone.attention, self.default_objective)
        self._objective = _Holder(objective)
        if keras.config.backend() == "tensorflow" and num_replicas(self) > 1:
            kwargs.setdefault("jit_compile", False)  # XLA does not add up replicas' gradients
        keras.Model.compile(self, optimizer=optimizer, loss=None, **kwargs)

    @property
    def objective(self):
        """The compiled `Objective`."""
        return self._objective.objective

    @property
    def metrics(self):
        """The loss and the objective's metrics."""
        if not self.compiled:
            return []
        return [self._loss_tracker, *self._objective.metrics.values()]

    def hidden_states(self, inputs, training=False, context=None, cache=None, first=0):
        """Run the backbone.

        Args:
            inputs: dict of "token_ids" `(B, L)`, "padding_mask" and what else `backbone.input`
                names; of packed rows also "segment_ids". More is ignored.
            training: bool.
            context: what `backbone.encode` made of the inputs, so that several canvases share it;
                None to encode here.
            cache: keys and values of the positions in front of `first`, as
                `backbone.call_with_cache` filled it, or None. These are not computed again.
            first: int, first position to compute; 0 without a cache.

        Returns:
            Float tensor `(B, L - first, D)` whose reverse embedding gives the logits; with
            `logit_shift`, the first one's are right only at the beginning of a row.
        """
        if "segment_ids" not in inputs:  # in packed rows, positions start anew with each document
            self._check_length(inputs["token_ids"].shape[1])
        if context is None:
            context = self.backbone.encode(inputs, training=training)
        if cache is None:
            hidden_states = self.backbone.decode(inputs, context, training=training)
        else:
            columns = {**inputs, "token_ids": inputs["token_ids"][:, first:]}
            hidden_states, _ = self.backbone.call_with_cache(columns, cache, first)
        if not self.logit_shift:
            return hidden_states
        # The first position, of a document as well, reads itself.
        shifted = ops.concatenate([hidden_states[:, :1], hidden_states[:, :-1]], axis=1)
        if "segment_ids" not in inputs:
            return shifted
        starts = segment_starts(ops.convert_to_tensor(inputs["segment_ids"]))
        return ops.where(starts[..., None], hidden_states, shifted)

    def _check_compiled(self, what):
        if not self.compiled:
            raise ValueError(f"The model is not compiled. Call `compile` before `{what}`.")

    def _check_length(self, length):
        """Raise a ValueError for rows longer than the backbone's learned positions."""
        limit = self.backbone.num_learned_positions
        if limit is not None and length is not None and length > limit:
            raise ValueError(
                f"The backbone has {limit} learned positions; rows of {length} tokens do not fit. "
                f"Use a `sequence_length` or a `max_length` of at most {limit}."
            )

    def call(self, inputs, training=None, mask=None):
        """Return logits `(B, L, V)`, or, where `inputs` has a "target_mask", the objective."""
        training = bool(training)
        if "target_mask" not in inputs:
            return self.backbone.logits(self.hidden_states(inputs, training=training))
        context = self.backbone.encode(inputs, training=training)  # once for all unrolls
        denoiser = Denoiser(
            hidden_states=lambda token_ids: self.hidden_states(
                {**inputs, "token_ids": token_ids}, training=training, context=context
            ),
            embedding=self.backbone.token_embedding,
            seed=self.seed_generator,
            training=training,
        )
        loss, metrics = self.objective(denoiser, inputs)
        return {"loss": loss, "metrics": metrics}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the loss that the objective computed in `call`."""
        loss = y_pred["loss"]
        for extra in self.losses:
            loss = loss + ops.cast(ops.sum(extra), loss.dtype)
        if num_replicas() == 1:
            return loss
        # The value is that of all replicas, the gradient this one's part.
        loss = loss + ops.stop_gradient(mean_over_replicas(loss) - loss)
        # Tensorflow's optimizers add up the replicas' gradients; torch's get their mean.
        return loss / num_replicas() if keras.config.backend() == "tensorflow" else loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Update and return the objective's metrics."""
        has_target = ops.any(ops.cast(x["target_mask"], "bool"), axis=1)
        num_rows = mean_over_replicas(ops.sum(ops.cast(has_target, "float32")))
        # Keras has counted all rows: take back those that only fill a batch up.
        excess = num_rows - ops.cast(ops.shape(has_target)[0], "float32")
        loss = mean_over_replicas(y_pred["loss"])
        loss = ops.where(ops.equal(excess, 0.0), 0.0, loss)  # an infinite one times 0 is NaN
        self._loss_tracker.update_state(loss, sample_weight=excess)
        names = list(y_pred["metrics"])
        if not names:
            return self.get_metrics_result()
        pairs = mean_over_replicas(ops.stack([ops.stack(y_pred["metrics"][n]) for n in names]))
        means = pairs[:, 0] / ops.maximum(pairs[:, 1], 1e-9)
        for index, name in enumerate(names):
            metric = self._objective.metrics[name]
            metric.update_state(means[index], sample_weight=pairs[index, 1])
        return self.get_metrics_result()

    def make_train_function(self, force=False):
        """Return what takes a step; Keras calls it at each `fit`."""
        fuse_adam(self.optimizer, self)
        return super().make_train_function(force)

    def _maybe_symbolic_build(self, **kwargs):
        """Build what is not built yet: the optimizer. Keras cannot add up the replicas' masks."""
        if num_replicas(self) == 1:
            super()._maybe_symbolic_build(**kwargs)
        elif not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    # === Data ===

    def make_checker(self):
        """Return the `BatchChecker` of this model's tokenized batches."""
        return BatchChecker(self.backbone.vocabulary_size, self.backbone.has_encoder)

    def _make_batches(
        self, x, *, batch_size=None, shuffle=False, num_steps=None, training=False, fill=True
    ):
        """Return tokenized batches, filled up for the devices, and the checker that saw them."""
        processes.check_together(self)
        share = in_memory(x)  # every process has all of them
        multiple = processes.num_row_parts(self) // (1 if share else processes.row_part()[1])
        checker = self.make_checker()
        if isinstance(x, dict) and "token_ids" in x:
            x = checker(x)  # all rows now, not when training gets to them
        elif isinstance(x, dict):
            for name in {"prompts", "responses"} & set(x):
                check_texts(x[name])
        elif isinstance(x, (list, tuple)):
            check_texts(x)

        def tokenize(examples, epoch):
            if isinstance(examples, tuple) and len(examples) == 1:
                examples = examples[0]
            if isinstance(examples, dict) and "token_ids" in examples:
                return examples
            if self.preprocessor is None:
                raise ValueError(
                    "A model without a preprocessor trains on dicts with 'token_ids'. Got "
                    f"{_describe(examples)}. Attach a preprocessor to train on text."
                )
            # Not through __call__, where Keras would print all texts into an error's message.
            epoch = epoch if training else 0  # every evaluation splits documents alike
            return self.preprocessor.call(_to_texts(examples), epoch=epoch)

        def prepare(examples, epoch):
            batch = checker(tokenize(examples, epoch))
            self._check_length(longest_document(batch))
            if not fill:
                return batch
            batch = fill_rows(batch, multiple)
            return processes.own_rows(batch) if share else batch

        seed = random.fresh_seed() if shuffle else 0
        batches = make_batches(
            x,
            prepare,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            num_steps=num_steps,
            endless=training and num_steps is not None,
        )
        return batches, checker

    def fit(
        self,
        x=None,
        y=None,
        *,
        batch_size=None,
        epochs=1,
        validation_data=None,
        shuffle=True,
        steps_per_epoch=None,
        **kwargs,
    ):
        """Train on text or on tokenized batches.

        Args:
            x: a list of strings; a dict of "prompts" and "responses"; a dict of arrays
                "token_ids" with "padding_mask", "prompt_mask", "target_mask" and "segment_ids"
                (of packed rows) as needed, and with an encoder "encoder_token_ids" and
                "encoder_padding_mask"; or a source of batches of these:
                `keras.utils.PyDataset`, grain (see `keras_textdiff.data`), `tf.data`, torch
                `DataLoader`, generator.
            y: must be None.
            batch_size: int or None (32), for examples in memory.
            epochs: int.
            validation_data: like `x`, or None; of a generator, the first `validation_steps`
                batches serve for every validation.
            shuffle: bool, for examples in memory.
            steps_per_epoch: int or None; data that end before start over.
            **kwargs: see `keras.Model.fit`.

        Returns:
            `keras.callbacks.History`.

        Raises:
            ValueError: before the first step, for anything that cannot be trained on.
        """
        check_fit_arguments(y, kwargs)
        self._check_compiled("fit")
        check_optimizer(self.optimizer, self.trainable_variables)
        if isinstance(x, Iterator) and steps_per_epoch is None and epochs > 1:
            raise ValueError(
                f"A generator is read once, and epochs is {epochs}. Pass `steps_per_epoch`, or a "
                "dataset that can be read again."
            )
        num_steps = None if steps_per_epoch is None else steps_per_epoch * epochs
        batches, checker = self._make_batches(
            x,
            batch_size=batch_size,
            shuffle=shuffle,
            num_steps=num_steps,
            training=True,
        )
        checkers = [checker]
        if validation_data is not None:
            size = kwargs.pop("validation_batch_size", None)
            if size is None and isinstance(validation_data, (list, tuple, dict, np.ndarray)):
                size = batch_size
            num_steps = kwargs.get("validation_steps")
            validation_data = read_ahead(validation_data, num_steps)
            validation_data, validation = self._make_batches(
                validation_data, batch_size=size, num_steps=num_steps
            )
            checkers.append(validation)
        arguments = {
            "x": batches,
            "epochs": epochs,
            "validation_data": validation_data,
            "steps_per_epoch": steps_per_epoch,
            "shuffle": False,
            **kwargs,
            "callbacks": [_BeginRun(batches, *checkers), *_as_list(kwargs.get("callbacks"))],
        }
        with (
            around_fit(self, arguments),
            averaged_gradients(self),
            no_surprise_at_the_end(steps_per_epoch),
            self._state_kept(batches),
        ):
            for name in ("x", "validation_data"):
                if arguments[name] is not None:
                    arguments[name] = adapt(arguments[name])
            history = keras.Model.fit(self, **arguments)
        for checker in checkers:
            checker.warn()
        return history

    def evaluate(self, x=None, y=None, *, batch_size=None, steps=None, **kwargs):
        """Return the loss and metrics on `x`, see `fit`; the same noise is drawn every time."""
        check_fit_arguments(y, kwargs)
        with self._same_noise():
            x = original(x)  # `fit` evaluates with what it was given
            batches, checker = self._make_batches(x, batch_size=batch_size, num_steps=steps)
            if not isinstance(kwargs.get("callbacks"), keras.callbacks.CallbackList):
                callbacks = _as_list(kwargs.pop("callbacks", None))
                kwargs["callbacks"] = [_BeginRun(testing=checker), *callbacks]
            with no_surprise_at_the_end(steps), self._state_kept(batches):
                results = keras.Model.evaluate(self, adapt(batches), steps=steps, **kwargs)
        checker.warn()
        return results

    @contextlib.contextmanager
    def _same_noise(self):
        """Draw evaluation's noise, and go on with training's afterwards."""
        state = ops.convert_to_numpy(self.seed_generator.state)
        fixed = np.array([EVALUATION_SEED, 0], dtype=state.dtype)
        self.seed_generator.state.assign(fixed)
        try:
            yield
        finally:
            self.seed_generator.state.assign(state)

    # === Configuration ===

    def get_compile_config(self):
        """Return the arguments of `compile` as a serializable dict."""
        return {
            "optimizer": keras.optimizers.serialize(self.optimizer),
            "objective": registration.serialize(self.objective),
        }

    def compile_from_config(self, config):
        """Compile with the result of `get_compile_config`."""
        config = dict(config)
        config["optimizer"] = keras.optimizers.deserialize(config["optimizer"])
        self.compile(**config)
        self.optimizer.build(self.trainable_variables)

    def _run_through_graph(self, inputs, **kwargs):
        if {"operation_fn", "call_fn"} <= set(kwargs):  # so Keras clones, into another class
            raise ValueError(
                f"`clone_model` cannot copy a {type(self).__name__}. Make a new one by "
                "`type(lm).from_config(lm.get_config())`; `set_weights` copies the weights."
            )
        return super()._run_through_graph(inputs, **kwargs)

    # === Presets ===

    @registration.classproperty
    def presets(cls):
        """Presets of this class that ship with the package, from name to metadata.

        A dict from name to "description", "params" (how many parameters) and "path".
        """
        return presets.shipped_presets(cls.__name__)

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        """Load a model from a preset that ships, or that `save_to_preset` wrote.

        Everything is checked before anything is built: classes, types and sizes of all
        arguments, checksums, and that the weights are finite.

        Args:
            preset: one of the names in `presets`, a local folder (str or path),
                "hf://user/name" or "kaggle://...".
            load_weights: bool, whether to load the weights; otherwise they are random.
            **kwargs: "dtype", "maximum_gigabytes" (memory that the weights may take), and
                arguments of the constructor in place of the saved ones.

        Returns:
            A model of this class, compiled with its defaults.

        Raises:
            ValueError: for whatever is wrong with the preset, or an unknown argument.
        """
        return presets.load_task(
            preset,
            cls,
            task_classes=tuple(dict.fromkeys((*TextTask.__subclasses__(), cls))),
            backbone_classes=tuple(TextBackbone.__subclasses__()),
            preprocessor_classes=tuple(TextPreprocessor.__subclasses__()),
            load_weights=load_weights,
            **kwargs,
        )

    def save_to_preset(self, preset_dir, max_shard_size=10):
        """Save weights, configuration and tokenizer as a preset that KerasHub can read too.

        Args:
            preset_dir: str or path of a new folder, or of a preset that is replaced.
            max_shard_size: float, largest size of a weights file in GB; None for one file.

        Raises:
            ValueError: before anything is written, for weights with NaN or inf, or a folder
                with other files.
        """
        presets.save_preset(self, preset_dir, max_shard_size=max_shard_size)


class _Holder:
    """Keeps an objective and its metrics out of Keras' attribute tracking.

    A functional model accepts no new state once it is built, and `compile` may run again.
    """

    def __init__(self, objective):
        self.objective = objective
        self.metrics = {name: keras.metrics.Mean(name=name) for name in objective.metric_names}


class _BeginRun(keras.callbacks.Callback):
    """Starts all counts where a run starts: Keras reads some batches before."""

    def __init__(self, batches=None, training=None, testing=None):
        super().__init__()
        self.batches = batches
        self.training = training
        self.testing = testing

    def on_train_begin(self, logs=None):
        if self.batches is not None:
            self.batches.begin()
            self.training.reset()

    def on_test_begin(self, logs=None):
        if self.testing is not None:
            self.testing.reset()


def _as_list(callbacks):
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def _describe(examples):
    return sorted(examples) if isinstance(examples, dict) else type(examples).__name__


def _to_texts(examples):
    """Return byte strings and string arrays, as data loaders yield them, as lists of text."""
    if isinstance(examples, dict):
        return {key: _to_texts(value) for key, value in examples.items()}
    if hasattr(examples, "numpy"):
        examples = examples.numpy()
    if isinstance(examples, np.ndarray):
        examples = examples.tolist()
    return list(examples) if isinstance(examples, tuple) else examples
