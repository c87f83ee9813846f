"""One backend per run, named by KERAS_BACKEND; weights and noise start from the same seed."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import pytest

if keras.config.backend() == "jax":
    import jax

    # Hundreds of tiny models are compiled once each: compile fast rather than well.
    jax.config.update("jax_disable_most_optimizations", True)

if keras.config.backend() == "torch":
    import torch

    torch.set_num_threads(1)  # for tiny matrices, threads cost more than they give


@pytest.fixture(autouse=True)
def _same_start():
    keras.utils.clear_session(free_memory=False)  # collecting garbage takes longer than a test
    keras.utils.set_random_seed(0)


def pytest_report_header():
    """Name the backend at the top of the report."""
    return f"keras {keras.__version__} on {keras.config.backend()}"
