"""From a pretrained autoregressive backbone to one of ours with the same weights."""

from collections import Counter

import keras_hub
from keras import ops

from keras_textdiff.backbones import EncoderDecoderBackbone, TransformerBackbone
from keras_textdiff.transfer.families import FAMILIES
from keras_textdiff.transfer.families.weights import Unused, Weight
from keras_textdiff.utils.checks import check_choice
from keras_textdiff.utils.weights_follow import weights_follow

OWN_CLASSES = (TransformerBackbone, EncoderDecoderBackbone)


def convert_backbone(source, *, attention="bidirectional", block_length=None, dtype=None):
    """Build a backbone of ours that computes what `source` computes.

    With `attention="causal"` its logits are those of the source; another mode changes who
    attends to whom and nothing else. Weights are copied one at a time, and every weight on
    either side is accounted for. What a source does in training alone (router noise, auxiliary
    losses) is left behind; its dropout rate is kept.

    Args:
        source: a backbone of a supported KerasHub class, a `TransformerBackbone` or an
            `EncoderDecoderBackbone`.
        attention: see `TransformerBackbone` and `EncoderDecoderBackbone`.
        block_length: int, tokens per block; for attention "block" only.
        dtype: dtype or `keras.DTypePolicy`; None keeps the source's.

    Returns:
        `TransformerBackbone`, or for an encoder-decoder `EncoderDecoderBackbone`; it shares no
        memory with `source`.

    Raises:
        ValueError: for an unsupported class or configuration, a source with LoRA or
            quantization, or a weight that is missing, left over, of another shape or not
            finite.

    Example:
    ```python
    source = keras_hub.models.Backbone.from_preset("gpt2_base_en")
    backbone = convert_backbone(source, attention="causal")
    ```
    """
    _check_source(source)
    cls = type(source) if type(source) in OWN_CLASSES else FAMILIES[type(source)].backbone_class
    check_choice("attention", attention, cls.attention_modes)
    if type(source) is cls:
        config = source.get_config()
        for name in ("name", "trainable", "dtype"):
            del config[name]
        weights = None
    else:
        config, weights = _read_family(source)
    config["attention"] = attention
    if "block" in cls.attention_modes:
        config["block_length"] = block_length
    elif block_length is not None:
        raise ValueError(
            f"`block_length` goes with attention 'block', which {cls.__name__} does not have. Got "
            f"{block_length}. Leave it out."
        )
    if dtype is None:  # the embedding's: some sources do not hand theirs down to the layers
        dtype = source.token_embedding.dtype_policy
    with weights_follow():
        backbone = cls(**config, dtype=dtype)
    if weights is None:
        pairs = zip(source.weights, backbone.weights, strict=True)
        weights = [Weight(destination.path, (variable,)) for variable, destination in pairs]
    copy_weights(weights, source, backbone)
    return backbone


def copy_weights(weights, source, backbone):
    """Assign the weights of `backbone` from the variables of `source`, one at a time.

    Args:
        weights: list of `Weight` and `Unused`, see `transfer.families`.
        source: model whose weights must each occur in `weights` exactly once.
        backbone: model whose weights must each be a destination exactly once.

    Raises:
        ValueError: naming the weight that is missing, left over, of another shape or not finite.
    """
    _check_accounting(weights, source, backbone)
    destinations = {variable.path: variable for variable in backbone.weights}
    for weight in weights:
        if isinstance(weight, Unused):
            continue
        # A copy, because training on jax donates buffers: the source must keep its own.
        values = [ops.copy(ops.convert_to_tensor(variable)) for variable in weight.sources]
        value = values[0] if weight.transform is None else weight.transform(*values)
        destination = destinations[weight.destination]
        if tuple(value.shape) != tuple(destination.shape):
            raise ValueError(
                f"Weight {weight.destination!r} of {type(backbone).__name__} has shape "
                f"{tuple(destination.shape)}. Got {tuple(value.shape)} from "
                f"{_describe(weight.sources)} of {type(source).__name__}. Its configuration and "
                "its weights disagree: build the source from the configuration it was "
                "trained with."
            )
        destination.assign(value)
        if not bool(ops.convert_to_numpy(ops.all(ops.isfinite(destination)))):
            raise ValueError(
                f"Weight {weight.destination!r} holds NaN or inf in {destination.dtype}, made from "
                f"{_describe(weight.sources)} of {type(source).__name__}. Its weights are damaged, "
                "or too large: pass a wider `dtype`."
            )


def _check_source(source):
    """Raise a ValueError where the weights of `source` are not plain weights to copy."""
    name = type(source).__name__
    if type(source) not in OWN_CLASSES and type(source) not in FAMILIES:
        raise ValueError(
            f"Cannot convert {name}. Pass one of {[cls.__name__ for cls in OWN_CLASSES]}, or of "
            f"{sorted(cls.__name__ for cls in FAMILIES)} from keras_hub.models (not a subclass, "
            "which may compute something else)."
        )
    for variable in source.weights:
        if variable.name.startswith("lora_"):
            raise ValueError(
                f"{name} has LoRA enabled (weight {variable.path!r}). Merge it first: save it "
                "with `save_to_preset` and load it with `from_preset`."
            )
    for layer in source._flatten_layers(include_self=False):
        if layer.quantization_mode is not None:
            raise ValueError(
                f"{name} is quantized ({layer.quantization_mode!r} in layer {layer.path!r}). "
                "Load it without quantization, convert it, and quantize the result with "
                "`quantize`."
            )


def _read_family(source):
    """Return the arguments of our backbone and the weight mapping for `source`."""
    family = FAMILIES[type(source)]
    try:
        return family.config(source), family.weights(source)
    except AttributeError as error:
        raise ValueError(
            f"{type(source).__name__} lacks a layer or weight that it should have: {error}. "
            f"Got keras_hub {keras_hub.__version__}; install keras-hub 0.32, whose layers this "
            "version of keras_textdiff knows."
        ) from error


def _check_accounting(weights, source, backbone):
    """Raise a ValueError unless every weight on either side is used exactly once."""
    source_name, name = type(source).__name__, type(backbone).__name__
    expected = {variable.path: variable for variable in backbone.weights}
    assigned = Counter(weight.destination for weight in weights if isinstance(weight, Weight))
    for path, variable in expected.items():
        if path not in assigned:
            raise ValueError(
                f"Weight {path!r} of {name}, shape {tuple(variable.shape)}, is missing from "
                f"{source_name}. Expected one source for each of {len(expected)} weights; got "
                f"{len(assigned)}. Build the source from the configuration it was trained with."
            )
    for path, count in assigned.items():
        if path not in expected:
            raise ValueError(
                f"{source_name} has a weight for {path!r}, which {name} does not have. Expected "
                f"one of its {len(expected)} weights. Build the source from the configuration "
                "it was trained with."
            )
        if count > 1:
            raise ValueError(f"Weight {path!r} of {name} is assigned {count} times.")
    used = Counter()
    for weight in weights:
        for variable in (weight.source,) if isinstance(weight, Unused) else weight.sources:
            used[id(variable)] += 1
    for variable in source.weights:
        if used[id(variable)] != 1:
            raise ValueError(
                f"Weight {variable.path!r} of {source_name}, shape {tuple(variable.shape)}, is "
                f"used {used[id(variable)]} times. Expected once: every weight must have a "
                f"place in {name}. Remove what was added to the source."
            )


def _describe(variables):
    return " and ".join(f"{variable.path!r} {tuple(variable.shape)}" for variable in variables)
