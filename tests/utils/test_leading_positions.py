import keras
import numpy as np
import pytest

from keras_textdiff.models import DiffusionLM
from keras_textdiff.samplers import SundaeSampler, sampler
from keras_textdiff.utils.compilation import CALLS_BEFORE_SPECIALIZING
from keras_textdiff.utils.leading_positions import (
    add_leading,
    count_leading,
    cut_leading,
    first_target,
)
from tests import tiny

LENGTH = 64  # a bucket, so parts of 16


def mask(*firsts, length=LENGTH):
    return np.arange(length) >= np.array(firsts)[:, None]


@pytest.mark.parametrize(
    ("firsts", "expected"),
    [([15], 0), ([16], 16), ([40], 32), ([40, 20], 16), ([63], 48), ([64], 0), ([64, 33], 32)],
)
def test_whole_parts_in_front_of_all_canvases_count(firsts, expected):
    often = CALLS_BEFORE_SPECIALIZING
    first = first_target(mask(*firsts))
    assert count_leading(first, LENGTH, often) == expected
    compiles = keras.config.backend() != "torch"
    assert count_leading(first, LENGTH, often - 1) == (0 if compiles else expected)


def test_rows_that_are_short_or_all_prompt():
    often = CALLS_BEFORE_SPECIALIZING
    assert count_leading(2, 3, often) == 2
    assert count_leading(0, 1, often) == 0
    assert first_target(np.zeros((2, 40), bool)) == 0


def test_what_is_cut_comes_back():
    rng = np.random.default_rng(0)
    inputs = {  # two prompts with two canvases each, which start alike
        "token_ids": rng.integers(0, 9, (4, 8)).astype("int32"),
        "target_mask": mask(5, 5, 6, 6, length=8),
        "padding_mask": np.ones((4, 8), bool),
        "tokens": rng.random((2, 4, 8)),
    }
    inputs["token_ids"][1::2, :5] = inputs["token_ids"][::2, :5]
    cut = cut_leading(inputs, 4, ("tokens",), num_canvases=2)
    np.testing.assert_array_equal(cut["leading_ids"], inputs["token_ids"][::2, :4])
    assert cut["padding_mask"] is inputs["padding_mask"]
    np.testing.assert_array_equal(cut["tokens"], inputs["tokens"][..., 4:])
    canvases = np.stack([cut["token_ids"]] * 3)
    outputs = {
        "token_ids": cut["token_ids"],
        "canvases": canvases,
        "confidences": np.full((2, 4, 4), 0.5, "float32"),
        "scores": np.zeros(4),
    }
    whole = add_leading(outputs, cut["leading_ids"])
    np.testing.assert_array_equal(whole["token_ids"], inputs["token_ids"])
    np.testing.assert_array_equal(whole["canvases"], np.stack([inputs["token_ids"]] * 3))
    np.testing.assert_array_equal(whole["confidences"][..., :4], 1)
    np.testing.assert_array_equal(whole["confidences"][..., 4:], 0.5)
    assert whole["confidences"].dtype == "float32"
    assert set(whole) == set(outputs)


@pytest.fixture
def widths(monkeypatch):
    """Return the list of how many positions get logits, in each call that is traced or run."""
    found = []
    original = sampler.log_total

    def spy(logits):
        found.append(logits.shape[1])
        return original(logits)

    monkeypatch.setattr(sampler, "log_total", spy)
    return found


def prompts(lm, *lengths):
    rng = np.random.default_rng(0)
    shape = (len(lengths), LENGTH)
    ids = rng.integers(0, lm.backbone.vocabulary_size, shape).astype("int32")
    return {"token_ids": ids, "padding_mask": np.arange(LENGTH) < np.array(lengths)[:, None]}


def record_columns(lm, monkeypatch):
    """Return a list: first column, columns and rows of each call with a cache."""
    columns = []
    original = lm.backbone.call_with_cache

    def recording(inputs, cache, cache_index):
        columns.append((cache_index, *inputs["token_ids"].shape[::-1]))
        return original(inputs, cache, cache_index)

    monkeypatch.setattr(lm.backbone, "call_with_cache", recording)
    return columns


@pytest.mark.parametrize("logit_shift", [False, True])
@pytest.mark.parametrize(
    "window", [{}, {"sliding_window": 9, "sliding_window_layers": [0]}], ids=["far", "near"]
)
@pytest.mark.parametrize(
    ("attention", "settled"),
    [({"attention": "prefix"}, 32), ({"attention": "block", "block_length": 12}, 24)],
    ids=["prefix", "block"],
)
def test_settled_positions_are_computed_once(monkeypatch, attention, settled, window, logit_shift):
    # What a third layer keeps of a position depends on all that the position's neighbours see.
    lm = DiffusionLM(tiny.backbone(num_layers=3, **attention, **window), logit_shift=logit_shift)
    options = {"jit_compile": tiny.JIT} if window else {}
    lm.compile(sampler=SundaeSampler(3, num_canvases=2), **options)
    inputs = prompts(lm, 37, 50)
    columns = record_columns(lm, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "count_leading", lambda *arguments: 0)
        expected = lm.generate(inputs, seed=3, stop_token_ids=None)
    assert not columns
    for _ in range(CALLS_BEFORE_SPECIALIZING):
        outputs = lm.generate(inputs, seed=3, stop_token_ids=None)
    np.testing.assert_array_equal(outputs["token_ids"], expected["token_ids"])
    read = settled
    if attention["attention"] == "prefix":
        settled, read = settled - logit_shift, LENGTH
    assert {column[:2] for column in columns} == {(0, read), (settled, LENGTH - settled)}
    assert max(rows for first, _, rows in columns if first == 0) == 2  # one of four for a prompt
    assert max(rows for first, _, rows in columns if first > 0) == 4


def test_a_prompt_behind_a_gap_lets_nothing_settle(monkeypatch):
    """With attention "prefix" it sees the gap, and what stands in front sees it."""
    lm = tiny.diffusion_lm(64, attention="prefix", num_layers=3)
    lm.compile(sampler=SundaeSampler(8, num_canvases=1), jit_compile=tiny.JIT)
    pieces = ["the cat in the hat on the log in", "a dog on a log"]
    columns = record_columns(lm, monkeypatch)

    def infill():
        return lm.infill(pieces, lengths=[8], seed=1)

    with monkeypatch.context() as patch:
        patch.setattr(sampler, "count_leading", lambda *arguments: 0)
        expected = infill()
    texts = {infill() for _ in range(CALLS_BEFORE_SPECIALIZING)}
    assert texts == {expected}
    assert not columns
    lm.generate(pieces[0], seed=1)
    assert columns or keras.config.backend() != "torch"  # others compile it when it is called again


@pytest.mark.parametrize("logit_shift", [False, True])
@pytest.mark.parametrize("return_trajectory", [False, True])
def test_texts_are_those_of_a_loop_over_all_positions(
    monkeypatch, widths, logit_shift, return_trajectory
):
    lm = DiffusionLM(tiny.backbone(), logit_shift=logit_shift)
    lm.compile(sampler=SundaeSampler(3, num_canvases=2))
    inputs = prompts(lm, 37, 50)

    def generate():
        options = {"stop_token_ids": None, "return_trajectory": return_trajectory}
        outputs = lm.generate(inputs, seed=3, **options)
        return outputs if return_trajectory else (outputs, None)

    with monkeypatch.context() as patch:
        patch.setattr(sampler, "count_leading", lambda *arguments: 0)
        expected, expected_trajectory = generate()
    assert set(widths) == {LENGTH}
    widths.clear()
    for _ in range(CALLS_BEFORE_SPECIALIZING):
        outputs, trajectory = generate()
    assert set(widths) == {LENGTH - 32}
    np.testing.assert_array_equal(outputs["token_ids"], expected["token_ids"])
    if not return_trajectory:
        return
    for name, tolerance in [
        ("canvases", 0),
        ("target_mask", 0),
        ("num_steps", 0),
        ("confidences", 1e-4),
        ("scores", 1e-4),
    ]:
        ours, theirs = getattr(trajectory, name), getattr(expected_trajectory, name)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance)
