"""Both models on an encoder-decoder: what differs from a decoder alone, and what must not."""

import keras
import keras_hub
import numpy as np
import pytest

from keras_textdiff.evaluation import denoiser_cross_entropy
from keras_textdiff.models import (
    CausalLM,
    CausalLMPreprocessor,
    DiffusionLM,
    DiffusionLMPreprocessor,
)
from keras_textdiff.objectives import Sundae
from keras_textdiff.samplers import SundaeSampler
from tests import tiny
from tests.presets.presets import quantize
from tests.tiny import TEXTS, to_numpy

PROMPTS = ["the cat", "a", "one two"]
KINDS = ["diffusion", "causal"]
TWO_EACH = {"num_encoder_layers": 2, "num_decoder_layers": 2}
EAGERLY = {"run_eagerly": True, "jit_compile": False}


def make(kind, scale=0.1, compile_options=None, **options):
    model = tiny.encoder_decoder_lm(kind, scale=scale, **options)
    compile_options = {"jit_compile": tiny.JIT, **(compile_options or {})}
    model.compile(keras.optimizers.Adam(0.01), **compile_options)
    return model


@pytest.fixture(scope="module")
def lm():
    """A diffusion model whose logits are far apart, so that rounding decides nothing."""
    return make("diffusion", 0.5, {"sampler": SundaeSampler(4, num_canvases=2)}, **TWO_EACH)


def count_calls(backbone):
    """Return lists that collect the number of rows of each run of a backbone's stacks."""
    layers = {
        "encoder": backbone.encoder_layers[0].self_attention.query,
        "decoder": backbone.decoder_layers[0].self_attention.query,
        "projection": backbone.decoder_layers[0].cross_attention.key,
    }
    calls = {name: [] for name in layers}

    def counted(name, call):
        def wrapper(*args, **kwargs):
            calls[name].append(args[0].shape[0])
            return call(*args, **kwargs)

        return wrapper

    for name, layer in layers.items():
        layer.call = counted(name, layer.call)
    return calls


# === The prefix is encoded once ===


def test_training_encodes_once_for_all_unrolls():
    model = make("diffusion", compile_options={"objective": Sundae(3), **EAGERLY})
    calls = count_calls(model.backbone)
    rows = {key: np.array(value) for key, value in model.preprocessor(TEXTS).items()}
    model(rows, training=True)
    assert calls == {"encoder": [4], "decoder": [4] * 4, "projection": [4]}


def test_generation_encodes_once_for_all_steps_and_canvases():
    sampler = SundaeSampler(3, num_canvases=2, stop_when_unchanged=False)
    model = make("diffusion", compile_options={"sampler": sampler, **EAGERLY})
    calls = count_calls(model.backbone)
    model.generate(PROMPTS, max_length=8, seed=1)
    assert calls["encoder"] == calls["projection"] == [3]  # prompts, not canvases
    # A backend that compiles the loop shows its body when it traces it, not step by step.
    steps = 1 if keras.config.backend() == "jax" else 3
    assert len(calls["decoder"]) >= steps
    assert set(calls["decoder"]) == {6}


def test_autoregressive_generation_encodes_once():
    model = make("causal")
    model.compile(sampler="greedy", **EAGERLY)
    calls = count_calls(model.backbone)
    model.generate(PROMPTS, max_length=6)
    assert calls["encoder"] == calls["projection"] == [3]
    assert len(calls["decoder"]) >= 2  # the first pass, and then column by column


# === Generation ===


def greedy(model, prompt, length):
    """Generate without a cache, one full call a token."""
    rows = model.preprocessor.generate_preprocess([prompt], length)
    tokens, start = rows["token_ids"], 1
    everything = {**rows, "padding_mask": np.ones_like(rows["padding_mask"])}
    for index in range(start, length):
        logits = to_numpy(model({**everything, "token_ids": tokens}))
        tokens[0, index] = logits[0, index - 1].argmax()
        if tokens[0, index] == model.preprocessor.end_token_id:
            return model.preprocessor.detokenize([tokens[0, start:index]])[0]
    return model.preprocessor.detokenize([tokens[0, start:]])[0]


def test_cached_greedy_generation_equals_uncached():
    model = make("causal", 0.5, {"sampler": "greedy"}, **TWO_EACH)
    expected = [greedy(model, prompt, 10) for prompt in PROMPTS]
    assert model.generate(PROMPTS, max_length=10) == expected
    assert model.generate(PROMPTS, max_length=10, strip_prompt=True) == expected
    assert model.generate(PROMPTS[1], max_length=10) == expected[1]
    assert len(set(expected)) > 1
    assert all(expected)


def test_beams_carry_what_was_encoded():
    sampler = keras_hub.samplers.BeamSampler(num_beams=1)
    model = make("causal", 0.5, {"sampler": sampler}, **TWO_EACH)
    beam = model.generate(PROMPTS, max_length=10)
    model.compile(sampler="greedy", jit_compile=tiny.JIT)
    assert beam == model.generate(PROMPTS, max_length=10)
    model.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=3), jit_compile=tiny.JIT)
    assert len(model.generate(PROMPTS, max_length=10)) == 3


def test_the_same_seed_gives_the_same_text_on_every_backend(lm):
    assert lm.generate(PROMPTS, seed=7) == GOLDEN


def test_a_row_is_the_same_alone_and_in_batches(lm):
    together = lm.generate(PROMPTS, seed=3)
    assert together == [lm.generate(prompt, seed=3) for prompt in PROMPTS]
    assert together[::-1] == lm.generate(PROMPTS[::-1], seed=3, batch_size=2)
    texts = lm.generate(["the cat"] * 4, seed=3)
    assert len(set(texts)) > 1


def test_max_length_counts_the_start_token_and_the_text(lm):
    _, trajectory = lm.generate("the", max_length=9, seed=1, return_trajectory=True)
    assert trajectory.canvases.shape == (5, 1, 9)
    assert trajectory.target_mask.sum() == 8
    assert (trajectory.canvases[:, :, 0] == lm.preprocessor.row_start_token_id()).all()


def test_tokenized_prompts(lm):
    rows = lm.preprocessor.pack_prompts(PROMPTS, 16, learn_padding=True)
    ids = {key: rows[key] for key in ("token_ids", "encoder_token_ids", "encoder_padding_mask")}
    ids["padding_mask"] = rows["prompt_mask"]
    outputs = lm.generate(ids, seed=3, strip_prompt=True)
    pairs = zip(outputs["token_ids"], outputs["padding_mask"], strict=True)
    texts = lm.preprocessor.detokenize([row[mask] for row, mask in pairs])
    assert texts == lm.generate(PROMPTS, seed=3)
    causal = CausalLM(tiny.encoder_decoder(attention="causal"))
    causal.compile(sampler="greedy", jit_compile=tiny.JIT)
    outputs = causal.generate(ids, stop_token_ids=None)
    np.testing.assert_array_equal(outputs["token_ids"][:, 0], ids["token_ids"][:, 0])


def test_infill_gives_the_encoder_what_stands_before_the_first_gap(lm):
    pieces, lengths = ["the ", " cat", " hat"], [3, 2]
    text, trajectory = lm.infill(pieces, lengths, seed=1, return_trajectory=True)
    assert text.startswith("the ")
    assert text.endswith(" hat")
    assert " cat" in text[4:-4]
    assert trajectory.target_mask.sum() == 5
    others = lm.infill([pieces, ["a", "b"]], [lengths, [2]], seed=1)
    assert others[0] == text
    assert others[1].startswith("a")
    moved = lm.infill(["a dog ", *pieces[1:]], lengths, seed=1)
    assert moved.removeprefix("a dog ") != text.removeprefix("the ")


# === Training, scores ===


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_learns_a_few_texts_and_is_saved(kind, tmp_path):
    model = make(kind)
    before = model.evaluate(TEXTS, verbose=0, return_dict=True)
    model.fit(TEXTS, batch_size=2, epochs=25, verbose=0)
    after = model.evaluate(TEXTS, verbose=0, return_dict=True)
    assert after["loss"] < before["loss"] - 1
    assert after["accuracy"] > before["accuracy"] + 0.3
    rows = {key: np.array(value) for key, value in model.preprocessor(TEXTS).items()}
    assert model.evaluate(rows, verbose=0, return_dict=True) == pytest.approx(after, rel=1e-4)
    logits = model.predict(rows, batch_size=4, verbose=0)
    path = str(tmp_path / "model.keras")
    model.save(path)
    twin = keras.saving.load_model(path)
    assert twin.preprocessor.get_config() == model.preprocessor.get_config()
    direct = to_numpy(twin({name: rows[name] for name in twin.backbone.input}))
    np.testing.assert_allclose(logits, direct, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight(kind):
    # Layers share position biases.
    options = {"gradient_checkpointing": True, "num_position_buckets": 4, **TWO_EACH}
    model = make(kind, dtype="mixed_bfloat16", **options)
    before = {weight.path: to_numpy(weight) for weight in model.trainable_variables}
    model.fit(TEXTS, batch_size=4, epochs=2, verbose=0)
    still = [w.path for w in model.trainable_variables if (to_numpy(w) == before[w.path]).all()]
    assert still == (["decoder_position_bias/ahead"] if kind == "causal" else [])


def test_causal_loss_equals_keras():
    model = make("causal")
    rows = model.preprocessor(TEXTS)
    names = model.backbone.input
    logits = to_numpy(model({name: rows[name] for name in names}))
    losses = to_numpy(
        keras.losses.sparse_categorical_crossentropy(
            rows["token_ids"][:, 1:], logits[:, :-1], from_logits=True
        )
    )
    expected = losses[rows["target_mask"][:, 1:]].mean()
    result = model.evaluate(TEXTS, batch_size=4, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(expected, rel=1e-4)


def test_scores_read_the_prompt(lm):
    scores = lm.score(TEXTS)
    rows = lm.preprocessor(TEXTS)
    logits = to_numpy(lm({name: rows[name] for name in lm.backbone.input})).astype("float64")
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(logits, rows["token_ids"][..., None], axis=-1)[..., 0]
    for row, text in enumerate(TEXTS["responses"]):
        stop = 1 + len(lm.preprocessor.tokenize([text])[0]) + 1
        np.testing.assert_allclose(scores[row], chosen[row, 1:stop].mean(), rtol=1e-3)
    swapped = {**TEXTS, "prompts": TEXTS["prompts"][::-1]}
    assert np.abs(lm.score(swapped) - scores).max() > 1e-2


def test_denoiser_cross_entropy_reads_the_prompt(lm):
    one, many = (denoiser_cross_entropy(lm, TEXTS, (0.0, 0.5), batch_size=n) for n in (1, 64))
    assert one == pytest.approx(many, rel=1e-5)
    swapped = {**TEXTS, "prompts": TEXTS["prompts"][::-1]}
    assert denoiser_cross_entropy(lm, swapped, (0.0,))[0.0] != pytest.approx(one[0.0], rel=1e-3)


def test_logit_shift_reads_the_position_before(lm):
    rows = lm.preprocessor(TEXTS)
    rows = {name: rows[name] for name in lm.backbone.input}
    shifted = DiffusionLM(lm.backbone, lm.preprocessor, logit_shift=True)
    before, after = to_numpy(lm(rows)), to_numpy(shifted(rows))
    np.testing.assert_allclose(after[:, 1:], before[:, :-1], rtol=1e-4, atol=1e-5)


def test_int8_stays_close_and_trains_lora():
    model = make("diffusion")
    rows = model.preprocessor(TEXTS)
    rows = {name: rows[name] for name in model.backbone.input}
    before = to_numpy(model(rows))
    quantize(model, "int8")
    after = to_numpy(model(rows))
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()
    model.enable_lora(2)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=tiny.JIT)
    assert np.isfinite(model.fit(TEXTS, batch_size=2, verbose=0).history["loss"]).all()


# === Rows ===


def test_rows_of_encoder_and_decoder():
    tokenizer = tiny.tokenizer()
    options = {"sequence_length": 6, "prefix_length": 5, "decoder_start_token_id": 9}
    texts = {"prompts": ["the", "a long text"], "responses": ["in", "a long text"]}
    end = tokenizer.end_token_id
    tokens = [int(token) for token in tokenizer(texts["prompts"][1])]
    for cls, learned in ((DiffusionLMPreprocessor, True), (CausalLMPreprocessor, False)):
        rows = cls(tokenizer, add_start_token=False, **options)(texts)
        encoder = [[29, end, end, end, end], [*tokens[:4], end]]
        np.testing.assert_array_equal(rows["encoder_token_ids"], encoder)
        np.testing.assert_array_equal(rows["encoder_padding_mask"].sum(axis=1), [2, 5])
        decoder = [[9, 30, end, end, end, end], [9, *tokens[:5]]]
        np.testing.assert_array_equal(rows["token_ids"], decoder)
        np.testing.assert_array_equal(rows["prompt_mask"].sum(axis=1), [1, 1])
        np.testing.assert_array_equal(rows["target_mask"].sum(axis=1), [5 if learned else 2, 5])


def test_documents_are_split_for_both_models():
    for kind in KINDS:
        preprocessor = make(kind).preprocessor
        rows = preprocessor(["the cat in the hat and the dog on a log"] * 20)
        lengths = rows["encoder_padding_mask"].sum(axis=1)
        assert lengths.min() >= 2  # start and end
        assert lengths.max() <= 12
        assert len(set(lengths)) > 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm.generate("a", max_length=1), "`max_length` must be at least 2"),
        (
            lambda lm: lm.generate({"token_ids": [[1, 2]]}),
            "Tokenized prompts are a dict of 'token_ids' and 'padding_mask'",
        ),
        (lambda lm: lm.generate("a" * 30), "Prompt 0 has 31 tokens and an end token.*of 12"),
        (lambda lm: lm.infill(["a" * 30, "b"], [2]), "Prompt 0 has 31 tokens"),
        (lambda lm: lm.score({"token_ids": [[1, 2]]}), "needs 'encoder_token_ids'"),
        (
            lambda lm: lm.score({"token_ids": [[1, 2]], "encoder_token_ids": [[1], [2]]}),
            "as many rows as 'token_ids', 1. Got 2",
        ),
        (
            lambda lm: lm.score({"token_ids": [[1, 2]], "encoder_token_ids": [[99]]}),
            r"`encoder_token_ids` must lie in \[0, 33\)",
        ),
    ],
)
def test_bad_calls_are_refused(lm, call, message):
    with pytest.raises(ValueError, match=message):
        call(lm)


@pytest.mark.parametrize(
    ("make_model", "message"),
    [
        (
            lambda: DiffusionLM(
                tiny.encoder_decoder(), DiffusionLMPreprocessor(tiny.tokenizer(), 16)
            ),
            "EncoderDecoderBackbone needs as `prefix_length` the length of its encoder's rows",
        ),
        (
            lambda: DiffusionLM(
                tiny.backbone(), DiffusionLMPreprocessor(tiny.tokenizer(), 16, prefix_length=8)
            ),
            "TransformerBackbone needs as `prefix_length` None: one row for all. Got 8",
        ),
        (
            lambda: DiffusionLM(
                tiny.encoder_decoder(),
                DiffusionLMPreprocessor(
                    tiny.tokenizer(), 16, prefix_length=8, decoder_start_token_id=33
                ),
            ),
            "`decoder_start_token_id` is 33 and the backbone's vocabulary 33",
        ),
        (
            lambda: DiffusionLMPreprocessor(tiny.tokenizer(), 16, decoder_start_token_id=3),
            "set `prefix_length`, too",
        ),
        (lambda: DiffusionLMPreprocessor(tiny.tokenizer(), 16, prefix_length=1), "prefix_length"),
        (lambda: CausalLM(tiny.encoder_decoder()), "attention='causal'"),
        (lambda: DiffusionLM(tiny.encoder_decoder(attention="causal")), "cannot denoise"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make_model, message):
    with pytest.raises(ValueError, match=message):
        make_model()


GOLDEN = ["thathmothmm themmth", "ththththththththththththththth", "ravkvkk   thelvrkk"]
