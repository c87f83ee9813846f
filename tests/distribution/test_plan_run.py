"""Plans: arithmetic that can be checked by hand, what Keras makes, and what XLA says."""

import math

import keras
import pytest

from keras_textdiff.backbones import encoder_decoder_config, transformer_config
from keras_textdiff.distribution import plan_run
from keras_textdiff.distribution.plan_run import OPTIMIZERS
from keras_textdiff.objectives import Sundae
from keras_textdiff.utils.devices import Device
from tests import tiny
from tests.processes import run_on_eight_devices

RUN = {"device": "tpu_v5e", "batch_size": 8, "length": 64}
KERAS_OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "lion": lambda: keras.optimizers.Lion(0.1),
    "adafactor": lambda: keras.optimizers.Adafactor(0.1),
    "adam": lambda: keras.optimizers.Adam(0.1),
    "adamw": lambda: keras.optimizers.AdamW(0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_are_what_keras_makes(optimizer):
    backbone = tiny.backbone(num_experts=2, expert_layers=(1,), num_learned_positions=64)
    made = KERAS_OPTIMIZERS[optimizer]()
    made.build(backbone.trainable_variables)
    numbers = sum(math.prod(variable.shape) for variable in made.variables)
    plan = plan_run(backbone, **RUN, optimizer=optimizer)
    assert plan.memory["weights"] == 4 * backbone.count_params()
    # Besides, there are counters and learning rates.
    assert plan.memory["optimizer"] == pytest.approx(4 * numbers, rel=0.002, abs=16)


@pytest.mark.backend_free
def test_numbers_by_hand():
    config = transformer_config("base")
    plan = plan_run(config, device="h100", batch_size=64, length=512, num_tokens=1e9, mfu=0.5)
    assert plan.num_parameters == 281_562_624
    assert plan.tokens_per_step == 64 * 512
    # Two passes of 6 operations per weight, and attention's.
    matrices = 256_000 * 768 + 12 * (4 * 768 * 768 + 3 * 768 * 2048)
    per_token = 2 * (6 * matrices + 12 * 12 * 512 * 768)
    assert plan.flops_per_token == per_token
    assert plan.tokens_per_second == pytest.approx(0.5 * 989.5e12 / per_token)
    assert plan.seconds_per_step == pytest.approx(64 * 512 / plan.tokens_per_second)
    assert plan.hours == pytest.approx(1e9 / plan.tokens_per_second / 3600)
    memory = plan.memory
    assert memory["weights"] == memory["gradients"] == memory["optimizer"] / 2 == 4 * 281_562_624
    assert memory["weights in use"] == 2 * 281_562_624  # in bfloat16
    # 4 D, 4 H and 5 F in bfloat16, and two scores of a query, key and head in six bytes.
    kept = 2 * (8 * 768 + 5 * 2048) + 6 * 12 * 512
    assert memory["activations"] == 2 * 12 * 64 * 512 * kept
    chunk = 64 * 512 // -(-64 * 512 // (2**24 // 256_000))
    assert memory["logits"] == pytest.approx(2 * 4 * 256_000 * (chunk + 2 * 768), rel=0.01)
    smaller = min(memory["gradients"], memory["weights in use"] + memory["activations"])
    assert memory["total"] == sum(memory.values()) - memory["total"] - smaller
    # With position biases, the float32 gradients of all scores until they are summed.
    assert plan.checkpointed_memory["activations"] == 2 * 12 * 64 * 512 * 4 * 12 * 512
    rotary = {**config, "num_position_buckets": None, "rope": {"theta": 10000.0}}
    rotary = plan_run(rotary, device="h100", batch_size=64, length=512).checkpointed_memory
    assert rotary["activations"] == 2 * 12 * 64 * 512 * 2 * 768
    fits = Device(int(plan.checkpointed_memory["total"] / 0.9) + 1, 1e12)
    plan = plan_run(config, device=fits, batch_size=64, length=512)
    assert (plan.fits, plan.fits_checkpointed) == (False, True)


@pytest.mark.backend_free
def test_more_devices_hold_less():
    config = transformer_config("xl")
    whole = plan_run(config, **RUN).memory
    tensor = plan_run(config, **RUN, mesh=(1, 8)).memory
    data = plan_run(config, **RUN, mesh=(8, 1)).memory
    sharded = plan_run(config, **RUN, mesh=(8, 1), fully_sharded=True).memory
    assert data["weights"] == whole["weights"]
    assert data["activations"] == whole["activations"] / 8
    for name in ("weights", "optimizer", "gradients"):
        assert tensor[name] == pytest.approx(whole[name] / 8, rel=1e-3)
        assert sharded[name] == tensor[name]
    assert sharded["weights in use"] == whole["weights in use"]
    assert tensor["logits"] == whole["logits"] / 8
    once = plan_run(config, **RUN, objective="next_token")
    twice = plan_run(config, **RUN, objective=Sundae(num_unroll_steps=1))
    assert 2 * once.flops_per_token == twice.flops_per_token
    assert 2 * once.memory["activations"] == twice.memory["activations"]
    floats = plan_run(config, **RUN, dtype="float32").memory
    assert floats["weights in use"] == 0 and floats["weights"] == whole["weights"]


@pytest.mark.backend_free
def test_an_encoder_reads_once():
    config = encoder_decoder_config("base")
    plans = [
        plan_run(config, **RUN, prefix_length=128, objective=Sundae(unrolls)) for unrolls in (0, 1)
    ]
    first, second = (plan.flops_per_token for plan in plans)
    assert plans[0].tokens_per_step == 8 * (64 + 128)
    assert 1 < second / first < 2
    first, second = (plan.memory["activations"] for plan in plans)
    assert 1 < second / first < 2


@pytest.mark.backend_free
def test_bad_input(tmp_path):
    config = transformer_config("tiny")
    for changes, message in (
        ({"device": "tpu_v9"}, r"`device` must be one of \['tpu_v5e'.*Got 'tpu_v9'"),
        ({"optimizer": "shampoo"}, "`optimizer` must be one of"),
        ({"mesh": (3, 1)}, r"divide among the 3 groups .* Got 8: take 9"),
        ({"mesh": (0, 1)}, "`mesh entry` must be at least 1"),
        ({"mesh": 8}, "`mesh` is .*Got 8"),
        ({"mfu": 1.5}, r"share of the peak, in \(0, 1\]. Got 1.5"),
        ({"length": 0}, "`length` must be at least 1"),
        ({"prefix_length": 3}, "goes with an encoder-decoder.* TransformerBackbone"),
        ({"num_tokens": 0}, "`num_tokens` must be at least 1"),
        ({"objective": "mlm"}, "Unknown objective"),
    ):
        with pytest.raises(ValueError, match=message):
            plan_run(config, **{**RUN, **changes})
    with pytest.raises(ValueError, match=r"goes with an encoder-decoder.* of 0"):
        plan_run(encoder_decoder_config("tiny"), **RUN)
    with pytest.raises(ValueError, match=r"has 32 learned positions. Got a length of 64"):
        plan_run({**config, "num_learned_positions": 32}, **RUN)
    with pytest.raises(ValueError, match="missing"):
        plan_run(tmp_path / "missing", **RUN)


@pytest.mark.skipif(keras.config.backend() != "jax", reason="about XLA")
def test_what_xla_says():
    """Runs plan_devices.py on 8 virtual devices, scheduled for memory as accelerators are."""
    scheduler = "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
    run_on_eight_devices("tests/distribution/plan_devices.py", scheduler)
