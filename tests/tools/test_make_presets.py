"""The tool that makes the presets that ship, on a few lines of text."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from preset_recipes import card, export, pipeline, recipes, scores, stages, texts

import keras_textdiff

pytestmark = pytest.mark.backend_free  # the tool trains on one backend; what it calls runs on all

LINES = [f"def f{n}(x):\n    return x + {n % 7}" for n in range(40)]
CORPUS = texts.Corpus(LINES[:32], LINES[32:], "a few lines made up for a test", "none needed")
RECIPE = dataclasses.replace(
    recipes.RECIPES["python"],
    vocabulary_size=290,
    sequence_length=24,
    hidden_dim=32,
    num_layers=1,
    intermediate_dim=32,
    batch_size=4,
    segment_steps=2,
    generated=3,
    sampler=(("num_denoising_steps", 2), ("num_canvases", 1)),
    prompts=("def f",),
    gaps=((("def f", "(x):"), (2,)),),
)
PLAN = recipes.Plan(4)


def weights(workshop, stage):
    found = {}
    with h5py.File(workshop.preset(stage) / "model.weights.h5") as file:
        file.visititems(
            lambda name, item: found.update({name: item[...]}) if hasattr(item, "shape") else None
        )
    assert len(found) > 5
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    found = pipeline.make_presets(RECIPE, PLAN, CORPUS, folder)
    return folder, found


def test_presets_are_small_described_and_load_in_any_dtype(finished):
    _, presets = finished
    assert list(presets) == ["ar_tiny_python", "ar2diff_tiny_python", "diffusion_tiny_python"]
    for name, directory in presets.items():
        text = (directory / "README.md").read_text(encoding="utf-8")
        for section in card.SECTIONS:
            assert f"\n## {section}\n" in text
        assert text.startswith(f"# {name}\n")
        assert CORPUS.licence in text
        models = keras_textdiff.models
        cls = models.CausalLM if name.startswith("ar_") else models.DiffusionLM
        assert cls.from_preset(directory).backbone.variable_dtype == "float32"
        assert cls.from_preset(directory, dtype="bfloat16").backbone.variable_dtype == "bfloat16"
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        count = json.loads((directory / "metadata.json").read_text())["parameter_count"]
        assert "bfloat16" in json.dumps(config["config"]["dtype"])
        assert (directory / "model.weights.h5").stat().st_size < 2 * count + 60_000


def test_all_arms_are_counted_in_passes(finished):
    folder, _ = finished
    results = {
        stage: json.loads((folder / stage / "training.json").read_text()) for stage in PLAN.steps
    }
    assert {stage: result["passes"] for stage, result in results.items()} == {
        "ar": 4,
        "ar2diff": 12,
        "diffusion": 16,
    }
    losses = results["diffusion"]["losses"]
    assert len(losses) == 4
    assert losses[-1] < losses[0] < 7


def test_what_is_done_is_not_done_again(finished, monkeypatch):
    folder, presets = finished
    before = (folder / "diffusion" / "scores.json").read_bytes()
    monkeypatch.setattr(stages.Workshop, "_make_model", None)
    monkeypatch.setattr(scores, "load_writer", None)
    assert pipeline.make_presets(RECIPE, PLAN, CORPUS, folder) == presets
    assert (folder / "diffusion" / "scores.json").read_bytes() == before


class Interrupt(Exception):
    pass


def test_a_stopped_run_ends_with_the_same_weights(finished, tmp_path, capsys):
    folder, _ = finished
    shutil.copytree(folder / "ar", tmp_path / "ar")

    def stop(line):
        raise Interrupt

    with pytest.raises(Interrupt):
        stages.Workshop(RECIPE, PLAN, CORPUS, tmp_path, stop).run("ar2diff")
    stopped = stages.Workshop(RECIPE, PLAN, CORPUS, tmp_path, print)
    assert stopped.result("ar2diff") is None
    stopped.run("ar2diff")
    assert "2 steps in all" in capsys.readouterr().out  # not from the beginning
    whole = stages.Workshop(RECIPE, PLAN, CORPUS, folder, print)
    assert stopped.result("ar2diff")["losses"] == pytest.approx(
        whole.result("ar2diff")["losses"], abs=2e-4
    )
    expected = weights(whole, "ar2diff")
    for name, found in weights(stopped, "ar2diff").items():
        np.testing.assert_allclose(found, expected[name], atol=1e-6, err_msg=name)


def test_a_killed_process_goes_on(finished, tmp_path):
    folder, _ = finished
    program = (
        "import sys; sys.path.insert(0, 'tools'); sys.path.insert(0, '.')\n"
        "from tests.tools import test_make_presets as here\n"
        "from preset_recipes import stages\n"
        "shop = stages.Workshop(here.RECIPE, here.PLAN, here.CORPUS, sys.argv[1])\n"
        "shop.run('ar')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = pathlib.Path(__file__).parents[2]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    options = {"cwd": root, "env": environment, "text": True, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, start_new_session=True, **options) as killed:
        for line in killed.stdout:
            if "step 4/4" in line:  # the checkpoint of step 2 is there, or being written
                os.killpg(killed.pid, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "ar" / "training.json").exists()
    assert subprocess.run(command, timeout=300, **options).returncode == 0
    shop, whole = (
        stages.Workshop(RECIPE, PLAN, CORPUS, where, print) for where in (tmp_path, folder)
    )
    expected = weights(whole, "ar")
    for name, found in weights(shop, "ar").items():
        np.testing.assert_allclose(found, expected[name], atol=1e-6, err_msg=name)


@pytest.mark.backend_free
def test_a_plan_is_kept(tmp_path):
    with pytest.raises(ValueError, match="either --passes or --minutes"):
        pipeline.find_plan(RECIPE, CORPUS, tmp_path)
    with pytest.raises(ValueError, match="even number"):
        pipeline.find_plan(RECIPE, CORPUS, tmp_path, passes=3)
    plan = pipeline.find_plan(RECIPE, CORPUS, tmp_path, minutes=0.01)
    assert plan.passes > 2
    assert plan.total_passes == 8 * plan.passes
    assert pipeline.find_plan(RECIPE, CORPUS, tmp_path, minutes=9.0) == plan
    other = dataclasses.replace(RECIPE, learning_rate=1.0)
    for changes in ((other, CORPUS, 0), (RECIPE, dataclasses.replace(CORPUS, train=[]), 0)):
        with pytest.raises(ValueError, match="another recipe or other texts"):
            pipeline.find_plan(*changes[:2], tmp_path)
    with pytest.raises(ValueError, match="other passes"):
        pipeline.find_plan(RECIPE, CORPUS, tmp_path, passes=2)
    # What only scores and the card depend on may change.
    pipeline.find_plan(dataclasses.replace(RECIPE, prompts=()), CORPUS, tmp_path)


@pytest.mark.backend_free
def test_sentences(tmp_path):
    text = (
        'CHAPTER I.\n\nIt was late, and\nMr. Brown went home. He said nothing. "Why?" she '
        "asked him.\n\nThe night was dark and still! A very "
    )
    assert texts.split_sentences(text) == [
        "It was late, and Mr. Brown went home.",
        "The night was dark and still!",
    ]
    path = tmp_path / "novels.jsonl"
    row = {"text": text, "license": "public domain", "source": "a test"}
    path.write_text(json.dumps(row))
    corpus = texts.load_corpus("english", path)
    assert len(corpus.train) + len(corpus.held_out) == 2
    assert "1 English novels (from a test)" in corpus.description
    path.write_text(json.dumps({**row, "license": "all rights reserved"}))
    with pytest.raises(ValueError, match=r"only public-domain.*all rights reserved"):
        texts.load_corpus("english", path)
    with pytest.raises(ValueError, match="needs --data"):
        texts.load_corpus("english")
    with pytest.raises(ValueError, match="--data is for English"):
        texts.load_corpus("python", path)


@pytest.mark.backend_free
def test_judges():
    assert scores.is_python("def f(x):\n    return x")
    assert not scores.is_python("def f(x:\n    return x")


def test_a_preset_that_is_too_large(finished, tmp_path, monkeypatch):
    folder, _ = finished
    shutil.copytree(folder / "ar", tmp_path / "ar")
    workshop = stages.Workshop(RECIPE, PLAN, CORPUS, tmp_path, print)
    monkeypatch.setattr(export, "MAXIMUM_BYTES", 1000)
    with pytest.raises(ValueError, match="at most 1000"):
        export.write_preset(workshop, "ar")
