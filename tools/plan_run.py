"""Print what a training run needs: memory per device, compute, and hours.

    python tools/plan_run.py --size=base --device=tpu_v5e --mesh=8x1 --batch_size=64 --length=512
    python tools/plan_run.py --size=xl --device=tpu_v5e --mesh=16x1 --fully_sharded \\
        --batch_size=256 --length=1024 --tokens=100e9 --json
    python tools/plan_run.py --preset=my_preset --device=h100 --batch_size=32 --length=1024 \\
        --objective=next_token

--mesh is DATAxMODEL: over the first, rows are split, and with --fully_sharded weights as well;
over the second, weights (tensor parallel). The model is a named size (`keras_textdiff.backbones`),
a preset, or a JSON file with a backbone's arguments. Nothing is built and nothing is allocated.
The exit status is 0 if the run fits, with gradient checkpointing at least, else 2.
"""

import json
import pathlib
import sys

import rich.console
import rich.table
from absl import app, flags

from keras_textdiff import objectives
from keras_textdiff.backbones import (
    EncoderDecoderBackbone,
    TransformerBackbone,
    encoder_decoder_config,
    transformer_config,
)
from keras_textdiff.backbones.sizes import SHAPES, VOCABULARY_SIZE
from keras_textdiff.distribution import plan_run
from keras_textdiff.utils.devices import DEVICES, Device

SIZE = flags.DEFINE_enum("size", None, list(SHAPES), "Named size of the model.")
ARCHITECTURE = flags.DEFINE_enum(
    "architecture", "decoder", ["decoder", "encoder_decoder"], "Kind of model of a named size."
)
VOCABULARY = flags.DEFINE_integer("vocabulary_size", VOCABULARY_SIZE, "Of a named size.")
PRESET = flags.DEFINE_string("preset", None, "Folder of a preset, or a handle.")
CONFIG = flags.DEFINE_string("config", None, "JSON file with the arguments of a backbone.")
OBJECTIVE = flags.DEFINE_enum("objective", "sundae", ["sundae", "next_token"], "What is trained.")
UNROLLS = flags.DEFINE_integer("unrolls", 1, "Unroll steps of SUNDAE.", lower_bound=0)
DEVICE = flags.DEFINE_string("device", None, f"One of {sorted(DEVICES)}.", required=True)
MEMORY = flags.DEFINE_float("device_memory", None, "GB of a device, in place of the known number.")
MESH = flags.DEFINE_string("mesh", "1x1", "Devices, DATAxMODEL.")
FULLY_SHARDED = flags.DEFINE_bool("fully_sharded", False, "Split weights over DATA as well.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Rows on all devices.", required=True)
LENGTH = flags.DEFINE_integer("length", None, "Columns of a row.", required=True)
PREFIX_LENGTH = flags.DEFINE_integer("prefix_length", 0, "Columns that an encoder reads.")
DTYPE = flags.DEFINE_string("dtype", "mixed_bfloat16", "Dtype policy.")
OPTIMIZER = flags.DEFINE_string(
    "optimizer", "adamw", "sgd, momentum, lion, adafactor, adam, adamw."
)
MFU = flags.DEFINE_float("mfu", 0.4, "Share of the devices' peak that training reaches.")
TOKENS = flags.DEFINE_float("tokens", None, "Tokens that the run sees.")
JSON = flags.DEFINE_bool("json", False, "Print JSON.")


def read_model():
    """Return what the flags say about the model: a configuration, or a preset."""
    given = [flag for flag in (SIZE, PRESET, CONFIG) if flag.value is not None]
    if len(given) != 1:
        names = [f"--{flag.name}" for flag in given]
        raise ValueError(f"Pass one of --size, --preset and --config. Got {names or 'none'}.")
    if PRESET.value is not None:
        return PRESET.value
    if SIZE.value is not None:
        make = transformer_config if ARCHITECTURE.value == "decoder" else encoder_decoder_config
        return make(SIZE.value, vocabulary_size=VOCABULARY.value)
    try:
        config = json.loads(pathlib.Path(CONFIG.value).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--config is no JSON file that can be read: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError("--config holds no JSON object. Pass a backbone's arguments.")
    cls = EncoderDecoderBackbone if "num_encoder_layers" in config else TransformerBackbone
    unknown = sorted(set(config) - set(cls.complete_config(config)))
    if unknown:
        raise ValueError(f"--config: a {cls.__name__} has no arguments {unknown}.")
    return config


def read_mesh():
    """Return the pair of numbers in --mesh."""
    parts = MESH.value.split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise ValueError(f"--mesh is DATAxMODEL, such as 8x1. Got {MESH.value!r}.")
    return tuple(map(int, parts))


def make_plan():
    """Return the plan that the flags ask for."""
    device = DEVICE.value
    if MEMORY.value is not None:
        peak = DEVICES[device].peak_flops if device in DEVICES else None
        device = device if peak is None else Device(int(MEMORY.value * 1e9), peak)
    objective = objectives.get(OBJECTIVE.value)
    if OBJECTIVE.value == "sundae":
        objective = objectives.Sundae(num_unroll_steps=UNROLLS.value)
    return plan_run(
        read_model(),
        device=device,
        batch_size=BATCH_SIZE.value,
        length=LENGTH.value,
        prefix_length=PREFIX_LENGTH.value,
        objective=objective,
        mesh=read_mesh(),
        fully_sharded=FULLY_SHARDED.value,
        dtype=DTYPE.value,
        optimizer=OPTIMIZER.value,
        mfu=MFU.value,
        num_tokens=TOKENS.value,
    )


def make_tables(plan):
    """Return the plan as two tables for people."""
    memory = rich.table.Table(
        title=f"GB on each of {plan.num_devices} x {DEVICE.value}",
        caption="of gradients, and activations with weights in use, the larger counts",
    )
    memory.add_column("")
    for title in ("as it is", "with gradient checkpointing"):
        memory.add_column(title, justify="right")
    sides = (plan.memory, plan.checkpointed_memory)
    for name in plan.memory:
        if name == "total":
            memory.add_section()
        memory.add_row(name, *(f"{side[name] / 1e9:.2f}" for side in sides))
    memory.add_row(
        f"fits in {plan.device_memory / 1e9:g}, a tenth left free",
        *("yes" if fits else "no" for fits in (plan.fits, plan.fits_checkpointed)),
        style="bold",
    )
    speed = rich.table.Table(show_header=False)
    rows = {
        "parameters": f"{plan.num_parameters:,}",
        "tokens per step": f"{plan.tokens_per_step:,}",
        "operations per token": f"{plan.flops_per_token:.3g}",
        f"tokens per second at an MFU of {plan.mfu:g}": f"{plan.tokens_per_second:,.0f}",
        "seconds per step": f"{plan.seconds_per_step:.3g}",
    }
    if plan.hours is not None:
        rows[f"hours for {TOKENS.value:.3g} tokens"] = f"{plan.hours:,.1f}"
    for name, value in rows.items():
        speed.add_row(name, value)
    return memory, speed


def main(_):
    """Plan, print, and say by the exit status whether it fits."""
    try:
        plan = make_plan()
    except ValueError as error:
        sys.exit(f"error: {error}")
    if JSON.value:
        print(json.dumps(plan.to_dict(), indent=2))
    else:
        rich.console.Console().print(*make_tables(plan))
    sys.exit(0 if plan.fits_checkpointed or plan.fits else 2)


if __name__ == "__main__":
    app.run(main)
