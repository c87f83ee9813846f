"""The example runs, twice into the same folder, and what it compares is comparable."""

import importlib
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_textdiff.models import DiffusionLM
from tests import tiny

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("ar2diff_python")
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def report(example):
    return importlib.import_module("ar2diff_python_report")


def test_fast_mode_runs_and_overwrites(tmp_path):
    (tmp_path / "results.json").write_text("stale")
    command = [sys.executable, EXAMPLES / "ar2diff_python.py", "--fast", "--seeds=1"]
    command += ["--output", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    for words in ("Equal compute", "ast.parse accepts", "at 30% corruption", "AR2Diff_N"):
        assert words in " ".join(run.stdout.split())  # however it was wrapped
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["backend"] == keras.config.backend()
    for seed in results["seeds"]:
        arms = seed["arms"]
        for arm in ("AR2Diff_0", "AR2Diff_N", "from scratch"):
            trained, untrained = arms[arm]["cross_entropies"], arms["untrained"]["cross_entropies"]
            assert trained["0.3"] < untrained["0.3"]
        # Every arm's last point is at the same compute.
        ends = {start + len(curve) * 20 for start, curve in seed["curves"].values()}
        assert ends == {60}
    assert results["references"]["valid"] == 1
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert results["conclusion"] in (tmp_path / "results.md").read_text(encoding="utf-8")
    lm = DiffusionLM.from_preset(str(tmp_path / "preset"))
    assert lm.generate("def f(x):", max_length=32, seed=0).startswith("def f(x):")


def test_no_function_is_in_both_parts(example):
    parts = example.collect_functions(120)
    assert parts == example.collect_functions(120)
    train, held_out = (
        [function for functions in parts[part] for function in functions]
        for part in ("train", "held_out")
    )
    assert train
    assert held_out
    assert len(train) + len(held_out) == len({*train, *held_out})


def test_chunks_and_completions_fit_and_are_the_source(example):
    tokenizer = tiny.tokenizer()
    functions = ["the cat in\nthe hat\nis in", "a dog\non a log\nin the hat\nthe end"]
    chunks = example.make_chunks([functions, []], tokenizer, 16)
    assert "".join(chunks) == "\n".join(functions)
    completions = example.make_completions([functions], tokenizer, 24)
    pairs = zip(completions["prompts"], completions["responses"], strict=True)
    whole = {prompt + response for prompt, response in pairs}
    assert whole
    assert whole <= set(functions)


def test_tokenizer_round_trip(example):
    text = "def f(self, x):\n    return self.x[1:] + x  # \N{GREEK SMALL LETTER ALPHA}\n"
    tokenizer = example.train_tokenizer([text] * 4, 300)
    assert tokenizer.detokenize(tokenizer(text)) == text
    assert tokenizer.end_token_id == 0
    assert len(tokenizer(text)) < len(text.encode())


def test_restart_does_what_ar2diff_does(example):
    from keras_textdiff.transfer.ar2diff import ar2diff

    first, second = tiny.causal_lm(seed=1), tiny.causal_lm(seed=2)
    reused = ar2diff(first)
    reused.compile(optimizer=keras.optimizers.AdamW(1e-2))
    reused.fit(tiny.TEXTS, batch_size=4, verbose=0)
    example.restart(reused, second.backbone.get_weights())
    fresh = ar2diff(second)
    for ours, theirs in zip(reused.weights, fresh.weights, strict=True):
        assert ours.path.split("/", 1)[-1] == theirs.path.split("/", 1)[-1]
        np.testing.assert_array_equal(tiny.to_numpy(ours), tiny.to_numpy(theirs))
    assert not any(tiny.to_numpy(variable).any() for variable in reused.optimizer.variables)


@pytest.mark.parametrize(
    ("ours", "scratch", "words"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.2, 1.9], "AR2Diff_N is better than from scratch by 1.0"),
        ([2.0, 2.2, 1.9], [1.0, 1.1, 0.9], "from scratch is better than AR2Diff_N by 1.0"),
        ([1.0, 2.0, 1.5], [1.5, 1.4, 1.6], "no difference beyond the spread"),
        ([1.0], [1.5], "in a single seed"),
    ],
)
def test_conclusion_says_what_the_numbers_say(report, ours, scratch, words):
    seeds = [
        {
            "arms": {
                "AR2Diff_N": {"cross_entropies": {0.3: first}},
                "from scratch": {"cross_entropies": {0.3: second}},
            }
        }
        for first, second in zip(ours, scratch, strict=True)
    ]
    assert words in report.conclusion({"seeds": seeds})


def test_judge(report):
    judged = report.judge(["def f():"] * 3, [" pass", "\n  (", "\n  x = '\0'"])
    assert judged["valid"] == pytest.approx(1 / 3)


def test_settings_that_do_not_fit_together(example):
    fast = {name: value for name, (_, value, _) in example.SETTINGS.items()}
    example.check_settings(fast)
    for change in ({"finetuning_passes": 30}, {"diffusion_passes": 40}, {"hidden_dim": 20}):
        with pytest.raises(ValueError):
            example.check_settings({**fast, **change})
