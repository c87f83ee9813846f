"""One backend per run, named by KERAS_BACKEND; weights and noise start from the same seed."""

import gc
import os

os.environ.setdefault("KERAS_BACKEND", "jax")
# Hundreds of tiny models are compiled once each, here and in processes that tests start: compile
# fast rather than well.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import pytest

if keras.config.backend() == "torch":
    import torch

    torch.set_num_threads(1)  # for tiny matrices, threads cost more than they give

if keras.config.backend() == "tensorflow":
    from tensorflow.python import pywrap_tfe

    # Setting seeds and clearing sessions lets TensorFlow forget what it has built of functions that
    # are called again, for the sake of random operations of its own, which nothing here uses.
    pywrap_tfe.TFE_ContextClearCaches = lambda context: None


@pytest.fixture(autouse=True, scope="module")
def _little_garbage_to_look_through():
    """Keras collects garbage for each layer that it quantizes; what is here now may stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_start():
    keras.utils.clear_session(free_memory=False)  # collecting garbage takes longer than a test
    keras.utils.set_random_seed(0)


def pytest_report_header():
    """Name the backend at the top of the report."""
    return f"keras {keras.__version__} on {keras.config.backend()}"
