"""What a training run needs of its devices, before there are any."""

import dataclasses
import math
import re

import keras

from keras_textdiff import objectives
from keras_textdiff.backbones import EncoderDecoderBackbone, TransformerBackbone
from keras_textdiff.backbones.flops import training_flops
from keras_textdiff.distribution.activations import Sizes, activation_bytes, logit_bytes
from keras_textdiff.distribution.layout_map import (
    AXES,
    LARGE,
    backbone_config,
    dimension_sizes,
    split_axes,
)
from keras_textdiff.utils.checks import check_choice, check_integer, check_number
from keras_textdiff.utils.devices import Device, get_device

# Numbers that an optimizer keeps for each weight. Keras' Adafactor keeps its factors besides the
# full second moment that others make of them when it is needed.
OPTIMIZERS = {"sgd": 0, "momentum": 1, "lion": 1, "adafactor": 1, "adam": 2, "adamw": 2}
HEADROOM = 0.1  # of a device's memory, for programs, input batches and fragmentation


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What `plan_run` found. Bytes are those of one device.

    Attributes:
        num_parameters: int.
        num_devices: int.
        tokens_per_step: int, positions of a batch, those of an encoder's prefix included.
        flops_per_token: float, operations of the model per token of a step, all passes together,
            see `backbones.flops`.
        memory: dict of bytes: "weights", "optimizer", "weights in use" (whole where they are
            split over "batch", and in the compute dtype where it is another), "activations" kept
            for the backward pass, "gradients", "one block" at work, "logits", and the "total".
            Gradients come as activations and weights in use go: only the larger side counts.
        checkpointed_memory: the same with `gradient_checkpointing=True`.
        device_memory: int, bytes that a device has.
        fits: bool, whether `memory` leaves a tenth of the device's free.
        fits_checkpointed: bool, the same for `checkpointed_memory`.
        mfu: float, the share of the devices' peak that is assumed.
        tokens_per_second: float, at this MFU.
        seconds_per_step: float.
        hours: float for the tokens that were asked for, or None.

    Example:
    ```python
    config = keras_textdiff.backbones.transformer_config("base")
    plan = keras_textdiff.distribution.plan_run(
        config, device="h100", batch_size=64, length=512
    )
    plan.memory["total"] / 1e9, plan.fits
    ```
    """

    num_parameters: int
    num_devices: int
    tokens_per_step: int
    flops_per_token: float
    memory: dict
    checkpointed_memory: dict
    device_memory: int
    fits: bool
    fits_checkpointed: bool
    mfu: float
    tokens_per_second: float
    seconds_per_step: float
    hours: float | None

    def to_dict(self):
        """Return everything as a dict that can be written as JSON."""
        return dataclasses.asdict(self)


def plan_run(
    backbone,
    *,
    device,
    batch_size,
    length,
    prefix_length=0,
    objective="sundae",
    mesh=(1, 1),
    fully_sharded=False,
    dtype="mixed_bfloat16",
    optimizer="adamw",
    mfu=0.4,
    num_tokens=None,
):
    """Estimate memory, speed and duration of a run from its configuration alone.

    Weights, optimizer and gradients are split as `layout_map` splits them; activations and logits
    are what XLA keeps, see `distribution.activations`. All are checked against what XLA says about
    compiled training steps on small meshes of virtual CPU devices. What an accelerator's compiler
    does may differ: attention that never holds its weights needs less. Speed is not predicted: it
    follows from the MFU that is assumed; 0.3 to 0.5 is usual for dense models of this kind.

    Args:
        backbone: a backbone, a dict of its constructor's arguments, or a preset, as in
            `layout_map`.
        device: "tpu_v5e", "tpu_v5p", "tpu_v6e", "h100", "h200", or a `utils.devices.Device`.
        batch_size: int, rows of a batch on all devices together.
        length: int, columns of a row.
        prefix_length: int, columns that the encoder reads; needed where there is one.
        objective: name, config or object, see `keras_textdiff.objectives`.
        mesh: pair of ints, devices along the axes "batch" and "model".
        fully_sharded: bool, see `layout_map`.
        dtype: dtype or `keras.DTypePolicy`.
        optimizer: "sgd", "momentum" (SGD with momentum), "lion", "adafactor", "adam" or "adamw".
        mfu: float in (0, 1].
        num_tokens: float or None, tokens that the run is to see.

    Returns:
        `RunPlan`.

    Raises:
        ValueError: for an unknown device, optimizer or objective, a batch that does not divide
            among the devices, lengths that do not fit the backbone, or numbers out of range.

    Example:
    ```python
    plan = keras_textdiff.distribution.plan_run(
        keras_textdiff.backbones.transformer_config("xl"), device="tpu_v5e", batch_size=256,
        length=1024, mesh=(16, 1), fully_sharded=True, num_tokens=100e9,
    )
    plan.fits_checkpointed, plan.hours
    ```

    Reference: Rajbhandari et al. 2019, arXiv 1910.02054, section 3 (what memory holds);
    Chowdhery et al. 2022, arXiv 2204.02311, appendix B (MFU).
    """
    config = _complete(backbone_config(backbone))
    device = device if isinstance(device, Device) else get_device(device)
    objective = objectives.get(objective)
    policy = keras.dtype_policies.get(dtype)
    check_choice("optimizer", optimizer, tuple(OPTIMIZERS))
    if not 0 < check_number("mfu", mfu) <= 1:
        raise ValueError(f"`mfu` is a share of the peak, in (0, 1]. Got {mfu}.")
    if num_tokens is not None:
        check_number("num_tokens", num_tokens, minimum=1)
    num_groups, model_size = _check_mesh(mesh)
    _check_rows(config, batch_size, length, prefix_length, num_groups)

    axis_sizes = dict(zip(AXES, (num_groups, model_size), strict=True))
    parameters, slots = _weights_per_device(config, axis_sizes, fully_sharded, optimizer)
    parameters_in_use, _ = _weights_per_device(config, axis_sizes, False, optimizer)
    sizes = Sizes(config, batch_size // num_groups, model_size, _itemsize(policy.compute_dtype))
    weight_bytes = _itemsize(policy.variable_dtype)
    in_use = parameters_in_use * sizes.itemsize
    if not fully_sharded and policy.compute_dtype == policy.variable_dtype:
        in_use = 0  # the weights themselves
    memory = []
    for checkpointing in (False, True):
        kept, working = activation_bytes(
            sizes,
            length,
            prefix_length=prefix_length,
            num_passes=objective.num_passes,
            checkpointing=checkpointing,
        )
        parts = {
            "weights": parameters * weight_bytes,
            "optimizer": slots * weight_bytes,
            "weights in use": in_use,
            "activations": kept,
            "gradients": parameters * weight_bytes,
            "one block": working,
            "logits": logit_bytes(sizes, length, objective.num_passes),
        }
        # Backwards through the blocks, one grows while the other shrinks.
        smaller = min(parts["gradients"], parts["weights in use"] + parts["activations"])
        memory.append({**parts, "total": sum(parts.values()) - smaller})
    usable = device.memory * (1 - HEADROOM)
    num_devices = num_groups * model_size
    tokens = batch_size * (length + prefix_length)
    flops = batch_size * training_flops(
        config, length, num_passes=objective.num_passes, prefix_length=prefix_length
    )
    tokens_per_second = mfu * num_devices * device.peak_flops * tokens / flops
    return RunPlan(
        num_parameters=_backbone_class(config).parameter_count_from_config(config),
        num_devices=num_devices,
        tokens_per_step=tokens,
        flops_per_token=flops / tokens,
        memory=memory[0],
        checkpointed_memory=memory[1],
        device_memory=device.memory,
        fits=memory[0]["total"] <= usable,
        fits_checkpointed=memory[1]["total"] <= usable,
        mfu=mfu,
        tokens_per_second=tokens_per_second,
        seconds_per_step=tokens / tokens_per_second,
        hours=None if num_tokens is None else num_tokens / tokens_per_second / 3600,
    )


def _backbone_class(config):
    return EncoderDecoderBackbone if "num_encoder_layers" in config else TransformerBackbone


def _complete(config):
    return _backbone_class(config).complete_config(config)


def _itemsize(dtype):
    return 2 if dtype in ("bfloat16", "float16") else 4


def _check_mesh(mesh):
    if not isinstance(mesh, (tuple, list)) or len(mesh) != 2:
        raise ValueError(f"`mesh` is (devices along 'batch', devices along 'model'). Got {mesh!r}.")
    return [check_integer("mesh entry", size, minimum=1) for size in mesh]


def _check_rows(config, batch_size, length, prefix_length, num_groups):
    check_integer("batch_size", batch_size, minimum=1)
    check_integer("length", length, minimum=1)
    check_integer("prefix_length", prefix_length, minimum=0)
    if batch_size % num_groups:
        raise ValueError(
            f"`batch_size` must divide among the {num_groups} groups of the mesh's first axis. "
            f"Got {batch_size}: take {-(-batch_size // num_groups) * num_groups}."
        )
    if ("num_encoder_layers" in config) != (prefix_length > 0):
        raise ValueError(
            "`prefix_length` goes with an encoder-decoder, and only with it. Got a prefix of "
            f"{prefix_length} for a {_backbone_class(config).__name__}."
        )
    limit = config.get("num_learned_positions")
    if limit is not None and length > limit:
        raise ValueError(
            f"The backbone has {limit} learned positions. Got a length of {length}: take a "
            "shorter one, or more positions."
        )


def _weights_per_device(config, axis_sizes, fully_sharded, optimizer):
    """Return how many weights, and how many numbers of the optimizer, one device holds.

    What is not in `LARGE` is on every device.
    """
    sizes = dimension_sizes(config)
    small = _backbone_class(config).parameter_count_from_config(config)
    held = factors = 0
    for layer, weight, names, order in LARGE:
        count = _num_layers(config, layer, weight)
        if not count:
            continue
        shape = [sizes[name] for name in names]
        axes = split_axes(shape, range(len(shape)), order, axis_sizes, fully_sharded)
        parts = math.prod(axis_sizes[axis] for axis in axes if axis is not None)
        small -= count * math.prod(shape)
        held += count * math.prod(shape) // parts
        # Factors of rows and columns, whole on every device.
        factors += count * (math.prod(shape[:-1]) + math.prod([*shape[:-2], shape[-1]]))
    slots = OPTIMIZERS[optimizer] * (held + small) + (factors if optimizer == "adafactor" else 0)
    return held + small, slots


def _num_layers(config, layer, weight):
    """Return how many weights a line of `LARGE` stands for."""
    if weight == "reverse_embeddings" and config["tie_embeddings"]:
        return 0
    if weight.endswith("_bias") and not config.get("use_expert_bias"):
        return 0
    num_decoder = config.get("num_decoder_layers", 0)
    num_layers = config.get("num_encoder_layers", 0) + num_decoder or config["num_layers"]
    num_mixtures = len(set(config.get("expert_layers", ())))
    counts = {
        "token_embedding": 1,
        "position_embedding": 1 if config.get("num_learned_positions") else 0,
        "transformer_layer_0/mixture_of_experts": num_mixtures,
        "transformer_layer_0/mixture_of_experts/router": num_mixtures,
    }
    for name in ("query", "key", "value", "attention_output"):
        counts[f"transformer_layer_0/self_attention/{name}"] = num_layers + num_decoder
    for name in ("gate", "up", "down") if config["gated_feed_forward"] else ("up", "down"):
        counts[f"transformer_layer_0/feed_forward/{name}"] = num_layers - num_mixtures
    return sum(count for name, count in counts.items() if re.fullmatch(layer, name))
