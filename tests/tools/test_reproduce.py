"""The reproduction: what it compares is comparable, and however it is stopped, it ends the same."""

import dataclasses
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from reproduction import (
    corpora,
    models,
    paper,
    plan,
    plots,
    programs,
    scales,
    stages,
    summary,
    tasks,
)

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "reproduce_ar2diff.py"
DATA = pathlib.Path(__file__).parents[2] / "../shared/data"
NO_DATA = corpora.DataOptions(None)
TINY = dataclasses.replace(
    scales.TOY,
    sizes={"nano": scales.TOY.sizes["nano"]},
    pretraining_steps=12,
    conversion_steps=(4, 4),
    finetuning_steps=4,
    training_examples=32,
    evaluation_examples={"translation": 2, "qa": 2, "code": 2},
    code_samples=1,
)
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")


def make_laboratory(folder, scale=TINY, clock=None):
    clock = clock or stages.Clock()
    return stages.Laboratory(
        scale, NO_DATA, folder / "runs", folder / "results", clock, lambda *_: None
    )


def find(cells, name):
    (cell,) = (cell for cell in cells if cell.name == name)
    return cell


def run_all(laboratory, cell):
    for stage in laboratory.missing_stages([cell]):
        laboratory.run(stage)
    return laboratory.read_result(cell.stage)


class Stop:
    """A clock that says that time is up when it is asked for the n-th time."""

    def __init__(self, questions):
        self.questions = questions

    def left(self):
        self.questions -= 1
        return 1.0 if self.questions > 0 else 0.0


# === Plan ===


@pytest.mark.backend_free
@pytest.mark.parametrize("scale", [scales.TOY, scales.MINUTES, scales.HOURS])
def test_arms_take_the_same_passes(scale):
    cells = plan.make_cells(scale, [0])
    for cell in cells:
        if isinstance(cell.stage, plan.Timing):
            continue
        *pretraining, finetuning = cell.stage.model.ancestors()
        assert sum(stage.passes for stage in pretraining) == scale.pretraining_steps
        assert finetuning.passes == scale.finetuning_steps
        assert {stage.data for stage in pretraining} == {"pretraining"}


@pytest.mark.backend_free
def test_the_paper_trains_on_after_all_of_ar():
    cells = plan.make_cells(scales.PAPER, [0])
    cell = find(cells, "table2/base/ar2diff_n2/qa/seed0")
    parts = [(stage.mode, stage.last_step) for stage in cell.stage.model.ancestors()]
    assert parts == [("ar", 1_000_000), ("diffusion", 100_000), ("diffusion", 500_000)]
    cell = find(cells, "table2/xl/ar/code/seed0")
    assert dict(cell.stage.sampler) == {"temperature": plan.CODE_TEMPERATURE}
    assert plan.tokens_of(cell.stage, scales.PAPER) == 500 * 80 * 1024
    # 2 operations per parameter and token forward, 4 backward, two passes a SUNDAE step.
    conversion = find(cells, "table2/base/ar2diff_n1/qa/seed0").stage.model.parent
    parameters = models.count_parameters(scales.PAPER, "decoder", "base")
    assert parameters == pytest.approx(281.5e6, rel=0.01)
    expected = 6 * parameters * 2 * 10_000 * 128 * 1024
    assert plan.flops_of(conversion, scales.PAPER) == expected
    assert plan.estimate_seconds(conversion, scales.PAPER, {}) == pytest.approx(
        expected / scales.PAPER.flops + scales.PAPER.overhead
    )


@pytest.mark.backend_free
def test_cells_share_what_is_the_same():
    scale = scales.MINUTES
    cells = plan.make_cells(scale, range(3))
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names))
    scores = 3 * (2 * 5 * 3 + 4 * 3 + 2 * 5 * 2)
    assert len(cells) == scores + 4 * len(scale.figure_lengths)
    same = find(cells, "table2/small/diffusion/qa/seed1").stage
    assert find(cells, "table3/diffusion/steps10-samples8/qa/seed1").stage == same
    assert find(cells, "table1/decoder-prefix_lm/qa/seed1").stage == same
    more_steps = find(cells, "table3/diffusion/steps20-samples8/qa/seed1").stage
    assert more_steps != same
    assert more_steps.model == same.model
    # AR2Diff leaves the AR pretraining before its end, on the AR arm's own path.
    ar = find(cells, "table2/small/ar/qa/seed1").stage.model.ancestors()
    for arm, steps in zip(("ar2diff_n1", "ar2diff_n2"), scale.conversion_steps, strict=True):
        (*before, conversion, _) = find(
            cells, f"table2/small/{arm}/qa/seed1"
        ).stage.model.ancestors()
        assert before == ar[: len(before)]
        assert before[-1].last_step == scale.pretraining_steps - 2 * steps
        assert (conversion.mode, conversion.last_step) == ("diffusion", steps)
    # Nothing is shared between seeds.
    assert not {cell.stage for cell in cells if cell.name.endswith("seed0")} & {
        cell.stage for cell in cells if cell.name.endswith("seed1")
    }


@pytest.mark.backend_free
def test_fingerprints_know_what_matters():
    scale, data = scales.MINUTES, NO_DATA.describe()
    stage = find(plan.make_cells(scale, [0]), "table2/small/ar2diff_n1/code/seed0").stage
    digest = plan.fingerprint(stage, scale, data)
    assert digest == plan.fingerprint(stage, scale, dict(data))
    for change in (
        {"learning_rate": 1e-4},
        {"sizes": {**scale.sizes, "small": scales.Shape(1, 64, 2, 64)}},
        {"code_samples": 3},
        {"training_examples": 3},
        {"most_operations": 3},
    ):
        changed = dataclasses.replace(scale, **change)
        assert plan.fingerprint(stage, changed, data) != digest
    assert plan.fingerprint(stage, scale, {**data, "code": "mbpp"}) != digest
    # What the stage does not read does not matter to it.
    changed = dataclasses.replace(scale, code_samples=3, decay=False)
    before = plan.fingerprint(stage.model.parent, scale, data)
    assert plan.fingerprint(stage.model.parent, changed, data) == before


@pytest.mark.backend_free
def test_steps_that_do_not_fit_together():
    for change in ({"pretraining_steps": 1610}, {"conversion_steps": (80, 800)}):
        with pytest.raises(ValueError):
            dataclasses.replace(scales.MINUTES, **change)


# === Data ===


@pytest.mark.backend_free
def test_programs_solve_their_tasks_and_held_out_ones_are_new():
    train, held_out = (programs.make_tasks(part, 400) for part in ("train", "held_out"))
    assert programs.make_tasks("train", 400) == train
    assert len(train) == len(held_out) == 400
    bodies = [{task["code"].split("\n")[1] for task in part} for part in (train, held_out)]
    assert not bodies[0] & bodies[1]
    for task in train[:50] + held_out[:50]:
        scope = {}
        exec("\n".join([task["code"], *task["test_list"]]), scope)
        name = task["code"].split("(")[0].removeprefix("def ")
        assert f" {name} " in task["text"]
        assert len(task["test_list"]) >= 4
    # The tests tell programs apart.
    others = train[1:40]
    passed = 0
    for task in others:
        name = task["code"].split("(")[0].removeprefix("def ")
        other = train[0]["code"].replace(train[0]["code"].split("(")[0], f"def {name}")
        try:
            exec("\n".join([other, *task["test_list"]]), {})
            passed += 1
        except Exception:
            pass
    assert passed <= 1


@pytest.mark.backend_free
@pytest.mark.parametrize("name", ["translation", "qa"])
def test_stand_ins_hold_examples_out(name):
    task = tasks.load_task(name, TINY, NO_DATA)
    assert "in place of" in task.title
    assert len(task.rows) > 100
    assert len(task.examples) > 10
    prompts = {row["prompts"] for row in task.rows}
    assert not prompts & {example["prompts"] for example in task.examples}


@pytest.mark.backend_free
@needs_data
def test_translations_hold_sentences_out():
    options = corpora.DataOptions(str(DATA))
    task = tasks.load_task("translation", scales.MINUTES, options)
    assert len(task.rows) > 20_000
    sources = {row["prompts"] for row in task.rows}
    targets = {row["responses"] for row in task.rows}
    assert not sources & {example["prompts"] for example in task.examples}
    assert not targets & {text for example in task.examples for text in example["fr"]}
    assert task.make(task.examples[:3]).prompts[0] == task.examples[0]["prompts"]


@pytest.mark.backend_free
@needs_data
def test_contexts_are_cut_to_the_words_around_the_answer():
    task = tasks.load_task("qa", scales.MINUTES, corpora.DataOptions(str(DATA)))
    assert len(task.rows) > 20_000
    for example in task.examples[:200]:
        assert example["answers"][0] in example["context"]
    context = "1 2 3 4 5 6 7 8 (b c)d 1 2 3 4\n5 6 7"
    assert tasks.words_around("b c", context, 6) == "4 5 6 7 8 (b c)d 1 2 3 4 5"
    assert tasks.words_around("b c", context, 3) == "7 8 (b c)d 1 2"
    assert tasks.words_around("1 2", "1 2 3", 6) == "1 2 3"
    assert tasks.words_around("4", "1 2 3", 6) is None


@pytest.mark.backend_free
def test_pieces_are_the_text():
    text = "one two three\nfour five six seven\n" * 20
    rows = [row["text"] for row in corpora.pieces([text], 50)]
    assert text.startswith("".join(rows))
    assert all(20 < len(row) <= 50 for row in rows)


# === Runs ===


@pytest.mark.backend_free
def test_a_stopped_run_ends_with_the_same_numbers(tmp_path):
    cells = plan.make_cells(TINY, [0], tables=(1, 2))
    cell = find(cells, "table2/nano/ar2diff_n1/qa/seed0")
    whole = make_laboratory(tmp_path / "whole")
    expected = run_all(whole, cell)
    assert [part["passes"] for part in expected["training"]] == [4, 8, 4]
    assert expected["backend"] == keras.config.backend()
    stopped = make_laboratory(tmp_path / "stopped")
    stopped._models = whole.models  # compiled, and left by the other run in another state
    stops = 0
    while stopped.read_result(cell.stage) is None:
        stopped.clock = Stop(2)  # one segment of training at a time
        try:
            run_all(stopped, cell)
        except stages.OutOfTime:
            stops += 1
    assert stops >= 4
    found = stopped.read_result(cell.stage)
    assert found["metrics"] == expected["metrics"]
    for ours, theirs in zip(found["training"], expected["training"], strict=True):
        assert ours["curve"] == pytest.approx(theirs["curve"], abs=2e-4)
    ends = [
        models.load_arrays(laboratory._end(cell.stage.model)) for laboratory in (whole, stopped)
    ]
    for ours, theirs in zip(*map(models.take_weights, ends), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # What is finished is not run again, in whatever folder the checkpoints would be.
    elsewhere = make_laboratory(tmp_path / "stopped")
    elsewhere.output = tmp_path / "nowhere"
    assert elsewhere.missing_stages([cell]) == []
    # Where checkpoints are gone, what another cell needs is made again.
    other = find(cells, "table2/nano/ar2diff_n1/code/seed0")
    assert [type(stage) for stage in whole.missing_stages([other])] == [
        plan.Training,
        plan.Evaluation,
    ]
    assert len(elsewhere.missing_stages([other])) == 4


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="the tool's default is enough")
def test_an_encoder_with_span_corruption_and_a_timing(tmp_path):
    cells = plan.make_cells(TINY, [0], tables=(1,))
    laboratory = make_laboratory(tmp_path)
    result = run_all(laboratory, find(cells, "table1/encoder-decoder-span_corruption/qa/seed0"))
    levels = {f"cross_entropy_{level}" for level in stages.NOISE_LEVELS}
    assert set(result["metrics"]) == {"exact_match", "f1", *levels}
    curve = result["training"][0]["curve"]
    assert len(curve) == 3
    assert curve[-1] < curve[0]
    timed = run_all(laboratory, find(cells, "figure3/nano/diffusion10/16"))
    assert timed["seconds_per_text"] == statistics.median(timed["measurements"])


@pytest.mark.backend_free
def test_a_killed_run_ends_with_the_same_numbers(tmp_path):
    pattern = "table2/nano/ar/code/seed0"
    command = [
        *(sys.executable, TOOL, "--scale=toy", "--seeds=1", "--data=none", f"--cells={pattern}"),
        *(f"--output={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}"),
    ]
    killed = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    pattern = "*-ar8-*/checkpoint.npz"
    try:
        while not list((tmp_path / "runs" / "toy").glob(pattern)):
            assert killed.poll() is None
            time.sleep(0.02)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert not list((tmp_path / "results").rglob("*.json"))
    resumed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0, resumed.stderr
    cells = plan.make_cells(scales.TOY, [0])
    cell = find(cells, "table2/nano/ar/code/seed0")
    expected = run_all(make_laboratory(tmp_path / "whole", scales.TOY), cell)
    found = make_laboratory(tmp_path, scales.TOY).read_result(cell.stage)
    assert found["metrics"] == expected["metrics"]
    for ours, theirs in zip(found["training"], expected["training"], strict=True):
        assert ours["curve"] == pytest.approx(theirs["curve"], abs=2e-4)
    report = (tmp_path / "results" / "toy" / "results.md").read_text(encoding="utf-8")
    assert "nano, AR |" in report
    assert "not run (77.41)" in report


# === Report ===


@pytest.mark.backend_free
def test_report(tmp_path):
    scale = scales.TOY
    cells = plan.make_cells(scale, [0, 1])
    laboratory = make_laboratory(tmp_path, scale)
    training = [{"name": "x", "passes": 4, "curve": [2.0, 1.0], "seconds": 1.0}] * 2
    for cell in cells:
        if isinstance(cell.stage, plan.Timing):
            steps = cell.stage.steps
            result = {"seconds_per_text": (steps or 40) / 10, "seconds": 1.0}
        else:
            number = 40.0 + 2 * cell.stage.model.seed
            result = {
                "metric": "f1",
                "metrics": {"f1": number, "other": 1.0, "cross_entropy_0.6": 2.0},
                "task": "words",
                "training": training,
                "seconds": 1.0,
            }
        stages.write_json(laboratory.result_path(cell.stage), {**result, "backend": "jax"})
    results = summary.summarize(laboratory, cells)
    assert summary.value(results, "table2/nano/ar/qa") == {
        "mean": 41.0,
        "deviation": pytest.approx(2**0.5),
        "values": [40.0, 42.0],
    }
    text = summary.markdown(results, scale)
    assert "| nano, AR2Diff, N = 8 | 41.00 ± 1.41 (29.92) | 41.0 ± 1.4 (71.87) |" in text
    assert "| AR / diffusion10 | 4.0 | 4.0 |" in text
    assert "not run" not in text
    json.dumps(results)
    assert len(plots.draw_all(results, scale, tmp_path)) == 6
    estimates = {plan.estimate_seconds(c.stage, scale, laboratory.measured(cells)) for c in cells}
    assert estimates == {1.0}


@pytest.mark.backend_free
def test_the_paper_says_so():
    assert paper.TABLE_1["decoder", "prefix_lm"] == (29.8, 77.4, 12.2)
    assert {len(scores) for size in paper.TABLE_2.values() for scores in size.values()} == {3}
    # Tables 1, 2 and 3 have a model in common.
    assert paper.TABLE_2["base"]["diffusion"][1:] == paper.TABLE_3[10, 8]


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cells=nothing"], "no cell is called 'nothing'"),
        (["--data=/no/such/folder"], "there is no folder"),
    ],
)
def test_errors_are_one_line(tmp_path, arguments, words):
    command = [sys.executable, TOOL, "--scale=toy", f"--results={tmp_path}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    assert f"error: {arguments[0].split('=')[0]}" in result.stderr or words in result.stderr
    assert "Traceback" not in result.stderr
