"""Whether a model fits into this machine, found out before it is built."""

import math
import os

import keras

from keras_textdiff.presets.schema import below
from keras_textdiff.utils.checks import check_number

# However small a layer is, it takes time and Python objects.
MAXIMUM_LAYERS = 1024
LAYER_COUNTS = ("num_layers", "num_encoder_layers", "num_decoder_layers")


def machine_gigabytes():
    """Return the memory of this machine in GB (10**9 bytes)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def check_memory(backbone, policy, maximum_gigabytes=None):
    """Raise a ValueError where a backbone's weights would not fit.

    Args:
        backbone: `Serialized` backbone; its class has `parameter_count_from_config`.
        policy: dtype policy's name, `keras.DTypePolicy` or None for the default one.
        maximum_gigabytes: float, infinite for no limit, or None for this machine's memory.
    """
    if maximum_gigabytes not in (None, math.inf):
        check_number("maximum_gigabytes", maximum_gigabytes, minimum=0)
    try:
        count = backbone.cls.parameter_count_from_config(backbone.config)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{below(backbone.where, 'config')}: {error}") from error
    policy = keras.dtype_policies.get(policy)
    size = bytes_per_parameter(policy)
    limit = machine_gigabytes() if maximum_gigabytes is None else maximum_gigabytes
    gigabytes = count * size / 1e9
    if gigabytes > limit:
        raise ValueError(
            f"{below(backbone.where, 'config')}: describes {count:,} parameters, which take "
            f"{gigabytes:,.1f} GB in {policy.name}; {limit:,.1f} GB are allowed"
            f"{' (the memory of this machine)' if maximum_gigabytes is None else ''}. Correct "
            "the sizes, use a smaller dtype, or pass `maximum_gigabytes`."
        )
    for name in LAYER_COUNTS:
        layers = backbone.config.get(name, 1)
        if layers > MAXIMUM_LAYERS:
            place = below(backbone.where, f"config.{name}")
            raise ValueError(f"{place}: at most {MAXIMUM_LAYERS}. Got {layers}.")


def bytes_per_parameter(policy):
    """Return the bytes of one weight; for a quantized model, of one quantized weight."""
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        return min(map(bytes_per_parameter, [policy.default_policy, *policy.values()]))
    modes = {"int8": 1.0, "int4": 0.5}
    sizes = {"float16": 2, "bfloat16": 2, "float64": 8}
    return modes.get(policy.quantization_mode, sizes.get(policy.variable_dtype, 4))
