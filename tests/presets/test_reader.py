import keras
import keras_hub
import numpy as np
import pytest

from keras_textdiff.backbones import TransformerBackbone
from keras_textdiff.models import (
    CausalLM,
    CausalLMPreprocessor,
    DiffusionLM,
    DiffusionLMPreprocessor,
)
from keras_textdiff.presets import load_backbone, load_preprocessor, save_preset
from tests import tiny
from tests.presets.presets import LAMBDA, diffusion_lm, edit, load, logits, quantize, refused

# === What is good ===


@pytest.mark.parametrize("handle", [str, lambda path: path])
def test_a_task_comes_back_equal(saved, handle):
    lm, loaded = diffusion_lm(), load(handle(saved))
    np.testing.assert_array_equal(logits(loaded), logits(lm))
    assert type(loaded) is DiffusionLM
    assert loaded.get_config() == lm.get_config()
    assert loaded.preprocessor.tokenizer(["the hen"]) == [[29, 27, 8, 5, 14]]


def test_every_class_of_the_family_is_found(tmp_path):
    save_preset(tiny.causal_lm(), tmp_path / "causal")
    loaded = load(tmp_path / "causal", keras_hub.models.Task)
    assert type(loaded) is CausalLM
    np.testing.assert_array_equal(logits(loaded), logits(tiny.causal_lm()))
    refused(tmp_path / "causal", "task.json", "CausalLM", "DiffusionLM", "ar2diff")


def test_without_weights_or_preprocessor(preset):
    (preset / "model.weights.h5").unlink()
    loaded = load(preset, load_weights=False, preprocessor=None, logit_shift=True, name="other")
    assert loaded.preprocessor is None
    assert loaded.logit_shift
    assert loaded.name == "other"
    assert np.abs(logits(loaded) - logits(diffusion_lm())).max() > 0.1


def test_a_backbone_alone_gives_a_task_with_defaults(tmp_path):
    backbone = tiny.backbone()
    save_preset(backbone, tmp_path / "preset")
    loaded = load(tmp_path / "preset")
    assert loaded.preprocessor is None
    np.testing.assert_array_equal(logits(loaded), logits(DiffusionLM(backbone)))
    tiny.tokenizer().save_to_preset(str(tmp_path / "preset"))
    refused(tmp_path / "preset", "assets/tokenizer/merges.txt", "not listed", "checksums.json")
    (tmp_path / "preset" / "checksums.json").unlink()
    assert isinstance(load(tmp_path / "preset").preprocessor, DiffusionLMPreprocessor)


def test_backbone_and_preprocessor_alone(saved):
    arguments = {"backbone_classes": (TransformerBackbone,)}
    loaded = load_backbone(saved, **arguments, attention="causal", dtype="bfloat16")
    assert loaded.attention == "causal"
    assert loaded.dtype_policy.name == "bfloat16"
    with pytest.raises(ValueError, match=r"'atention' is not.*Did you mean 'attention'"):
        load_backbone(saved, **arguments, atention="causal")
    arguments = {"preprocessor_classes": (DiffusionLMPreprocessor, CausalLMPreprocessor)}
    loaded = load_preprocessor(saved, DiffusionLMPreprocessor, **arguments, sequence_length=7)
    assert loaded(["the hen"])["token_ids"].shape == (1, 7)
    with pytest.raises(ValueError, match="holds a DiffusionLMPreprocessor, not a CausalLMPre"):
        load_preprocessor(saved, CausalLMPreprocessor, **arguments)


def test_a_preprocessor_saved_alone(tmp_path):
    preprocessor = diffusion_lm(sequence_length=7).preprocessor
    preprocessor.save_to_preset(str(tmp_path))
    loaded = DiffusionLMPreprocessor.from_preset(tmp_path)
    assert loaded.get_config() == preprocessor.get_config()
    np.testing.assert_array_equal(
        loaded(["the hen"])["token_ids"], preprocessor(["the hen"])["token_ids"]
    )
    with pytest.raises(ValueError, match=r"has no config\.json"):
        DiffusionLM.from_preset(tmp_path)
    edit(tmp_path, {"config.tokenizer": LAMBDA}, ("preprocessor.json",))
    with pytest.raises(ValueError, match=r"Lambda.*not allowed here"):
        DiffusionLMPreprocessor.from_preset(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="neither a preprocessor nor a tokenizer"):
        DiffusionLMPreprocessor.from_preset(tmp_path / "empty")


class Mine(DiffusionLM):
    """A class of the user, with an argument of its own."""

    def __init__(self, backbone, preprocessor=None, level=1, **kwargs):
        super().__init__(backbone, preprocessor, **kwargs)
        self.level = level

    def get_config(self):
        return {**super().get_config(), "level": self.level}


@keras.saving.register_keras_serializable("theirs")
class Registered(CausalLM):
    pass


def test_a_class_of_the_user_loads_itself(tmp_path):
    twin = diffusion_lm()
    Mine(twin.backbone, twin.preprocessor, level=3).save_to_preset(tmp_path / "mine")
    loaded = Mine.from_preset(tmp_path / "mine")
    assert type(loaded) is Mine
    assert loaded.level == 3
    np.testing.assert_array_equal(logits(loaded), logits(twin))
    twin = tiny.causal_lm()
    Registered(twin.backbone).save_to_preset(tmp_path / "registered")
    assert type(Registered.from_preset(tmp_path / "registered")) is Registered
    for cls, name in ((DiffusionLM, "mine"), (Registered, "mine"), (CausalLM, "registered")):
        with pytest.raises(ValueError, match=r"not allowed here.*own is loaded by its own `from"):
            cls.from_preset(tmp_path / name)
    edit(tmp_path / "mine", {"config.level": LAMBDA}, ("task.json",))
    with pytest.raises(ValueError, match=r"Lambda.*not allowed here"):
        Mine.from_preset(tmp_path / "mine")


@pytest.mark.parametrize("limit", ["x", True, -1.0, float("nan")])
def test_a_limit_that_is_no_number_is_refused(saved, limit):
    refused(saved, "`maximum_gigabytes` must be", maximum_gigabytes=limit)


def test_keras_hub_reads_it_too(saved):
    loaded = keras_hub.models.Backbone.from_preset(str(saved))
    assert loaded.get_config() == load(saved).backbone.get_config()
    for first, second in zip(loaded.weights, load(saved).backbone.weights, strict=True):
        np.testing.assert_array_equal(tiny.to_numpy(first), tiny.to_numpy(second))


def test_presets_of_keras_hub_are_read_without_checksums(tmp_path, keras_hub_saves):
    lm = diffusion_lm()
    keras_hub.models.Task.save_to_preset(lm, str(tmp_path / "preset"))
    np.testing.assert_array_equal(logits(load(tmp_path / "preset")), logits(lm))


# === Dtypes ===


def test_dtype_follows_keras_hub(tmp_path):
    save_preset(diffusion_lm(dtype="bfloat16"), tmp_path / "preset")
    assert load(tmp_path / "preset").backbone.dtype_policy.name == "float32"
    assert load(tmp_path / "preset", dtype="bfloat16").backbone.dtype_policy.name == "bfloat16"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert load(tmp_path / "preset").backbone.dtype_policy.name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)


def test_bfloat16_weights_come_back_equal(tmp_path):
    lm = diffusion_lm(dtype="bfloat16")
    save_preset(lm, tmp_path / "preset")
    np.testing.assert_array_equal(logits(load(tmp_path / "preset", dtype="bfloat16")), logits(lm))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantized_tasks_come_back_equal_and_can_be_saved_again(tmp_path, mode, dtype):
    lm = quantize(DiffusionLM(tiny.backbone(num_layers=1, dtype=dtype, tie_embeddings=False)), mode)
    expected = logits(lm)
    for name in ("first", "second"):
        save_preset(lm, tmp_path / name)
        lm = load(tmp_path / name)
        np.testing.assert_array_equal(logits(lm), expected)
    assert lm.backbone.transformer_layers[0].self_attention.query.quantization_mode == mode
    assert lm.backbone.compute_dtype == dtype


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantizers_that_a_preset_cannot_hold_are_refused(tmp_path, mode):
    configs = keras.quantizers
    config = {
        "int8": configs.Int8QuantizationConfig(activation_quantizer=None),
        "int4": configs.Int4QuantizationConfig(
            activation_quantizer=configs.AbsMaxQuantizer(), block_size=None
        ),
    }[mode]
    lm = quantize(DiffusionLM(tiny.backbone(num_layers=1)), mode, config=config)
    with pytest.raises(ValueError, match=f"{mode}.*Save the model before `quantize`"):
        save_preset(lm, tmp_path / "preset")
    assert not (tmp_path / "preset").exists()


@pytest.mark.filterwarnings("ignore:The use of `x.T`")  # Keras', on torch
def test_a_requested_dtype_leaves_the_quantization(tmp_path):
    lm = quantize(DiffusionLM(tiny.backbone(num_layers=1, scale=0.1)), "int8")
    save_preset(lm, tmp_path / "preset")
    loaded = load(tmp_path / "preset", dtype="bfloat16")
    layer = loaded.backbone.transformer_layers[0].self_attention.query
    assert (layer.compute_dtype, layer.quantization_mode) == ("bfloat16", "int8")
    np.testing.assert_allclose(logits(loaded), logits(lm), atol=0.1)


def test_low_rank_updates_are_merged(tmp_path):
    lm = diffusion_lm()
    before = logits(lm)
    lm.enable_lora(2)
    tiny.set_weights(lm, scale=0.3)
    save_preset(lm, tmp_path / "preset")
    assert np.abs(logits(lm) - before).max() > 0.1
    np.testing.assert_allclose(logits(load(tmp_path / "preset")), logits(lm), atol=1e-5)
