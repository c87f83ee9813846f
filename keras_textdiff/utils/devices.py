"""What accelerators can hold and compute, as their vendors say."""

import dataclasses

from keras_textdiff.utils.checks import check_choice


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator: one chip of a TPU, or one GPU.

    Attributes:
        memory: int, bytes of high-bandwidth memory. The vendors' GB are taken as 10**9 bytes:
            what programs can use is a little more or less.
        peak_flops: float, floating-point operations per second of dense bfloat16 matrix products.
    """

    memory: int
    peak_flops: float


# Cloud TPU documentation, pages "TPU v5e", "TPU v5p" and "TPU v6e", "peak compute per chip
# (bf16)" and "HBM capacity"; NVIDIA H100 and H200 data sheets, SXM, "BFLOAT16 Tensor Core", half
# of the figures with sparsity (1,979 teraFLOPS both).
DEVICES = {
    "tpu_v5e": Device(16 * 10**9, 197e12),
    "tpu_v5p": Device(95 * 10**9, 459e12),
    "tpu_v6e": Device(32 * 10**9, 918e12),
    "h100": Device(80 * 10**9, 989.5e12),
    "h200": Device(141 * 10**9, 989.5e12),
}


def get_device(name):
    """Return the `Device` of a name in `DEVICES`."""
    return DEVICES[check_choice("device", name, tuple(DEVICES))]
