"""What must hold on 8 devices; test_distribution.py runs this in a process that has them."""

import re

import jax
import keras
import numpy as np
import pytest

from keras_textdiff.distribution import layout_map
from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.models.kept_state import JAX_STATE
from keras_textdiff.objectives import Sundae
from keras_textdiff.samplers import SundaeSampler
from keras_textdiff.training import ExactResume, run_state
from keras_textdiff.training.checkpoint_folder import CheckpointFolder
from tests import tiny
from tests.training.runs import KillAfter, Killed

NUM_DEVICES = 8
SIZES = {"vocabulary_size": 64, "hidden_dim": 32, "intermediate_dim": 32, "dropout": 0.1}
CONFIGS = {
    "decoder": {
        **tiny.BACKBONE,
        **SIZES,
        "num_layers": 1,
        "num_query_heads": 8,
        "head_dim": 4,
        "num_learned_positions": 24,
        "num_experts": 8,
        "expert_layers": (0,),
        "use_expert_bias": True,
        "tie_embeddings": False,
    },
    "encoder_decoder": {
        **tiny.ENCODER_DECODER,
        **SIZES,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "tie_embeddings": True,
    },
}
LAYOUTS = {  # name: shape of the mesh, fully sharded
    "data": ((8, 1), False),
    "fully sharded": ((8, 1), True),
    "tensor": ((1, 8), False),
    "both": ((2, 4), True),
}
LAYOUTS_OF = {
    "decoder": ("data", "tensor", "both"),
    "encoder_decoder": ("fully sharded", "both"),
}


@pytest.fixture(autouse=True)
def _one_device():
    assert len(jax.devices()) == NUM_DEVICES
    yield
    keras.distribution.set_distribution(None)


def distribute(config, layout):
    shape, fully_sharded = LAYOUTS[layout]
    mesh = keras.distribution.DeviceMesh(shape, ("batch", "model"))
    layouts = layout_map(config, mesh, fully_sharded=fully_sharded)
    distribution = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    keras.distribution.set_distribution(distribution)


def make_model(name, model_class=DiffusionLM, **config):
    keras.utils.set_random_seed(0)
    make = tiny.encoder_decoder if name == "encoder_decoder" else tiny.backbone
    model = model_class(make(scale=0.2, **CONFIGS[name], **config))
    compile_model(model)
    return model


def compile_model(model, **options):
    """Compile with what is compiled fast."""
    if not isinstance(model, CausalLM):
        options = {
            "objective": Sundae(num_unroll_steps=0),
            "sampler": SundaeSampler(num_denoising_steps=2),
            **options,
        }
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), **options)


def rows_of(name, num_rows):
    make = tiny.encoder_inputs if name == "encoder_decoder" else tiny.inputs
    return make(num_rows, 12, vocabulary_size=64) if make is tiny.inputs else make(num_rows, 12)


def losses(model, name):
    """What training returns for batches of 5 rows, which 2 and 8 devices must fill up."""
    return model.fit(rows_of(name, 10), batch_size=5, epochs=2, verbose=0).history


def predictions(model, name):
    """What else a model returns, before training carries rounding on."""
    rows = rows_of(name, 5)
    prompts = {key: value for key, value in rows.items() if not key.startswith(("target", "prom"))}
    prompts["padding_mask"] = rows["prompt_mask"]
    return {
        "logits": model.predict(rows, verbose=0),
        "scores": model.score(rows),
        "evaluate": model.evaluate(rows, verbose=0),
        "tokens": model.generate(prompts, stop_token_ids=None, seed=1)["token_ids"],
    }


def check_equal(found, expected, tolerance=1e-5):
    assert set(found) == set(expected)
    for name, value in expected.items():
        if name == "tokens":
            np.testing.assert_array_equal(found[name], value)
        else:
            np.testing.assert_allclose(
                found[name], value, rtol=tolerance, atol=tolerance, err_msg=name
            )


def shards(variable):
    """In how many parts a variable is split."""
    value = variable.value
    return value.size // value.addressable_shards[0].data.size


@pytest.mark.parametrize("name", CONFIGS)
def test_results_are_those_of_one_device(name):
    model = make_model(name)
    expected_predictions = predictions(model, name)
    expected = losses(model, name)
    for layout, ((rows, columns), fully_sharded) in LAYOUTS.items():
        if layout not in LAYOUTS_OF[name]:
            continue
        distribute(CONFIGS[name], layout)
        model = make_model(name)
        if layout == "both":
            check_equal(predictions(model, name), expected_predictions)
        check_equal(losses(model, name), expected)
        large = rows * columns if fully_sharded else columns
        variables = {variable.path: variable for variable in model.trainable_variables}
        first = "encoder_layer_0" if name == "encoder_decoder" else "transformer_layer_0"
        embeddings = variables["token_embedding/embeddings"]
        assert shards(embeddings) == large
        slots = [v for v in model.optimizer.variables if v.shape == embeddings.shape]
        assert len(slots) == 1 and shards(slots[0]) == large
        assert shards(variables[f"{first}/attention_norm/scale"]) == 1


def collectives(model, rows):
    """Return `(kind, shapes of its operands)` of all that devices exchange in a training step."""
    state = model._get_jax_state(**dict.fromkeys(JAX_STATE, True))
    layout = keras.distribution.distribution().get_data_layout((8, 12)).backend_layout
    data = {key: jax.device_put(value, layout) for key, value in model.make_checker()(rows).items()}
    text = jax.jit(model.train_step).lower(state, (data,)).compile().as_text()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-bcast"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text)
    return [
        (kind, [tuple(map(int, s.split(","))) if s else () for s in re.findall(r"\[([\d,]*)\]", t)])
        for t, kind in found
    ]


@pytest.mark.parametrize("model_class", [CausalLM, DiffusionLM])
def test_data_parallel_exchanges_gradients_alone(model_class, monkeypatch):
    monkeypatch.setattr("keras_textdiff.objectives.cross_entropy.MAXIMUM_CHUNK", 4)  # 3 chunks
    distribute(CONFIGS["decoder"], "data")
    attention = "causal" if model_class is CausalLM else "bidirectional"
    model = make_model("decoder", model_class, attention=attention)
    if model_class is DiffusionLM:
        compile_model(model, objective="sundae")  # one unroll: two denoiser calls
    model.optimizer.build(model.trainable_variables)
    found = collectives(model, rows_of("decoder", 8))
    assert found and {kind for kind, _ in found} == {"all-reduce"}
    exchanged = [shape for _, shapes in found for shape in shapes if np.prod(shape) > 1]
    gradients = [tuple(variable.shape) for variable in model.trainable_variables]
    # A denoiser is called twice, and XLA on CPU does not add before it reduces.
    calls = 1 if model_class is CausalLM else 2
    assert sum(map(np.prod, exchanged)) <= calls * sum(map(np.prod, gradients))
    assert len(exchanged) == calls * len(gradients)


def test_presets_int8_and_lora(tmp_path):
    make_model("decoder").save_to_preset(tmp_path / "preset")
    rows = rows_of("decoder", 5)
    found = []
    for layout in (None, "both"):
        if layout is not None:
            distribute(tmp_path / "preset", layout)
        keras.utils.set_random_seed(0)  # dropout's generators are seeded from here
        model = DiffusionLM.from_preset(tmp_path / "preset")
        before = model.score(rows)
        model.quantize("int8")
        model.enable_lora(2)
        compile_model(model)
        model.seed_generator.state.assign([1, 2])
        for variable in model.trainable_variables:
            variable.assign(np.full(variable.shape, 0.1))
        history = model.fit(rows, shuffle=False, verbose=0).history
        found.append({"before": before, "after": model.score(rows), **history})
    check_equal({"before": found[0].pop("before")}, {"before": found[1].pop("before")})
    check_equal(*found, tolerance=0.03)  # activations are rounded to int8 as well
    query = model.backbone.transformer_layers[0].self_attention.query
    assert query.quantization_mode == "int8" and shards(query._kernel) == NUM_DEVICES
    assert shards(query.lora_kernel_a) == NUM_DEVICES


def test_a_model_made_before_is_refused():
    model = make_model("decoder")
    distribute(CONFIGS["decoder"], "data")
    with pytest.raises(ValueError, match=r"has 8 devices, and '.*' is on 1"):
        model.fit(rows_of("decoder", 8), verbose=0)


class Note(keras.callbacks.Callback):
    """Keeps what the first step of a run found."""

    found = None

    def on_train_batch_begin(self, batch, logs=None):
        if self.found is None:
            self.found = run_state.copy_variables(self.model)


def test_runs_go_on_with_another_number_of_devices(tmp_path, capsys):
    config = CONFIGS["decoder"]
    rows = rows_of("decoder", 4)
    devices = keras.distribution.list_devices()

    def run(folder, num_devices, *callbacks):
        mesh = keras.distribution.DeviceMesh((num_devices,), ("batch",), devices[:num_devices])
        layouts = layout_map(config, mesh, fully_sharded=True)
        keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layouts))
        model = make_model("decoder")
        resume = ExactResume(folder, save_every_steps=2)
        callbacks = [resume, *callbacks]
        # Batches of one row, which all devices but one fill up.
        return model.fit(rows, batch_size=1, epochs=3, verbose=0, callbacks=callbacks).history

    expected = run(tmp_path / "whole", 1)
    folder = CheckpointFolder(tmp_path / "resumed", 3)
    with pytest.raises(Killed):
        run(folder.path, 1, KillAfter(3))
    for before, after in ((1, 8), (8, 2), (2, 4)):
        saved, _ = folder.read(folder.newest_valid()[0])
        note = Note()
        if after == 4:
            history = run(folder.path, after, note)
        else:
            with pytest.raises(Killed):
                run(folder.path, after, note, KillAfter(3))
        told = f"saved on {before} devices and goes on with {after}"
        assert told in capsys.readouterr().out
        for group in ("model", "optimizer"):
            for key, array in saved[group].items():
                np.testing.assert_array_equal(note.found[group][key], array)
    check_equal(history, expected)
