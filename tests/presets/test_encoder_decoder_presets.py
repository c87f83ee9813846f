"""Presets of models with an encoder, through the same reader and writer."""

import shutil

import keras_hub
import numpy as np
import pytest

from keras_textdiff.backbones import EncoderDecoderBackbone, TransformerBackbone
from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.presets import load_backbone, save_preset
from tests import tiny
from tests.presets.presets import edit, edit_backbone, load, logits, quantize


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("presets") / "saved"
    tiny.encoder_decoder_lm("diffusion").save_to_preset(directory)
    return directory


@pytest.fixture
def preset(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "preset")


def test_a_diffusion_model_comes_back_equal(saved):
    lm, loaded = tiny.encoder_decoder_lm("diffusion"), DiffusionLM.from_preset(saved)
    np.testing.assert_array_equal(logits(loaded), logits(lm))
    assert loaded.preprocessor.prefix_length == 12
    backbone = keras_hub.models.Backbone.from_preset(str(saved))
    expected = {**lm.backbone.get_config(), "name": backbone.name}
    assert backbone.get_config() == {**loaded.backbone.get_config(), "name": backbone.name}
    assert backbone.get_config() == expected


def test_a_causal_model_and_a_backbone_come_back(saved, tmp_path):
    tiny.encoder_decoder_lm("causal").save_to_preset(tmp_path / "causal")
    loaded = CausalLM.from_preset(tmp_path / "causal")
    assert loaded.backbone.attention == "causal"
    np.testing.assert_array_equal(logits(loaded), logits(tiny.encoder_decoder_lm("causal")))
    backbone = EncoderDecoderBackbone.from_preset(saved, attention="causal")
    np.testing.assert_array_equal(logits(CausalLM(backbone)), logits(loaded))
    with pytest.raises(ValueError, match=r"EncoderDecoderBackbone.*not allowed here"):
        load_backbone(saved, backbone_classes=(TransformerBackbone,))


def test_int8_comes_back_equal(tmp_path):
    backbone = tiny.encoder_decoder(num_encoder_layers=1, num_decoder_layers=1)
    lm = quantize(DiffusionLM(backbone), "int8")
    save_preset(lm, tmp_path / "preset")
    loaded = load(tmp_path / "preset")
    np.testing.assert_array_equal(logits(loaded), logits(lm))
    query = loaded.backbone.decoder_layers[0].cross_attention.query
    assert query.quantization_mode == "int8"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_decoder_layers": 10**6}, r"describes 10,848,010,304 parameters, which take .* GB"),
        ({"num_encoder_layers": 2000}, r"config.num_encoder_layers: at most 1024. Got 2000"),
        ({"attention": "prefix"}, "`attention` must be one of"),
        ({"num_layers": 2}, "'num_layers' is not an argument of EncoderDecoderBackbone"),
        ({"vocabulary_size": "33"}, "vocabulary_size"),
    ],
)
def test_bad_configs_are_refused(preset, change, message):
    edit_backbone(preset, change)
    with pytest.raises(ValueError, match=message):
        load(preset, maximum_gigabytes=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefix_length": None}, "needs as `prefix_length` the length"),
        ({"prefix_length": "12"}, "`prefix_length` must be an integer"),
        ({"decoder_start_token_id": 99}, "`decoder_start_token_id` is 99"),
    ],
)
def test_bad_preprocessors_are_refused(preset, change, message):
    edit(preset, {f"config.{k}": v for k, v in change.items()}, ("preprocessor.json",))
    changes = {f"config.preprocessor.config.{k}": v for k, v in change.items()}
    edit(preset, changes, ("task.json",))
    with pytest.raises(ValueError, match=message):
        load(preset)
