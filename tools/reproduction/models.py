"""Compiled models that all arms and seeds share: compiling takes longer than many a stage."""

import os

import keras
import keras_hub
import numpy as np

from keras_textdiff import ar2diff
from keras_textdiff.backbones import EncoderDecoderBackbone, TransformerBackbone
from keras_textdiff.data import PrefixLM, SpanCorruption
from keras_textdiff.models import (
    CausalLM,
    CausalLMPreprocessor,
    DiffusionLM,
    DiffusionLMPreprocessor,
)
from keras_textdiff.objectives import Sundae
from keras_textdiff.samplers import SundaeSampler
from keras_textdiff.utils import random

BACKBONES = {"decoder": TransformerBackbone, "encoder-decoder": EncoderDecoderBackbone}
OPTIMIZERS = {"adamw": keras.optimizers.AdamW, "adafactor": keras.optimizers.Adafactor}


class Models:
    """Makes each model once and compiles it once; weights come and go.

    Args:
        scale: `Scale`.
        tokenizer: the tokenizer of all models.
    """

    def __init__(self, scale, tokenizer):
        self.scale = scale
        self.tokenizer = tokenizer
        self._trainers, self._writers = {}, {}

    def initial_weights(self, architecture, size, seed):
        """Return the weights that a seed's models of this size start from."""
        keras.utils.set_random_seed(int(random.generator("weights", seed).integers(2**31)))
        return self.backbone(architecture, size, "bidirectional").get_weights()

    def trainer(self, architecture, mode, size):
        """Return the model that trains, compiled, in whatever state it was left in.

        Args:
            architecture: "decoder" or "encoder-decoder".
            mode: "ar" or "diffusion".
            size: str, one of the scale's sizes.
        """
        key = (architecture, mode, size)
        if key not in self._trainers:
            # The real thing: attention turns bidirectional around the same weights.
            causal_lm = CausalLM(self.backbone(architecture, size, "causal"))
            model = causal_lm if mode == "ar" else ar2diff(causal_lm)
            options = {} if mode == "ar" else {"objective": Sundae(num_unroll_steps=1)}
            optimizer = OPTIMIZERS[self.scale.optimizer]
            model.compile(
                optimizer=optimizer(self.scale.learning_rate, global_clipnorm=1.0),
                jit_compile=jit_compile(),
                **options,
            )
            model.optimizer.build(model.trainable_variables)
            self._trainers[key] = model
        return self._trainers[key]

    def writer(self, architecture, mode, size, task, sampler):
        """Return a model that generates with the weights of the trainer.

        Args:
            architecture: see `trainer`.
            mode: see `trainer`.
            size: see `trainer`.
            task: str, what it writes.
            sampler: dict of "temperature" (AR; 0 is greedy), or of the options of a
                `SundaeSampler`.
        """
        key = (architecture, mode, size, self.scale.lengths[task], *sampler.items())
        if key not in self._writers:
            backbone = self.trainer(architecture, mode, size).backbone
            cls = CausalLM if mode == "ar" else DiffusionLM
            model = cls(backbone, self.preprocessor(architecture, mode, task))
            model.compile(sampler=make_sampler(mode, sampler), jit_compile=jit_compile())
            self._writers[key] = model
        return self._writers[key]

    def preprocessor(self, architecture, mode, data, objective="prefix_lm"):
        """Return what makes a model's rows from text, of "pretraining" or a task."""
        length = self.scale.lengths[data]
        sentinels = range(self.tokenizer.vocabulary_size())[-self.scale.sentinels :]
        formats = {"prefix_lm": PrefixLM(), "span_corruption": SpanCorruption(0.15, 3, sentinels)}
        cls = CausalLMPreprocessor if mode == "ar" else DiffusionLMPreprocessor
        return cls(
            self.tokenizer,
            sequence_length=length,
            prefix_length=length if architecture == "encoder-decoder" else None,
            add_start_token=False,
            format=formats[objective],
        )

    def backbone(self, architecture, size, attention):
        """Return a new backbone with random weights."""
        config = self.scale.backbone_config(architecture, size)
        # Fewer tokens than wished for can be had from little text.
        config["vocabulary_size"] = self.tokenizer.vocabulary_size()
        return BACKBONES[architecture](**config, attention=attention, dtype="float32")


def jit_compile():
    """Return whether to use XLA: on tensorflow and a CPU, small models gain on one thread only."""
    if keras.config.backend() != "tensorflow":
        return "auto"
    return os.environ.get("TF_NUM_INTRAOP_THREADS") == "1"


def make_sampler(mode, options):
    """Return the sampler of an AR or a diffusion model, see `Models.writer`."""
    if mode == "diffusion":
        return SundaeSampler(**options)
    if not options["temperature"]:
        return keras_hub.samplers.GreedySampler()
    return keras_hub.samplers.RandomSampler(temperature=options["temperature"])


def count_parameters(scale, architecture, size):
    """Return how many parameters a model has, without making it."""
    return BACKBONES[architecture].parameter_count_from_config(
        scale.backbone_config(architecture, size)
    )


# === The state of training, as arrays ===


def start_training(model, weights, seed):
    """Give a compiled model other weights, a fresh optimizer and a fresh random state."""
    model.backbone.set_weights(weights)
    for variable in model.optimizer.variables:
        variable.assign(np.zeros(variable.shape, variable.dtype))
    key = random.generator("training", seed).integers(2**31)
    state = model.seed_generator.state
    state.assign(np.array([key, 0], dtype=state.dtype))


def read_state(model):
    """Return all that training changes, as a dict of arrays."""
    parts = {
        "weights": model.backbone.weights,
        "optimizer": model.optimizer.variables,
        "random": [model.seed_generator.state],
    }
    return {
        f"{name}_{index}": keras.ops.convert_to_numpy(variable)
        for name, variables in parts.items()
        for index, variable in enumerate(variables)
    }


def write_state(model, state):
    """Put back what `read_state` returned."""
    model.backbone.set_weights(take_weights(state))
    for name, variables in (
        ("optimizer", model.optimizer.variables),
        ("random", [model.seed_generator.state]),
    ):
        for index, variable in enumerate(variables):
            variable.assign(state[f"{name}_{index}"])


def take_weights(state):
    """Return the weights among the arrays of `read_state`, in order."""
    count = sum(name.startswith("weights_") for name in state)
    return [state[f"weights_{index}"] for index in range(count)]


def save_arrays(path, arrays):
    """Write arrays to a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_arrays(path):
    """Return the arrays of a file as a dict."""
    with np.load(path) as file:
        return dict(file)
