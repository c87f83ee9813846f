import numpy as np
import pytest

from keras_textdiff.models import DiffusionLM
from keras_textdiff.samplers import ArgmaxUnrolledSampler, SundaeSampler
from tests import tiny
from tests.tiny import TEXTS, to_numpy

PROMPTS = ["the cat", "a", "one two", "the hen in the hat", "z", "do", "thin", "a hat"]


def make(sampler="sundae", scale=0.5, **options):
    """A model whose logits are far apart, so that rounding decides nothing."""
    model = tiny.diffusion_lm(scale=scale, **options)
    model.compile(sampler=sampler, jit_compile=tiny.JIT)
    return model


@pytest.fixture(scope="module")
def lm():
    return make(SundaeSampler(num_denoising_steps=4, num_canvases=2), num_layers=2)


def test_the_same_seed_gives_the_same_text_on_every_backend(lm):
    assert lm.generate(PROMPTS[:3], seed=7) == GOLDEN
    assert lm.generate(PROMPTS[:3], seed=7) == GOLDEN
    assert lm.generate(PROMPTS[:3], seed=8) != GOLDEN


def test_a_row_is_the_same_alone_and_in_batches(lm):
    together = lm.generate(PROMPTS, seed=3)
    assert together == [lm.generate(prompt, seed=3) for prompt in PROMPTS]
    assert together[::-1] == lm.generate(PROMPTS[::-1], seed=3)
    assert together == lm.generate(PROMPTS, seed=3, batch_size=3)


def test_equal_prompts_give_different_texts(lm):
    texts = lm.generate(["a"] * 4, seed=3)
    assert len(set(texts)) > 1
    assert texts == lm.generate(["a"] * 4, seed=3, batch_size=1)


def test_without_a_seed_texts_differ_and_follow_keras(lm):
    import keras

    assert len({lm.generate("a") for _ in range(3)}) > 1
    texts = []
    for _ in range(2):
        keras.utils.set_random_seed(4)
        texts.append(lm.generate("a"))
    assert texts[0] == texts[1]


def test_texts_begin_with_their_prompts_and_can_be_stripped(lm):
    whole = lm.generate(PROMPTS, seed=1)
    stripped = lm.generate(PROMPTS, seed=1, strip_prompt=True)
    for prompt, text, rest in zip(PROMPTS, whole, stripped, strict=True):
        assert text == prompt + rest


def test_text_ends_at_the_first_stop_token(lm):
    rows = lm._prompt_rows(PROMPTS, 24)
    ids = {"token_ids": rows["token_ids"], "padding_mask": rows["prompt_mask"]}
    everything = lm.generate(ids, stop_token_ids=None, seed=1)
    assert everything["padding_mask"].all()
    stop = int(everything["token_ids"][0, -5])
    cut = lm.generate(ids, stop_token_ids=(stop,), seed=1)
    np.testing.assert_array_equal(cut["token_ids"], everything["token_ids"])
    for tokens, keep, prompt in zip(
        cut["token_ids"], cut["padding_mask"], rows["prompt_mask"], strict=True
    ):
        start = prompt.sum()
        stops = np.flatnonzero(tokens[start:] == stop)
        length = start + stops[0] + 1 if len(stops) else 24
        np.testing.assert_array_equal(keep, np.arange(24) < length)


def test_max_length_counts_prompt_and_text(lm):
    _, trajectory = lm.generate("the", max_length=9, seed=1, return_trajectory=True)
    assert trajectory.canvases.shape == (5, 1, 9)
    assert trajectory.target_mask.sum() == 9 - 2  # start token, "the"


def test_trajectory_and_model_score():
    lm = make(SundaeSampler(4, num_canvases=3, stop_when_unchanged=False))
    text, trajectory = lm.generate(PROMPTS, seed=2, return_trajectory=True)
    assert text == lm.generate(PROMPTS, seed=2)
    assert (trajectory.num_steps == 4).all()
    prompt_mask = ~trajectory.target_mask
    for canvas in trajectory.canvases:
        np.testing.assert_array_equal(canvas[prompt_mask], trajectory.canvases[0][prompt_mask])
    # The score is of the tokens that the last step was fed.
    rows = {
        "token_ids": trajectory.canvases[-2],
        "padding_mask": np.ones_like(prompt_mask),
        "target_mask": trajectory.target_mask,
    }
    np.testing.assert_allclose(lm.score(rows), trajectory.scores, rtol=1e-3, atol=1e-4)


def test_the_best_of_several_canvases_is_kept():
    scores = []
    for num_canvases in (1, 4):
        lm = make(SundaeSampler(3, num_canvases=num_canvases, stop_when_unchanged=False))
        _, trajectory = lm.generate(PROMPTS, seed=5, return_trajectory=True)
        scores.append(trajectory.scores)
    assert (scores[1] >= scores[0] - 1e-5).all()  # the first canvas is one of the four
    assert (scores[1] > scores[0] + 1e-3).any()


@pytest.mark.parametrize("sampler", [SundaeSampler(6, update_proportion=0.4), "argmax_unrolled"])
def test_other_samplers_keep_the_promises_too(sampler):
    lm = make(sampler)
    together = lm.generate(PROMPTS[:3], seed=3)
    assert together == [lm.generate(prompt, seed=3) for prompt in PROMPTS[:3]]


def test_score_is_the_mean_log_probability_under_one_call(lm):
    rows = lm.preprocessor(TEXTS)
    logits = to_numpy(lm({key: rows[key] for key in ("token_ids", "padding_mask")}))
    logits = logits.astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    scores = lm.score(TEXTS, batch_size=3)
    for row in range(4):
        start = rows["prompt_mask"][row].sum()
        length = len(lm.preprocessor.tokenize([TEXTS["responses"][row]])[0]) + 1
        columns = np.arange(start, start + length)
        expected = log_p[row, columns, rows["token_ids"][row, columns]].mean()
        assert scores[row] == pytest.approx(expected, rel=1e-4)


def test_infill_keeps_the_pieces_and_the_gap_lengths(lm):
    pieces = [["the ", " in ", ""], ["", " hat", " a"]]
    texts, trajectory = lm.infill(pieces, lengths=[3, 2], seed=1, return_trajectory=True)
    np.testing.assert_array_equal(trajectory.target_mask.sum(axis=1), [5, 5])
    for text, given in zip(texts, pieces, strict=True):
        assert text.startswith(given[0]) and text.endswith(given[-1]) and given[1] in text
    assert texts == [lm.infill(given, lengths=[3, 2], seed=1) for given in pieces]
    assert texts == lm.infill(pieces, lengths=[[3, 2], [3, 2]], seed=1)


def test_prefix_attention_and_logit_shift():
    lm = make(attention="prefix")
    assert lm.generate(["the"], seed=1) == [lm.generate("the", seed=1)]
    rows = {key: value for key, value in tiny.inputs().items() if key != "target_mask"}
    plain = tiny.diffusion_lm()
    shifted = DiffusionLM(plain.backbone, plain.preprocessor, logit_shift=True)
    before, after = to_numpy(plain(rows)), to_numpy(shifted(rows))
    np.testing.assert_allclose(after[:, 1:], before[:, :-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after[:, 0], before[:, 0], rtol=1e-4, atol=1e-5)
    assert shifted.get_config()["logit_shift"] is True


def test_learned_positions_limit_the_length():
    """An embedding lookup behind the last position gives NaN on jax."""
    lm = make(rope=None, num_learned_positions=16)
    rows = lm.preprocessor(TEXTS)
    inputs = {key: rows[key] for key in ("token_ids", "padding_mask")}
    for call in (
        lambda: lm.generate("a"),
        lambda: lm.infill(["a", "b"], lengths=[20]),
        lambda: lm.score(TEXTS),
        lambda: lm.fit(TEXTS, verbose=0),
        lambda: lm.predict(TEXTS, verbose=0),
        lambda: lm(inputs),
    ):
        with pytest.raises(ValueError, match=r"16 learned positions; rows of 24 tokens do not fit"):
            call()
    assert lm.generate("a", max_length=16, seed=1)


def test_new_weights_are_used_at_once(lm):
    lm = make(SundaeSampler(2, num_canvases=1))
    before = lm.generate("a", seed=1)
    tiny.set_weights(lm.backbone, seed=9)
    assert lm.generate("a", seed=1) != before


def test_nan_logits_name_the_step():
    lm = make(SundaeSampler(2, num_canvases=1))
    lm.backbone.layer_norm.scale.assign(np.full(32, np.nan))
    with pytest.raises(ValueError, match="denoising step 0"):
        lm.generate("a", seed=1)


def test_nan_scores_are_an_error():
    lm = make()
    lm.backbone.layer_norm.scale.assign(np.full(32, np.nan))
    with pytest.raises(ValueError, match="score of row 0 is nan"):
        lm.score(TEXTS)


def test_no_prompts_give_no_texts(lm):
    assert lm.generate([]) == []
    assert lm.generate([], return_trajectory=True) == ([], None)
    assert lm.infill([], lengths=[]) == []
    assert lm.infill([], lengths=[], return_trajectory=True) == ([], None)
    assert lm.score({"prompts": [], "responses": []}).shape == (0,)


def test_a_model_must_be_compiled_first():
    whole = tiny.diffusion_lm()
    lm = DiffusionLM(whole.backbone, whole.preprocessor, compile=False)
    with pytest.raises(ValueError, match="Call `compile` before `generate`"):
        lm.generate("a")
    with pytest.raises(ValueError, match="Call `compile` before `fit`"):
        lm.fit(["a"])


def full_rows():
    return {"token_ids": [[1, 2]] * 2, "padding_mask": [[True, False], [True, True]]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm.generate("a", max_length=0), "`max_length` must be at least 1"),
        (lambda lm: lm.generate("a", max_length=-3), "`max_length`"),
        (lambda lm: lm.generate("the cat in the hat", max_length=4), "Prompt 0 has"),
        (lambda lm: lm.generate(["a", 3]), "strings"),
        (lambda lm: lm.generate("a", seed=-1), "`seed`"),
        (lambda lm: lm.generate("a", seed=1.5), "`seed`"),
        (lambda lm: lm.generate("a", batch_size=0), "`batch_size`"),
        (lambda lm: lm.infill(["a", "b"], lengths=[1, 2]), "3 pieces"),
        (lambda lm: lm.infill(["a", "b"], lengths=[0]), "gap length"),
        (lambda lm: lm.infill("ab", lengths=[1]), "`inputs` must be a list. Got 'ab'"),
        (lambda lm: lm.infill(["a", "b"], lengths=3), "`lengths` must be a list. Got 3"),
        (lambda lm: lm.infill([["a", "b"]] * 2, lengths=[[1]]), "2 inputs and gap lengths for 1"),
        (lambda lm: lm.generate(None), "string or a list of strings. Got NoneType"),
        (lambda lm: lm.generate({"prompts": ["a"]}), r"Got \['prompts'\]"),
        (lambda lm: lm.generate(full_rows()), "Row 1 is all prompt"),
        (lambda lm: lm.generate("a", stop_token_ids=5), "`stop_token_ids` must be .* Got 5"),
        (lambda lm: lm.generate("a", stop_token_ids="never"), "Got 'never'"),
        (lambda lm: lm.generate("a", stop_token_ids=()), r"Got \(\)"),
        (lambda lm: lm.generate("a", stop_token_ids=[33]), r"`stop_token_ids` must lie in \[0, 33"),
        (lambda lm: lm.score(["a"]), "'prompts' and 'responses'.*Got list"),
        (lambda lm: lm.score({"prompts": ["a"], "responses": ["b"]}, batch_size=0), "batch_size"),
        (lambda lm: lm.score({"prompts": ["a" * 40], "responses": ["b"]}), "response to score"),
        (
            lambda lm: lm.generate(
                {"token_ids": [[1, 99]], "padding_mask": [[True, False]]}, stop_token_ids=None
            ),
            r"\[0, 33\)",
        ),
    ],
)
def test_bad_calls_are_refused(lm, call, message):
    with pytest.raises(ValueError, match=message):
        call(lm)


def test_text_without_a_preprocessor_is_refused():
    lm = DiffusionLM(tiny.backbone())
    with pytest.raises(ValueError, match="preprocessor"):
        lm.generate("a", stop_token_ids=None)
    with pytest.raises(ValueError, match="'auto'"):
        lm.generate({"token_ids": [[1, 2]], "padding_mask": [[True, False]]})
    with pytest.raises(ValueError, match="preprocessor"):
        lm.fit(["a text"], verbose=0)


def test_argmax_unrolled_sampler_by_object():
    lm = make(ArgmaxUnrolledSampler(3, num_canvases=1, unrolled_proportion=0.5))
    assert lm.generate("a", seed=1) == lm.generate("a", seed=1)


GOLDEN = [
    "the catswr theoacomqtahqn",
    "akj theeeon the the theh the theino",
    "one twom thethethzoeothn",
]
