"""What every backbone has in common: config, presets, and what models ask of it.

Shapes: B batch, L length, D hidden size, V vocabulary.
"""

import abc
import inspect

import keras_hub
import numpy as np
from keras import ops

from keras_textdiff import presets


class TextBackbone(keras_hub.models.Backbone):
    """Token ids to hidden states.

    What a canvas is conditioned on is read once, by `encode`; then `decode` runs as often as the
    canvas changes. Calling the backbone does both.

    Subclasses set the attributes below; `token_embedding`, a `keras.layers.ReversibleEmbedding`;
    and `_config_names`, the constructor's arguments that are kept as attributes.

    Attributes:
        attention_modes: what `attention` may be.
        attention: str, who may attend to whom in the canvas.
        has_encoder: bool, whether a prefix goes to an encoder, as "encoder_token_ids", and not in
            front of the canvas.
        num_learned_positions: int, most positions of a row, or None for no limit.
        sliding_window_layers: indices of layers that see a window alone.
    """

    attention_modes = ()
    attention = None
    has_encoder = False
    num_learned_positions = None
    sliding_window_layers = ()

    @abc.abstractmethod
    def encode(self, inputs, training=False):
        """Compute what does not depend on the canvas.

        Args:
            inputs: dict of the backbone's inputs; "token_ids" is not looked at.
            training: bool.

        Returns:
            Nest of tensors whose first axis is B, for `decode`.
        """

    @abc.abstractmethod
    def decode(self, inputs, context, training=False):
        """Compute the hidden states of a canvas.

        Args:
            inputs: dict of the backbone's inputs; more is ignored.
            context: what `encode` returned.
            training: bool.

        Returns:
            Float tensor `(B, L, D)`.
        """

    @abc.abstractmethod
    def make_cache(self, inputs):
        """Return what `call_with_cache` needs to write all columns of "token_ids" one by one.

        Args:
            inputs: dict of the backbone's inputs.

        Returns:
            Nest of tensors whose first axis is B.
        """

    def count_settled(self, count):
        """Return how many leading positions keep their keys and values while a canvas changes.

        What is positive, `read_settled` computes, as `TransformerBackbone` has it.

        Args:
            count: int, positions in front of all canvases, of rows without a prompt position
                behind a canvas.
        """
        return 0

    def is_unmasked(self, inputs):
        """Return whether each position sees all others, so that no mask needs to be looked at.

        Subclasses with masks of their own have their own answer.

        Args:
            inputs: dict of the backbone's inputs as NumPy arrays.
        """
        masks = [inputs[name] for name in self.input if name.endswith("padding_mask")]
        everywhere = self.attention == "bidirectional" and not len(self.sliding_window_layers)
        return everywhere and all(np.all(mask) for mask in masks)

    def logits(self, hidden_states):
        """Project hidden states `(..., D)` to logits `(..., V)`."""
        return self.token_embedding(hidden_states, reverse=True)

    def select_inputs(self, inputs, names):
        """Return the inputs `names` as tensors, or raise a ValueError that says what is missing."""
        missing = sorted(set(names) - set(inputs))
        if missing:
            raise ValueError(
                f"A {type(self).__name__} with attention {self.attention!r} needs the inputs "
                f"{sorted(self.input)}. Missing: {missing}."
            )
        return {name: ops.convert_to_tensor(inputs[name]) for name in names}

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        """Load a backbone from a preset of ours, checked as `presets.load_backbone` says.

        Args:
            preset: a local folder (str or path), "hf://user/name" or "kaggle://...".
            load_weights: bool, whether to load the weights; otherwise they are random.
            **kwargs: "dtype", "maximum_gigabytes", and constructor arguments in place of the
                saved ones (`attention="causal"`).

        Returns:
            A backbone of this class.
        """
        return presets.load_backbone(
            preset, backbone_classes=(cls,), load_weights=load_weights, **kwargs
        )

    def save_to_preset(self, preset_dir, max_shard_size=10):
        """Save as a preset, see `presets.save_preset`."""
        presets.save_preset(self, preset_dir, max_shard_size=max_shard_size)

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in self._config_names},
        }

    @classmethod
    def parameter_count_from_config(cls, config):
        """Return how many parameters a backbone of this config has, without building it.

        Args:
            config: see `complete_config`.

        Raises:
            ValueError: as the constructor does.
        """
        return cls._count_parameters(cls.complete_config(config))

    @classmethod
    def complete_config(cls, config):
        """Return a checked config with all of the constructor's arguments.

        Args:
            config: dict of constructor arguments; those left out have their defaults.

        Raises:
            ValueError: as the constructor does.
        """
        parameters = inspect.signature(cls.__init__).parameters
        names = [name for name in parameters if name not in ("self", "dtype", "kwargs")]
        config = {name: config.get(name, parameters[name].default) for name in names}
        missing = [name for name, value in config.items() if value is inspect.Parameter.empty]
        if missing:
            raise ValueError(f"A {cls.__name__} needs {missing}.")
        cls._check_config(config)
        return config

    @staticmethod
    @abc.abstractmethod
    def _check_config(config):
        """Raise a ValueError where a complete config cannot describe such a backbone."""

    @staticmethod
    @abc.abstractmethod
    def _count_parameters(config):
        """Return the parameter count of a complete, checked config."""


def constructor_config(arguments):
    """Return the part of a constructor's `locals()` that is its config, tuples as lists."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in arguments.items()
        if name not in ("self", "dtype", "kwargs", "__class__")
    }


def run_blocks(blocks, x, arguments, cache=None, cache_index=0):
    """Run a stack of `TransformerBlock`.

    Args:
        blocks: list of S blocks.
        x: float tensor `(B, L, D)`.
        arguments: list of S pairs of a mask and a dict of the other call arguments; as a keyword,
            Keras would take the mask for one that it propagates.
        cache: tuple of S pairs of keys and values, or None for a call without a cache.
        cache_index: int or int tensor, where in the cache the columns of `x` go.

    Returns:
        `(hidden states (B, L, D), updated cache)`; the cache is empty where there was none.
    """
    new_cache = []
    for index, (block, (mask, kwargs)) in enumerate(zip(blocks, arguments, strict=True)):
        if cache is None:
            x = block(x, mask, **kwargs)
            continue
        keys, values = cache[index]
        x, *layer_cache = block(
            x, mask, **kwargs, key_cache=keys, value_cache=values, cache_index=cache_index
        )
        new_cache.append(tuple(layer_cache))
    return x, tuple(new_cache)


def empty_cache(num_layers, batch_size, length, num_heads, head_dim, dtype):
    """Return, per layer, keys and values of zeros `(batch_size, length, num_heads, head_dim)`."""
    shape = (batch_size, length, num_heads, head_dim)
    zeros = [ops.zeros(shape, dtype=dtype) for _ in range(2 * num_layers)]
    return tuple(zip(zeros[::2], zeros[1::2], strict=True))
