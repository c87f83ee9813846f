"""Plans against what XLA says about compiled steps; test_plan_run.py runs this on 8 devices."""

import jax
import keras
import numpy as np
import pytest

from keras_textdiff.backbones import TransformerBackbone, transformer_config
from keras_textdiff.backbones.flops import training_flops
from keras_textdiff.distribution import layout_map, plan_run
from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.models.kept_state import JAX_STATE
from keras_textdiff.objectives import Sundae
from keras_textdiff.utils.devices import Device

DEVICE = Device(10**9, 1e12)
CONFIG = {
    **transformer_config("tiny", vocabulary_size=1024),
    "num_query_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
    "hidden_dim": 256,
    "intermediate_dim": 512,
}


@pytest.fixture(autouse=True)
def _as_compiled_for_use():
    assert len(jax.devices()) == 8
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    keras.distribution.set_distribution(None)


def compile_step(config, batch_size, length, objective, mesh=(1, 1), fully_sharded=False):
    """Return XLA's compiled training step, as Keras has it compiled."""
    if mesh != (1, 1):
        devices = [f"cpu:{index}" for index in range(mesh[0] * mesh[1])]
        device_mesh = keras.distribution.DeviceMesh(mesh, ("batch", "model"), devices)
        layouts = layout_map(config, device_mesh, fully_sharded=fully_sharded)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
        )
    causal = objective == "next_token"
    attention = "causal" if causal else "bidirectional"
    backbone = TransformerBackbone(**config, attention=attention)
    model = (CausalLM if causal else DiffusionLM)(backbone)
    model.compile(keras.optimizers.AdamW(1e-4), objective=objective)
    model.optimizer.build(model.trainable_variables)
    state = model._get_jax_state(**dict.fromkeys(JAX_STATE, True))
    rows = model.make_checker()({"token_ids": np.zeros((batch_size, length), "int32")})
    rows = {name: jax.numpy.asarray(value) for name, value in rows.items()}
    shardings = None
    if mesh != (1, 1):
        layout = keras.distribution.distribution().get_data_layout((batch_size, length))
        rows = {k: jax.device_put(v, layout.backend_layout) for k, v in rows.items()}
        shardings = (None, model._get_state_sharding_spec())
    step = jax.jit(model.train_step, donate_argnums=0, out_shardings=shardings)
    return step.lower(state, (rows,)).compile()
