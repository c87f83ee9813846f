"""Which dimension of which variable is split over which axis of a device mesh."""

import os

import keras

from keras_textdiff import presets
from keras_textdiff.backbones import EncoderDecoderBackbone, TransformerBackbone
from keras_textdiff.backbones.text_backbone import TextBackbone
from keras_textdiff.utils.processes import require_distribution

CLASSES = (TransformerBackbone, EncoderDecoderBackbone)
AXES = ("batch", "model")

_BLOCK = r"(transformer|encoder|decoder)_layer_\d+"
_ATTENTION = rf"{_BLOCK}/(self|cross)_attention"
_FEED_FORWARD = rf"{_BLOCK}/feed_forward"
_EXPERTS = rf"{_BLOCK}/mixture_of_experts"
_KEY_VALUE = ("hidden_dim", "num_key_value_heads", "head_dim")

# Layer, weight, its dimensions, and those that "model" may split, the best one first: heads,
# inner features, experts and token ids, where one device needs nothing of the others' before it
# adds up; then the hidden states' features.
LARGE = (
    ("token_embedding", "embeddings", ("vocabulary_size", "hidden_dim"), (0, 1)),
    ("token_embedding", "reverse_embeddings", ("hidden_dim", "vocabulary_size"), (1, 0)),
    ("position_embedding", "embeddings", ("num_learned_positions", "hidden_dim"), (1,)),
    (rf"{_ATTENTION}/query", "kernel", ("hidden_dim", "num_query_heads", "head_dim"), (1, 0)),
    (rf"{_ATTENTION}/(key|value)", "kernel", _KEY_VALUE, (1, 0)),
    (
        rf"{_ATTENTION}/attention_output",
        "kernel",
        ("num_query_heads", "head_dim", "hidden_dim"),
        (0, 2),
    ),
    (rf"{_FEED_FORWARD}/(gate|up)", "kernel", ("hidden_dim", "intermediate_dim"), (1, 0)),
    (rf"{_FEED_FORWARD}/down", "kernel", ("intermediate_dim", "hidden_dim"), (0, 1)),
    (_EXPERTS, "gate_up", ("num_experts", "hidden_dim", "gate_up_dim"), (0, 1)),
    (_EXPERTS, "down", ("num_experts", "expert_dim", "hidden_dim"), (0, 2)),
    (_EXPERTS, "gate_up_bias", ("num_experts", "gate_up_dim"), (0,)),
    (_EXPERTS, "down_bias", ("num_experts", "hidden_dim"), (0,)),
    (rf"{_EXPERTS}/router", "kernel", ("hidden_dim", "num_experts"), ()),
)
# On every device: norms, biases, sinks, and the scales of quantized weights.
_SMALL = r"(bias|\w*scale|\w*amax_history)"
SMALL = (
    r"(.*/)?\w*norm/(scale|bias)",
    r"((encoder|decoder)_)?position_bias/(bias|ahead)",
    rf"(token|position)_embedding/{_SMALL}",
    rf"{_ATTENTION}/sinks",
    rf"{_ATTENTION}/(query|key|value|attention_output)/{_SMALL}",
    rf"{_FEED_FORWARD}/(gate|up|down)/{_SMALL}",
    rf"{_EXPERTS}/router/{_SMALL}",
)


def layout_map(backbone, device_mesh, *, fully_sharded=False):
    """Lay the variables of a backbone out over devices.

    The axis "batch" of the mesh splits the rows of a batch (data parallel), "model" the variables
    (tensor parallel): attention by heads, feed-forward networks by inner features, mixtures by
    experts, embeddings by token ids. `fully_sharded` splits each of these variables, and with it
    the optimizer's, over "batch" as well, by the largest dimension that is left. A mesh of shape
    (8, 1) is data parallel, (1, 8) tensor parallel, (2, 4) both.

    A dimension that does not divide evenly stays whole. Where "model" cannot split by heads,
    inner features, experts or token ids, it splits the hidden features, and where it cannot split
    these, nothing. Norms, biases, position biases, attention sinks and scales of int8 weights are
    on every device. LoRA weights follow the weights that they update.

    Variables are laid out when they are made: set the distribution first, and make the model
    then, with a constructor, `from_preset`, or `ar2diff`. What was made before stays on one
    device, and `fit` refuses it.

    Args:
        backbone: `TransformerBackbone` or `EncoderDecoderBackbone`; or its configuration, a dict
            of constructor arguments; or the preset that it comes from, see `from_preset`, of
            which only the configuration is read.
        device_mesh: `keras.distribution.DeviceMesh` with the axis "batch", "model" or both.
        fully_sharded: bool, whether "batch" splits variables too (ZeRO stage 3, FSDP).

    Returns:
        `keras.distribution.LayoutMap` for `keras.distribution.ModelParallel`, whose patterns match
        each variable of the backbone exactly once.

    Raises:
        ValueError: on tensorflow and torch, where `keras.distribution` has no effect; for
            another mesh; or for a backbone, configuration or preset that is none of ours.

    Example:
    ```python
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))  # 8 devices
    layouts = keras_textdiff.distribution.layout_map("my_preset", mesh, fully_sharded=True)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    )
    lm = keras_textdiff.models.DiffusionLM.from_preset("my_preset")
    lm.compile(objective="sundae", optimizer=keras.optimizers.AdamW(1e-4))
    lm.fit(texts, batch_size=64)
    ```

    Reference: Shoeybi et al. 2019, arXiv 1909.08053 (tensor parallel); Rajbhandari et al. 2019,
    arXiv 1910.02054 (fully sharded); Lepikhin et al. 2020, arXiv 2006.16668 (experts).
    """
    require_distribution()
    axis_sizes = _axis_sizes(device_mesh)
    sizes = dimension_sizes(backbone_config(backbone))
    layouts = keras.distribution.LayoutMap(device_mesh)
    for layer, weight, names, order in LARGE:
        shape = [sizes.get(name) for name in names]
        if None in shape:
            continue  # the backbone has no such layer
        for pattern, dimensions in (
            (f"{layer}/{weight}", range(len(shape))),
            (f"{layer}/lora_{weight}_a", range(len(shape) - 1)),
            (f"{layer}/lora_{weight}_b", [len(shape) - 1]),
        ):
            axes = split_axes(shape, dimensions, order, axis_sizes, fully_sharded)
            if pattern.endswith("_a"):
                axes = (*axes[:-1], None)  # LoRA's rank stands in place of the last dimension
            elif pattern.endswith("_b"):
                axes = (None, axes[-1])  # and here in place of the others
            layouts[pattern] = axes
    for pattern in SMALL:
        layouts[pattern] = ()
    return layouts


def split_axes(shape, dimensions, order, axis_sizes, fully_sharded):
    """Return the mesh axis that splits each dimension, or None, as a tuple.

    Args:
        shape: list of ints.
        dimensions: indices of the dimensions that may be split.
        order: indices of those that "model" may split, the best one first.
        axis_sizes: dict from mesh axis to its number of devices.
        fully_sharded: bool, whether "batch" splits one too.
    """
    axes = [None] * len(shape)
    largest = sorted(dimensions, key=lambda index: -shape[index])
    for axis, candidates in (("model", order), ("batch", largest if fully_sharded else ())):
        for index in candidates:
            free = index in dimensions and axes[index] is None
            if axis_sizes[axis] > 1 and free and shape[index] % axis_sizes[axis] == 0:
                axes[index] = axis
                break
    return tuple(axes)


def _axis_sizes(device_mesh):
    if not isinstance(device_mesh, keras.distribution.DeviceMesh):
        raise ValueError(
            "`device_mesh` must be a keras.distribution.DeviceMesh, e.g. "
            f'DeviceMesh((2, 4), ("batch", "model")). Got {type(device_mesh).__name__}.'
        )
    names = list(device_mesh.axis_names)
    if not set(names) <= set(AXES):
        raise ValueError(
            f'The axes of a device mesh are "batch" (rows) and "model" (variables). Got {names}.'
        )
    return dict.fromkeys(AXES, 1) | dict(zip(names, device_mesh.shape, strict=True))


def backbone_config(backbone):
    """Return the arguments of a backbone's constructor, checked."""
    if isinstance(backbone, (str, os.PathLike)):
        return presets.read_backbone_config(backbone, backbone_classes=CLASSES)
    if isinstance(backbone, CLASSES):
        return backbone.get_config()
    if isinstance(backbone, dict):
        with_encoder = "num_encoder_layers" in backbone
        cls = EncoderDecoderBackbone if with_encoder else TransformerBackbone
        cls.parameter_count_from_config(backbone)  # raises where it describes none
        return backbone
    hint = ""
    if isinstance(getattr(backbone, "backbone", None), TextBackbone):
        hint = " Pass its `backbone`."
    raise ValueError(
        f"`backbone` must be one of {[cls.__name__ for cls in CLASSES]}, a dict of its arguments, "
        f"or a preset of it. Got {type(backbone).__name__}.{hint}"
    )


def dimension_sizes(config):
    """Return the sizes of all dimensions by name; those that the backbone has not are None."""
    expert_dim = None
    if config.get("num_experts"):
        expert_dim = config.get("expert_intermediate_dim") or config["intermediate_dim"]
    return {
        **config,
        "expert_dim": expert_dim,
        "gate_up_dim": expert_dim and 2 * expert_dim,
        "num_experts": config.get("num_experts") or None,
    }
