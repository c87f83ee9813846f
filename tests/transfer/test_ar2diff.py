import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_textdiff.models import (
    CausalLM,
    CausalLMPreprocessor,
    DiffusionLM,
    DiffusionLMPreprocessor,
)
from keras_textdiff.transfer import ar2diff, convert_backbone
from keras_textdiff.transfer.load_source import is_diffusion_preset
from tests import tiny
from tests.transfer.source_backbones import (
    assert_close,
    make_inputs,
    make_source,
    own_logits,
    sorted_values,
    source_logits,
)


def make_tokenizer():
    tokens = ["<|endoftext|>", *"abcdefgh", "Ġ", "Ġa"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return keras_hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=["Ġ a"])


def make_causal_lm(sequence_length=12):
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        make_tokenizer(), sequence_length=sequence_length
    )
    return keras_hub.models.GPT2CausalLM(make_source("gpt2"), preprocessor)


def check(lm, backbone):
    """Assert that `lm` is a diffusion model with the weights of `backbone`."""
    assert type(lm) is DiffusionLM
    assert lm.backbone.attention == "bidirectional"
    np.testing.assert_array_equal(sorted_values(lm.backbone), sorted_values(backbone))


def test_keras_hub_task_brings_its_tokenizer():
    causal_lm = make_causal_lm()
    causal_lm.preprocessor.add_start_token = False
    lm = ar2diff(causal_lm)
    check(lm, causal_lm.backbone)
    assert type(lm.preprocessor) is DiffusionLMPreprocessor
    assert lm.preprocessor.tokenizer is causal_lm.preprocessor.tokenizer
    assert lm.preprocessor.sequence_length == 12
    assert lm.preprocessor.add_start_token is False


def test_task_without_a_preprocessor():
    causal_lm = keras_hub.models.GPT2CausalLM(make_source("gpt2"))
    lm = ar2diff(causal_lm)
    check(lm, causal_lm.backbone)
    assert lm.preprocessor is None


def test_keras_hub_backbone():
    backbone = make_source("llama2")
    check(ar2diff(backbone), backbone)


def test_own_causal_lm_and_its_backbone():
    backbone = convert_backbone(make_source("gpt2"), attention="causal")
    preprocessor = CausalLMPreprocessor(make_tokenizer(), sequence_length=9)
    lm = ar2diff(CausalLM(backbone, preprocessor))
    check(lm, backbone)
    assert lm.preprocessor.sequence_length == 9
    check(ar2diff(backbone), backbone)


def test_options_reach_the_model():
    backbone = make_source("gpt2")
    lm = ar2diff(backbone, attention="block", block_length=4, logit_shift=True, dtype="bfloat16")
    assert (lm.backbone.attention, lm.backbone.block_length) == ("block", 4)
    assert lm.logit_shift is True
    assert {variable.dtype for variable in lm.backbone.weights} == {"bfloat16"}
    assert ar2diff(backbone, attention="prefix").backbone.attention == "prefix"


def test_source_survives_training():
    causal_lm = make_causal_lm()
    inputs = make_inputs()
    before = source_logits(causal_lm.backbone, inputs)
    lm = ar2diff(causal_lm)
    lm.compile(objective="sundae", sampler="sundae")
    lm.fit({"prompts": ["ab", "a"], "responses": ["cd", "ef"]}, batch_size=2, verbose=0)
    assert not np.array_equal(sorted_values(lm.backbone), sorted_values(causal_lm.backbone))
    np.testing.assert_array_equal(source_logits(causal_lm.backbone, inputs), before)


@pytest.mark.parametrize("as_path", [False, True])
def test_local_preset_of_keras_hub(tmp_path, as_path):
    causal_lm = make_causal_lm()
    causal_lm.save_to_preset(str(tmp_path))
    lm = ar2diff(tmp_path if as_path else str(tmp_path))
    check(lm, causal_lm.backbone)
    assert lm.preprocessor.sequence_length == 12
    assert lm.preprocessor.tokenizer.vocabulary_size() == make_tokenizer().vocabulary_size()


def test_preset_is_loaded_in_the_dtype_asked_for(tmp_path):
    make_causal_lm().save_to_preset(str(tmp_path))
    lm = ar2diff(tmp_path, dtype="bfloat16")
    assert {variable.dtype for variable in lm.backbone.weights} == {"bfloat16"}


def test_local_preset_of_ours(tmp_path):
    backbone = convert_backbone(make_source("gpt2"), attention="causal")
    CausalLM(backbone).save_to_preset(str(tmp_path))
    check(ar2diff(tmp_path), backbone)


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A folder that "hf://user/name" stands for, without a network."""

    def hf_hub_download(repo_id, filename):
        if not (tmp_path / filename).exists():
            raise huggingface_hub.utils.EntryNotFoundError(filename)
        return str(tmp_path / filename)

    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(tmp_path))
    return tmp_path


def test_remote_preset_of_ours_goes_through_the_strict_reader(remote):
    backbone = convert_backbone(make_source("gpt2"), attention="causal")
    CausalLM(backbone).save_to_preset(str(remote / "preset"))
    for path in (remote / "preset").iterdir():
        path.rename(remote / path.name)
    check(ar2diff("hf://user/name"), backbone)
    with open(remote / "config.json", "a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match="sha256"):
        ar2diff("hf://user/name")


def test_remote_diffusion_presets_are_told_from_others(remote):
    for cls, attention in ((DiffusionLM, "bidirectional"), (CausalLM, "causal")):
        cls(tiny.backbone(attention=attention)).save_to_preset(str(remote / "preset"))
        for path in (remote / "preset").iterdir():
            path.replace(remote / path.name)
        (remote / "preset").rmdir()
        is_diffusion = is_diffusion_preset("hf://user/name")
        assert is_diffusion is is_diffusion_preset(remote) is (cls is DiffusionLM)
    with pytest.raises(ValueError, match="Did you mean 'hf://user/name'"):
        is_diffusion_preset("hf:user/name")


def test_remote_preset_of_keras_hub(remote):
    causal_lm = make_causal_lm()
    causal_lm.save_to_preset(str(remote))
    check(ar2diff("hf://user/name"), causal_lm.backbone)


@pytest.mark.parametrize(
    ("name", "message"),
    [("pointer", "git lfs pull"), ("nothing", "Cannot load the preset .*model.weights")],
)
def test_weights_that_are_not_there(tmp_path, name, message):
    make_causal_lm().save_to_preset(str(tmp_path))
    (tmp_path / "model.weights.h5").unlink()
    if name == "pointer":
        text = "version https://git-lfs.github.com/spec/v1\n"
        (tmp_path / "model.weights.h5").write_text(text)
    with pytest.raises(ValueError, match=message):
        ar2diff(tmp_path)


def test_causal_logits_come_back_from_the_converted_backbone():
    source = make_source("gpt2")
    causal = convert_backbone(ar2diff(source).backbone, attention="causal")
    inputs = make_inputs()
    assert_close(own_logits(causal, inputs), source_logits(source, inputs), inputs)


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        ("hf:/user/name", "Did you mean 'hf://user/name'"),
        ("hf:user/name", "Did you mean 'hf://user/name'"),
        ("kaggle:/user/model/keras/x", "Did you mean 'kaggle://user/model/keras/x'"),
        ("./no/such/folder", "as a local folder, it is not there"),
        ("~/no_such_folder", "as a local folder, it is not there"),
        ("", "Got ''"),
        ("no_such_preset", "Unknown preset 'no_such_preset'.*CausalLM.presets"),
        (__file__, "as a local folder, it is a file"),
    ],
)
def test_handles_that_name_nothing(handle, message):
    with pytest.raises(ValueError, match=message):
        ar2diff(handle)


def test_folders_that_are_no_preset(tmp_path):
    with pytest.raises(ValueError, match=r"has no 'config\.json'"):
        ar2diff(tmp_path)
    for text in ("{not json", '{"a":' + "[" * 200_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="is not JSON"):
            ar2diff(tmp_path)
    with pytest.raises(ValueError, match="it is not there"):
        ar2diff(tmp_path / "missing")


def test_other_objects_are_refused():
    lm = ar2diff(make_source("gpt2"))
    for source, message in (
        (lm, "Got DiffusionLM. It is a diffusion model already"),
        (ops.ones((2,)), "must be a keras_hub.models.CausalLM"),
        (None, "Got NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            ar2diff(source)


def test_causal_attention_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="`attention` must be one of"):
        ar2diff("gpt2_base_en", attention="causal")
