"""Plans against what XLA says about compiled steps; test_plan_run.py runs this on 8 devices."""

import jax
import keras
import numpy as np
import pytest

from keras_textdiff.backbones import TransformerBackbone, transformer_config
from keras_textdiff.backbones.flops import forward_flops, training_flops
from keras_textdiff.distribution import layout_map, plan_run
from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.models.kept_state import JAX_STATE
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


CASES = {  # mesh, fully sharded, objective, gradient checkpointing, changes of the configuration
    "sundae": ((1, 1), False, "sundae", False, {}),
    "checkpointing": ((1, 1), False, "next_token", True, {}),
    "data parallel": ((8, 1), False, "next_token", False, {}),
    "tensor parallel": ((1, 8), False, "next_token", False, {"tie_embeddings": False}),
    "both": ((2, 4), True, "sundae", False, {}),
}  # fmt: skip
ROWS, LENGTH = 8, 128  # of each group: one chunk of logits, because XLA counts a loop once


@pytest.mark.parametrize("name", CASES)
def test_plans_are_what_xla_says(name):
    mesh, fully_sharded, objective, checkpointing, changes = CASES[name]
    config = {**CONFIG, **changes, "gradient_checkpointing": checkpointing}
    batch_size = ROWS * mesh[0]
    compiled = compile_step(config, batch_size, LENGTH, objective, mesh, fully_sharded)
    plan = plan_run(
        config,
        device=DEVICE,
        batch_size=batch_size,
        length=LENGTH,
        objective=objective,
        mesh=mesh,
        fully_sharded=fully_sharded,
        dtype="float32",
    )
    memory = plan.checkpointed_memory if checkpointing else plan.memory
    measured = compiled.memory_analysis()
    held = memory["weights"] + memory["optimizer"]
    assert measured.argument_size_in_bytes == pytest.approx(held, rel=0.02)
    assert measured.output_size_in_bytes == pytest.approx(held, rel=0.02)

    complete = TransformerBackbone.complete_config(config)
    passes = 2 if objective == "sundae" else 1
    flops = training_flops(complete, LENGTH, num_passes=passes, all_experts=True)
    if checkpointing:  # all but the logits, once more
        _, again = forward_flops(complete, LENGTH)
        logits = LENGTH * 2 * complete["vocabulary_size"] * complete["hidden_dim"]
        flops += passes * (again - logits)
    found = {
        "flops": (compiled.cost_analysis()["flops"], ROWS * flops / mesh[1]),
        "temporary": (measured.temp_size_in_bytes, memory["total"] - held),
    }
    for measure, (actual, planned) in found.items():
        print(f"{name}: {measure} {actual / 1e6:.1f}, planned {planned / actual:.3f} of it")
    for actual, planned in found.values():
        assert planned == pytest.approx(actual, rel=0.15)
