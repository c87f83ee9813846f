"""Presets that ship: found by name, small, described, and able to write."""

import json
import pathlib
import re

import numpy as np
import pytest

from keras_textdiff import ar2diff
from keras_textdiff.backbones import TransformerBackbone
from keras_textdiff.data import python_source
from keras_textdiff.evaluation import denoiser_cross_entropy
from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.presets import registry, shipped_presets
from keras_textdiff.presets.folder import PresetFolder
from tests import tiny

MAXIMUM_BYTES = 12_000_000
SECTIONS = ("Use", "Samples", "Scores", "Data", "Training", "Licence", "Limits", "Make it again")


def ship(folder, name, model):
    """Save a model as the tool does that makes the presets that ship."""
    model.save_to_preset(folder / name)
    path = folder / name / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**metadata, "description": f"About {name}."}), encoding="utf-8")
    (folder / name / "checksums.json").unlink()


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", folder)
    ship(folder, "ar_test", tiny.causal_lm())
    ship(folder, "diffusion_test", tiny.diffusion_lm(seed=1))
    (folder / "unfinished").mkdir()
    (folder / "notes.txt").write_text("nothing")
    return folder


# === The registry ===


def test_models_know_their_presets(shipped):
    assert list(DiffusionLM.presets) == ["diffusion_test"]
    assert list(CausalLM.presets) == ["ar_test"]
    assert list(shipped_presets()) == ["ar_test", "diffusion_test"]
    assert DiffusionLM.presets["diffusion_test"] == {
        "description": "About diffusion_test.",
        "params": tiny.backbone(num_layers=1).count_params(),
        "path": str(shipped / "diffusion_test"),
    }


def test_they_load_by_name(shipped):
    lm = DiffusionLM.from_preset("diffusion_test")
    expected = tiny.diffusion_lm(seed=1)
    for found, value in zip(lm.backbone.weights, expected.backbone.weights, strict=True):
        np.testing.assert_array_equal(tiny.to_numpy(found), tiny.to_numpy(value))
    assert lm.preprocessor.sequence_length == 24
    assert TransformerBackbone.from_preset("ar_test").attention == "causal"
    converted = ar2diff("ar_test")
    np.testing.assert_array_equal(
        tiny.to_numpy(converted.backbone.weights[0]),
        tiny.to_numpy(tiny.causal_lm().backbone.weights[0]),
    )
    assert converted.backbone.attention == "bidirectional"


def test_a_name_comes_before_a_folder_here(shipped, tmp_path, monkeypatch):
    """As in KerasHub: a built-in name is never a path, and a path with a slash never a name."""
    monkeypatch.chdir(tmp_path)
    tiny.causal_lm(seed=2).save_to_preset("ar_test")
    other = tiny.to_numpy(tiny.causal_lm(seed=2).backbone.weights[0])
    for load in (CausalLM.from_preset, ar2diff):
        assert (tiny.to_numpy(load("ar_test").backbone.weights[0]) != other).any()
        for path in ("./ar_test", pathlib.Path("ar_test")):
            np.testing.assert_array_equal(tiny.to_numpy(load(path).backbone.weights[0]), other)


def test_names_that_are_wrong(shipped):
    with pytest.raises(ValueError, match=r"Shipped presets: \['ar_test', 'diffusion_test'\]"):
        DiffusionLM.from_preset("diffusion_tst")
    with pytest.raises(ValueError, match=r"Shipped presets: \['ar_test'\]"):
        ar2diff("ar_tst")
    with pytest.raises(ValueError, match="holds a CausalLM, not a DiffusionLM"):
        DiffusionLM.from_preset("ar_test")
    with pytest.raises(ValueError, match="holds a DiffusionLM, not a CausalLM"):
        ar2diff("diffusion_test")


def test_nothing_ships(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", tmp_path / "nothing")
    assert DiffusionLM.presets == {}
    with pytest.raises(ValueError, match="none in this version"):
        DiffusionLM.from_preset("diffusion_test")


# === What ships ===

NAMES = list(shipped_presets())


@pytest.mark.parametrize("name", NAMES)
def test_small_whole_and_described(name):
    directory = pathlib.Path(shipped_presets()[name]["path"])
    assert sum(path.stat().st_size for path in directory.rglob("*")) <= MAXIMUM_BYTES
    folder = PresetFolder(name)
    assert "checksums.json" in folder
    folder.check_checksums()
    dtype = folder.read_json("config.json")["config"]["dtype"]
    assert "bfloat16" in json.dumps(dtype)
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n\n{shipped_presets()[name]['description']}\n")
    assert tuple(re.findall(r"^## (.*)$", card, re.MULTILINE)) == SECTIONS
    assert "Apache-2.0" in card


@pytest.mark.parametrize("name", NAMES)
def test_they_write(name):
    cls = CausalLM if name in CausalLM.presets else DiffusionLM
    lm = cls.from_preset(name)
    assert lm.backbone.variable_dtype == "float32"
    lm.compile(jit_compile=tiny.JIT)
    prompt = "def close(self" if name.endswith("python") else "She"
    text = lm.generate(prompt, max_length=16)
    assert text.startswith(prompt)
    if cls is CausalLM:
        assert ar2diff(name).backbone.attention == "bidirectional"


def test_int8_is_as_good():
    """A trained model, where rounding each weight and row to 8 bits could cost quality."""
    texts = [row["text"].strip() for row in python_source(part="held_out", unit="function")]
    scores = []
    for mode in (None, "int8"):
        lm = DiffusionLM.from_preset("ar2diff_tiny_python", dtype="float32")
        if mode is not None:
            lm.quantize(mode)
        scores.append(denoiser_cross_entropy(lm, texts[:32], (0.3,))[0.3])
    assert scores[0] != scores[1]
    assert abs(scores[0] - scores[1]) < 0.01  # nats per token
