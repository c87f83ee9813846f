"""Dozens of tiny models are compiled here once each: compile fast rather than well."""

import keras
import pytest


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    if keras.config.backend() != "jax":
        yield
        return
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
