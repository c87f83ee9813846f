"""Layout maps: which variables are split, and that several devices compute what one does."""

import functools
import re

import keras
import numpy as np
import pytest

from keras_textdiff.backbones import EncoderDecoderBackbone, TransformerBackbone
from keras_textdiff.backbones.sizes import transformer_config
from keras_textdiff.distribution import layout_map
from keras_textdiff.models import DiffusionLM
from keras_textdiff.models.changed_weights import LORA_LAYERS
from tests import tiny
from tests.processes import run_on_eight_devices

on_jax = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="keras.distribution works on jax alone"
)
MESHES = [(8, 1), (2, 4), (1, 8)]
EVERYTHING = {
    **tiny.BACKBONE,
    "rope": None,
    "tie_embeddings": False,
    "num_learned_positions": 16,
    "num_position_buckets": 8,
    "num_experts": 4,
    "expert_layers": (1,),
    "use_expert_bias": True,
    "use_qkv_bias": True,
    "use_attention_output_bias": True,
    "use_feed_forward_bias": True,
    "query_key_normalization": True,
    "use_attention_sinks": True,
    "use_post_normalization": True,
    "normalization": "layer",
}
BACKBONES = {
    "everything": (TransformerBackbone, EVERYTHING),
    "encoder_decoder": (EncoderDecoderBackbone, tiny.ENCODER_DECODER),
}


def make_mesh(shape, names=("batch", "model")):
    devices = [f"cpu:{index}" for index in range(np.prod(shape))]
    return keras.distribution.DeviceMesh(shape, names, devices)


@functools.cache
def build(name):
    """A backbone with dimensions that all divide, as those of real models do."""
    cls, config = BACKBONES[name]
    sizes = {"vocabulary_size": 64, "num_query_heads": 8, "num_key_value_heads": 8}
    if config.get("num_experts"):
        sizes["num_experts"] = 8
    return cls(**{**config, **sizes})


@functools.cache
def variables(name):
    """Paths and shapes of all variables, those of LoRA and int8 included; and paths of layers."""
    cls, config = BACKBONES[name]
    model = DiffusionLM(cls(**config))
    layers = model.backbone._flatten_layers(include_self=False)
    names = {layer.name for layer in layers if isinstance(layer, LORA_LAYERS)}
    model.enable_lora(2, target_layer_names=sorted(names))
    model.quantize("int8")
    shapes = {v.path: tuple(v.shape) for v in model.backbone.variables}
    return shapes, {layer.path for layer in layers if layer.path}


@on_jax
@pytest.mark.parametrize("fully_sharded", [False, True])
@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("name", BACKBONES)
def test_each_variable_matches_one_pattern(name, shape, fully_sharded):
    layouts = layout_map(BACKBONES[name][1], make_mesh(shape), fully_sharded=fully_sharded)
    shapes, layer_paths = variables(name)
    sizes = dict(zip(("batch", "model"), shape, strict=True))
    for path, variable_shape in shapes.items():
        patterns = [pattern for pattern in layouts if re.fullmatch(pattern, path)]
        assert len(patterns) == 1, (path, patterns)
        axes = layouts[path].axes
        assert len(axes) in (0, len(variable_shape)), path
        for axis, size in zip(axes, variable_shape, strict=False):
            assert axis is None or size % sizes[axis] == 0, path
    for path in layer_paths:  # a layer's path would lay out what it returns
        assert layouts[path] is None


@on_jax
@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("name", BACKBONES)
def test_no_large_variable_is_replicated_by_accident(name, shape):
    wanted = {axis for axis, size in zip(("batch", "model"), shape, strict=True) if size > 1}
    for fully_sharded in (False, True):
        layouts = layout_map(build(name), make_mesh(shape), fully_sharded=fully_sharded)
        for variable in build(name).variables:
            expected = wanted if fully_sharded else wanted - {"batch"}
            if len(variable.shape) == 1 or re.search("/(bias|ahead)$", variable.path):
                expected = set()
            elif variable.path.endswith("router/kernel"):  # tokens need all experts' weights
                expected = expected - {"model"}
            assert set(layouts[variable.path].axes) - {None} == expected, variable.path


@on_jax
def test_dimensions_that_do_not_divide_stay_whole():
    config = {**transformer_config("tiny", vocabulary_size=50257), "num_query_heads": 3}
    config["num_key_value_heads"] = 3
    layouts = layout_map(config, make_mesh((2, 2)), fully_sharded=True)
    assert layouts["token_embedding/embeddings"].axes == (None, "model")
    query = "transformer_layer_0/self_attention/query/kernel"
    assert layouts[query].axes == ("model", None, "batch")
    config.update(hidden_dim=33, head_dim=5)
    layouts = layout_map(config, make_mesh((2, 2)), fully_sharded=True)
    assert layouts["token_embedding/embeddings"].axes == layouts[query].axes[:2] == (None, None)
    up = "transformer_layer_0/feed_forward/up/kernel"
    assert layouts[up].axes == (None, "model")


@on_jax
def test_a_mesh_with_one_axis():
    query = "transformer_layer_0/self_attention/query/kernel"
    for name, axes in (("batch", (None, None, None)), ("model", (None, "model", None))):
        layouts = layout_map(tiny.BACKBONE, make_mesh((4,), (name,)))
        assert layouts[query].axes == axes


@on_jax
def test_refusals(tmp_path):
    mesh = make_mesh((2, 4))
    with pytest.raises(ValueError, match=r"must be a keras\.distribution\.DeviceMesh"):
        layout_map(tiny.BACKBONE, (2, 4))
    with pytest.raises(ValueError, match=r'are "batch" .*Got \[\'data\', \'model\'\]'):
        layout_map(tiny.BACKBONE, make_mesh((2, 4), ("data", "model")))
    with pytest.raises(ValueError, match=r"Got DiffusionLM\. Pass its `backbone`"):
        layout_map(tiny.diffusion_lm(), mesh)
    with pytest.raises(ValueError, match="needs \\['num_layers'"):
        layout_map({"vocabulary_size": 3}, mesh)
    with pytest.raises(ValueError, match="missing"):
        layout_map(tmp_path / "missing", mesh)


@pytest.mark.skipif(keras.config.backend() == "jax", reason="about the other backends")
def test_other_backends_say_that_they_cannot():
    with pytest.raises(ValueError, match="splits models and batches on jax alone"):
        layout_map(tiny.BACKBONE, None)
    lm = tiny.diffusion_lm()
    lm.compile()
    with keras.distribution.DataParallel(devices=["cpu:0"]).scope():
        for method in (lm.fit, lm.evaluate, lm.predict, lm.score):
            with pytest.raises(ValueError, match="it would do nothing"):
                method(tiny.inputs())


@on_jax
def test_eight_devices():
    """Runs eight_devices.py; on other backends, and with other devices, it cannot."""
    run_on_eight_devices("tests/distribution/eight_devices.py")
