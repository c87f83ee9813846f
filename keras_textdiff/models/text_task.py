"""What AR and diffusion models share: training on anything, objectives, presets."""

import contextlib
import warnings

import keras
import numpy as np
from keras import ops

from keras_textdiff import objectives, presets
from keras_textdiff.backbones.transformer_backbone import TransformerBackbone
from keras_textdiff.data.batches import BATCH_KEYS, BatchChecker, make_batches
from keras_textdiff.models.fit_callback import around_fit
from keras_textdiff.models.text_preprocessor import TextPreprocessor
from keras_textdiff.objectives.objective import Denoiser
from keras_textdiff.utils import random, registration

EVALUATION_SEED = 20240131  # evaluation draws the same noise every time


class TextTask:
    """A backbone, a preprocessor and an objective under the Keras training loop.

    Stands before a `keras_hub.models.Task` class among a class's bases (it is no `Task` itself:
    Keras cannot build functional models over a diamond of bases). Subclasses define `compile`
    and set `default_objective`.

    Args:
        backbone: `TransformerBackbone`.
        preprocessor: `TextPreprocessor` or None for tokenized inputs.
        **kwargs: see `keras_hub.models.Task`.
    """

    backbone_cls = TransformerBackbone
    default_objective = None

    def __init__(self, backbone, preprocessor=None, **kwargs):
        if preprocessor is not None:
            _check_vocabularies(backbone, preprocessor.tokenizer)
        self.backbone = backbone
        self.preprocessor = preprocessor
        inputs = backbone.input
        super().__init__(inputs=inputs, outputs=backbone.logits(backbone(inputs)), **kwargs)
        self.seed_generator = keras.random.SeedGenerator(random.fresh_seed())

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
        objective = self.default_objective if objective is None else objective
        self._objective = _Holder(objectives.get(objective))
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

    def hidden_states(self, inputs, training=False):
        """Run the backbone.

        Args:
            inputs: dict of "token_ids" `(B, L)`, "padding_mask" and, for attention "prefix",
                "prompt_mask"; more is ignored.
            training: bool.

        Returns:
            Float tensor `(B, L, D)` whose reverse embedding gives the logits.
        """
        names = self.backbone.input
        missing = sorted(set(names) - set(inputs))
        if missing:
            raise ValueError(
                f"Attention {self.backbone.attention!r} needs the inputs {sorted(names)}. "
                f"Missing: {missing}."
            )
        tensors = {name: ops.convert_to_tensor(inputs[name]) for name in names}
        return self.backbone(tensors, training=training)

    def call(self, inputs, training=None, mask=None):
        """Return logits `(B, L, V)`, or, where `inputs` has a "target_mask", the objective."""
        if "target_mask" not in inputs:
            return self.backbone.logits(self.hidden_states(inputs, training=bool(training)))
        denoiser = Denoiser(
            hidden_states=lambda token_ids: self.hidden_states(
                {**inputs, "token_ids": token_ids}, training=bool(training)
            ),
            embedding=self.backbone.token_embedding,
            seed=self.seed_generator,
            training=bool(training),
        )
        loss, metrics = self.objective(denoiser, inputs)
        return {"loss": loss, "metrics": metrics}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the loss that the objective computed in `call`."""
        loss = y_pred["loss"]
        for extra in self.losses:
            loss = loss + ops.cast(ops.sum(extra), loss.dtype)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Update and return the objective's metrics."""
        for name, (total, count) in y_pred["metrics"].items():
            mean = total / ops.maximum(count, 1.0)
            self._objective.metrics[name].update_state(mean, sample_weight=count)
        return self.get_metrics_result()

    # === Data ===

    def _make_batches(self, x, *, batch_size=None, shuffle=False, num_steps=None, training=False):
        """Return tokenized batches and the checker that saw them."""
        checker = BatchChecker(self.backbone.vocabulary_size)

        def prepare(examples, epoch):
            if isinstance(examples, dict) and "token_ids" in examples:
                return checker(examples)
            if self.preprocessor is None:
                raise ValueError(
                    "A model without a preprocessor trains on dicts with 'token_ids'. Got "
                    f"{_describe(examples)}. Attach a preprocessor to train on text."
                )
            if isinstance(examples, tuple) and len(examples) == 1:
                examples = examples[0]
            epoch = epoch if training else 0  # every evaluation splits documents alike
            return checker(self.preprocessor(_to_texts(examples), epoch=epoch))

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
                "token_ids" with "padding_mask", "prompt_mask" and "target_mask" as needed; or a
                source of batches of these: `keras.utils.PyDataset`, grain, `tf.data`, torch
                `DataLoader`, generator.
            y: must be None.
            batch_size: int or None (32), for examples in memory.
            epochs: int.
            validation_data: like `x`, or None.
            shuffle: bool, for examples in memory.
            steps_per_epoch: int or None; data that end before start over.
            **kwargs: see `keras.Model.fit`.

        Returns:
            `keras.callbacks.History`.

        Raises:
            ValueError: before the first step, for anything that cannot be trained on.
        """
        _check_fit_arguments(y, kwargs)
        _check_optimizer(self.optimizer, self.trainable_variables)
        num_steps = None if steps_per_epoch is None else steps_per_epoch * epochs
        batches, checker = self._make_batches(
            x,
            batch_size=batch_size,
            shuffle=shuffle,
            num_steps=num_steps,
            training=True,
        )
        if validation_data is not None:
            size = kwargs.pop("validation_batch_size", None) or batch_size
            validation_data, _ = self._make_batches(validation_data, batch_size=size)
        arguments = {
            "x": batches,
            "epochs": epochs,
            "validation_data": validation_data,
            "steps_per_epoch": steps_per_epoch,
            "shuffle": False,
            **kwargs,
            "callbacks": [_CountRows(checker, batches), *_as_list(kwargs.get("callbacks"))],
        }
        with around_fit(self, arguments), _no_surprise_at_the_end(steps_per_epoch):
            history = keras.Model.fit(self, **arguments)
        checker.warn()
        return history

    def evaluate(self, x=None, y=None, *, batch_size=None, steps=None, **kwargs):
        """Return the loss and metrics on `x`, see `fit`; the same noise is drawn every time."""
        _check_fit_arguments(y, kwargs)
        state = ops.convert_to_numpy(self.seed_generator.state)
        fixed = np.array([EVALUATION_SEED, 0], dtype=state.dtype)
        self.seed_generator.state.assign(fixed)
        try:
            batches, checker = self._make_batches(x, batch_size=batch_size, num_steps=steps)
            if not isinstance(kwargs.get("callbacks"), keras.callbacks.CallbackList):
                callbacks = _as_list(kwargs.pop("callbacks", None))
                kwargs["callbacks"] = [_CountRows(checker, batches), *callbacks]
            with _no_surprise_at_the_end(steps):
                results = keras.Model.evaluate(self, batches, steps=steps, **kwargs)
        finally:
            self.seed_generator.state.assign(state)
        checker.warn()
        return results

    def predict(self, x, *, batch_size=None, steps=None, **kwargs):
        """Return the logits `(N, L, V)` of one denoiser call on each example, see `fit`."""
        batches, _ = self._make_batches(x, batch_size=batch_size, num_steps=steps)
        names = [key for key in BATCH_KEYS if key != "target_mask"]
        batches = (({name: batch[name] for name in names},) for batch in _unpack_batches(batches))
        with _no_surprise_at_the_end(steps):
            return keras.Model.predict(self, batches, steps=steps, **kwargs)

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

    def enable_lora(self, rank, target_layer_names=None):
        """Freeze the model and train low-rank updates of its query and value layers.

        Args:
            rank: int, rank of the updates.
            target_layer_names: list of layer names, or None for query and value.

        Reference: Hu et al. 2021, arXiv 2106.09685.
        """
        self.backbone.enable_lora(rank, target_layer_names=target_layer_names)

    def quantize(self, mode, **kwargs):
        """Quantize the backbone's weights.

        Args:
            mode: "int8" for one byte each, or another mode of `keras.Model.quantize`.
            **kwargs: see `keras.Model.quantize`.
        """
        with warnings.catch_warnings():  # layers without weights have nothing to quantize
            warnings.filterwarnings("ignore", message=r"Layer .* does not have a `quantize`")
            self.backbone.quantize(mode, **kwargs)
        self.train_function = self.test_function = self.predict_function = None

    # === Presets ===

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        """Load a model from a preset folder that `save_to_preset` wrote.

        Everything is checked before anything is built: classes, types and sizes of all
        arguments, checksums, and that the weights are finite.

        Args:
            preset: a local folder (str or path), "hf://user/name" or "kaggle://...".
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
            task_classes=tuple(TextTask.__subclasses__()),
            backbone_classes=(TransformerBackbone,),
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


class _CountRows(keras.callbacks.Callback):
    """Starts all counts where a run starts: Keras reads some batches before it."""

    def __init__(self, checker, batches):
        super().__init__()
        self.checker = checker
        self.batches = batches

    def on_train_begin(self, logs=None):
        self.checker.reset()
        self.batches.begin()

    def on_test_begin(self, logs=None):
        self.checker.reset()


@contextlib.contextmanager
def _no_surprise_at_the_end(steps):
    """Silence Keras where a dataset of unknown length ends and no length was promised."""
    with warnings.catch_warnings():
        if steps is None:
            warnings.filterwarnings("ignore", message="Your input ran out of data")
        yield


def _as_list(callbacks):
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def _unpack_batches(batches):
    if isinstance(batches, keras.utils.PyDataset):
        iterator = (batches[index] for index in range(len(batches)))
    else:
        iterator = iter(batches)
    for batch in iterator:
        yield batch[0] if isinstance(batch, tuple) else batch


def _check_fit_arguments(y, kwargs):
    for name, value in (("y", y), *((n, kwargs.get(n)) for n in ("sample_weight", "class_weight"))):
        if value is not None:
            raise ValueError(
                f"`{name}` is not used: targets and their mask come from `x`. Got a "
                f"{type(value).__name__}. Pass {{'prompts', 'responses'}} or a 'target_mask'."
            )
    if kwargs.get("validation_split"):
        raise ValueError("Split the data yourself and pass `validation_data`.")


def _check_optimizer(optimizer, variables):
    """Refuse what Keras would run without changing a weight."""
    beta = getattr(optimizer, "beta_2", None)
    for variable in variables:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if isinstance(beta, float) and dtype in ("bfloat16", "float16"):
            if float(ops.convert_to_numpy(ops.cast(ops.cast(beta, dtype), "float32"))) == 1.0:
                raise ValueError(
                    f"{type(optimizer).__name__} cannot train {dtype} weights: its beta_2 of "
                    f"{beta} rounds to 1, and no weight would change. Load the model with "
                    f"dtype='mixed_{dtype}' (float32 weights, {dtype} computations)."
                )
            return


def _check_vocabularies(backbone, tokenizer):
    try:
        size = tokenizer.vocabulary_size()
    except ValueError:  # its vocabulary is loaded after it, from a saved file
        return
    if size > backbone.vocabulary_size:
        raise ValueError(
            f"The tokenizer has {size} tokens and the backbone's vocabulary "
            f"{backbone.vocabulary_size}. Use the tokenizer that the backbone was trained with."
        )


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
