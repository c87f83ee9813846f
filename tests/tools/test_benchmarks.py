"""Benchmarks at tiny sizes: they run, compare outputs before timing, and report what they say."""

import json
import os
import pathlib
import subprocess
import sys

import attention
import cross_entropy_memory
import denoiser
import early_stopping
import generation
import harness
import keras
import load_time
import numpy as np
import prompt_cache
import pytest
import sampling
import training_step

FOLDER = pathlib.Path(harness.__file__).parent
BACKEND = keras.config.backend()


def _right(row, kind):
    return row["share_of_right_tokens"][f"{BACKEND}: {kind}"]


COMPARED = {
    attention: lambda row: row["largest_relative_differences"].values(),
    denoiser: lambda row: row["largest_relative_differences"].values(),
    generation: lambda row: [1 - share for share in row["share_of_equal_tokens"].values()],
    training_step: lambda row: [row["largest_relative_difference_of_losses"]],
    cross_entropy_memory: lambda row: [row["largest_relative_difference_of_losses"]],
    sampling: lambda row: [row["share_of_tokens_drawn_otherwise"]],
    prompt_cache: lambda row: [row["share_of_other_tokens"]],
    early_stopping: lambda row: [abs(_right(row, "keras_hub") - _right(row, "causal_lm"))],
    load_time: lambda row: [row["largest_relative_difference"]],
}


@pytest.mark.parametrize("module", COMPARED, ids=lambda module: module.__name__)
def test_report(module, tmp_path):
    report = harness.run_locally(module, backends=[BACKEND])
    report = json.loads(json.dumps(report))
    assert report["machine"]["cores"] and report["machine"]["keras"] == keras.__version__
    assert report["rows"]
    for row in report["rows"]:
        differences = list(COMPARED[module](row))
        assert differences
        assert all(0 <= difference < 0.1 for difference in differences)
    for bar in report["bars"]:
        assert set(bar) == {"what", "value", "wanted", "met"}
    if hasattr(module, "draw"):
        module.draw(report, tmp_path / "curves.png")
        assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.backend_free  # with one of them: training takes 20 seconds
def test_a_reciter_is_trained_once(tmp_path):
    # A row of 12 tokens has 4 to learn: enough steps for any model.
    options = {"backends": [BACKEND], "folder": str(tmp_path), "length": 12, "steps": 8}
    options |= {"ar_steps": 400, "diffusion_steps": 400}
    first = harness.run_locally(early_stopping, **options)
    second = harness.run_locally(early_stopping, **options)
    assert first["losses"] == second["losses"] and max(first["losses"].values()) < 0.5
    (row,) = first["rows"]
    assert set(row["share_of_right_tokens"].values()) == {1.0}
    assert all(1 < steps < 8 for steps in row["num_steps"][BACKEND])


def test_other_outputs_are_not_timed(monkeypatch):
    monkeypatch.setattr(sampling, "draw_in_numpy", lambda arrays: np.zeros(16, "int32"))
    with pytest.raises(SystemExit, match="tokens drawn: outputs differ"):
        harness.run_locally(sampling, backends=[BACKEND])


@pytest.mark.backend_free
def test_calls_take_turns():
    order = []
    cases = {name: lambda name=name: lambda: order.append(name) or 0.0 for name in "ab"}
    side = harness.LocalSide(cases)
    for name in "ab":
        side.open(name)
    times = harness.interleave({name: (side, name) for name in "ab"}, repeats=3)
    assert order == [*"ab", *"ababab"]
    assert set(times) == {"a", "b"} and len(times["a"]["seconds"]) == 3
    assert times["a"]["min_s"] <= times["a"]["median_s"] <= times["a"]["max_s"]
    assert times["a"]["cpu_s"] >= 0


@pytest.mark.backend_free
def test_bars():
    assert harness.bar("x", 1.25, at_least=1.2)["met"]
    assert not harness.bar("x", 1.15, at_least=1.2)["met"]
    assert harness.bar("x", 0.1, at_most=0.15)["met"]
    assert not harness.bar("x", float("nan"), at_most=0.15)["met"]


@pytest.mark.backend_free
def test_run_all_in_processes(tmp_path):
    command = [sys.executable, FOLDER / "run_all.py", f"--output={tmp_path}"]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    result = subprocess.run(
        [*command, "--tiny", "sampling"], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "sampling.json").read_text())
    assert report["options"]["backends"] == ["jax"]
    for bar in report["bars"]:
        assert bar["what"] in result.stdout
    result = subprocess.run([*command, "nothing"], capture_output=True, text=True)
    assert result.returncode == 1 and "Unknown benchmarks ['nothing']" in result.stderr
