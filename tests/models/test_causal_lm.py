import keras
import keras_hub
import numpy as np
import pytest

from keras_textdiff.models import CausalLM
from tests import tiny
from tests.tiny import TEXTS, to_numpy

PROMPTS = ["the cat", "a", "one two"]


def greedy(model, prompt, length):
    """Generate without a cache, one full call a token."""
    tokens = model.preprocessor.tokenize_prompts([prompt])[0]
    while len(tokens) < length:
        row = np.array([tokens + [0] * (length - len(tokens))])
        logits = to_numpy(model({"token_ids": row, "padding_mask": np.arange(length)[None] >= 0}))
        tokens.append(int(logits[0, len(tokens) - 1].argmax()))
        if tokens[-1] == model.preprocessor.end_token_id:
            break
    return model.preprocessor.detokenize([tokens])[0]


def test_cached_greedy_generation_equals_uncached():
    model = tiny.causal_lm(num_layers=2)  # what one layer caches is of single tokens
    model.compile(sampler="greedy")
    expected = [greedy(model, prompt, 16) for prompt in PROMPTS]
    assert model.generate(PROMPTS, max_length=16) == expected
    assert [model.generate(prompt, max_length=16) for prompt in PROMPTS] == expected
    assert len(set(expected)) == 3
    assert any(len(text) > len(p) for text, p in zip(expected, PROMPTS, strict=True))


@pytest.mark.parametrize(
    "sampler",
    [
        "top_k",
        keras_hub.samplers.TopPSampler(p=0.9, seed=1),
        keras_hub.samplers.RandomSampler(temperature=0.5, seed=1),
        keras_hub.samplers.BeamSampler(num_beams=2),
    ],
)
def test_keras_hub_samplers_write_text(sampler):
    model = tiny.causal_lm()
    model.compile(sampler=sampler, jit_compile=tiny.JIT)
    texts = model.generate(PROMPTS, max_length=12)
    assert all(text.startswith(prompt) for text, prompt in zip(texts, PROMPTS, strict=True))
    stripped = model.generate(PROMPTS, max_length=12, strip_prompt=True)
    assert all(isinstance(text, str) for text in stripped)


def test_loss_equals_keras():
    model = tiny.causal_lm()
    model.compile(jit_compile=tiny.JIT)
    rows = model.preprocessor(TEXTS)
    logits = to_numpy(model({key: rows[key] for key in ("token_ids", "padding_mask")}))
    losses = to_numpy(
        keras.losses.sparse_categorical_crossentropy(
            rows["token_ids"][:, 1:], logits[:, :-1], from_logits=True
        )
    )
    expected = losses[rows["target_mask"][:, 1:]].mean()
    result = model.evaluate(TEXTS, batch_size=4, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(expected, rel=1e-4)


def test_bad_prompts_are_refused():
    model = tiny.causal_lm()
    assert model.generate([]) == []
    with pytest.raises(ValueError, match="Prompt 0 has"):
        model.generate("the cat in the hat", max_length=4)
    with pytest.raises(ValueError, match="`max_length`"):
        model.generate("a", max_length=0)
    with pytest.raises(ValueError, match="a list of strings"):
        model.generate(None)
    with pytest.raises(ValueError, match="padding_mask', 'token_ids"):
        model.generate({"token_ids": [[1, 2]], "padding_mask": [[True, False]]})
    with pytest.raises(ValueError, match="`stop_token_ids`"):
        model.generate("a", stop_token_ids=[])
    model.preprocessor.add_start_token = False
    with pytest.raises(ValueError, match="no tokens"):
        model.generate([""])


def test_tokenized_prompts():
    model = tiny.causal_lm()
    text = model.generate("the cat", max_length=12, stop_token_ids=None)
    rows = model.preprocessor.generate_preprocess("the cat", 12)
    model = CausalLM(model.backbone)
    model.compile(sampler="greedy")
    outputs = model.generate(rows, stop_token_ids=None)
    assert set(outputs) == {"token_ids", "padding_mask"}
    assert tiny.causal_lm().preprocessor.generate_postprocess(outputs) == [text]
    for prompts, message in (
        ({**rows, "token_ids": rows["token_ids"] + 40}, r"\[0, 33\)"),
        ({**rows, "padding_mask": rows["padding_mask"] | True}, "Row 0 is all prompt"),
        ("text", "Got str. Text needs a preprocessor"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(prompts, stop_token_ids=None)


def test_nan_is_an_error_that_names_the_prompt():
    model = tiny.causal_lm(tie_embeddings=False)
    embeddings = to_numpy(model.backbone.token_embedding.embeddings).copy()
    embeddings[model.preprocessor.tokenizer.token_to_id("z")] = np.nan
    model.backbone.token_embedding.embeddings.assign(embeddings)
    with pytest.raises(ValueError, match="NaN or infinite numbers for prompt 1, at the first step"):
        model.generate(["a", "z", "b"])


def tokens_give_nan(model, tokens):
    embeddings = to_numpy(model.backbone.token_embedding.embeddings).copy()
    embeddings[tokens] = np.nan
    model.backbone.token_embedding.embeddings.assign(embeddings)


def test_nan_of_a_later_step_is_an_error_that_names_the_position():
    """Its cause is a token that was written: the prompt's numbers are all finite."""
    model = CausalLM(tiny.backbone(attention="causal", tie_embeddings=False, seed=1))
    model.compile(sampler="greedy", jit_compile=tiny.JIT)
    prompt = {"token_ids": np.array([[5, 6, 7, 0, 0, 0, 0, 0]] * 2, "int32")}
    prompt["padding_mask"] = np.arange(8) < np.full((2, 1), 3)
    written = model.generate(prompt, stop_token_ids=None)["token_ids"][0]
    new = next(place for place in range(4, 7) if written[place] not in written[:place])
    tokens_give_nan(model, written[new])
    with pytest.raises(ValueError, match=f"for prompt 0, at position {new + 1} of the row"):
        model.generate(prompt, stop_token_ids=None)
    # Behind the end of a text, it does not matter.
    ended = model.generate(prompt, stop_token_ids=(int(written[new]),))
    np.testing.assert_array_equal(ended["token_ids"][0, : new + 1], written[: new + 1])


@pytest.mark.parametrize("sampler", ["top_p", "top_k", keras_hub.samplers.BeamSampler(2)])
def test_nan_is_found_with(sampler):
    model = CausalLM(tiny.backbone(attention="causal", tie_embeddings=False, seed=1))
    model.compile(sampler=sampler, jit_compile=tiny.JIT)
    prompt = {"token_ids": np.array([[5, 6, 7, 0, 0, 0, 0, 0]], "int32")}
    prompt["padding_mask"] = np.arange(8)[None] < 3
    tokens_give_nan(model, [*range(1, 5), *range(8, 33)])  # whatever is written
    with pytest.raises(ValueError, match=r"for prompt 0, at position \d of the row"):
        model.generate(prompt, stop_token_ids=None)


def test_learned_positions_limit_the_length():
    model = tiny.causal_lm(rope=None, num_learned_positions=16)
    with pytest.raises(ValueError, match=r"16 learned positions; rows of 24 tokens do not fit"):
        model.generate("a")
    assert model.generate("a", max_length=16)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (keras_hub.samplers.TopPSampler(p=1.5), r"TopPSampler.p` must be at most 1"),
        (keras_hub.samplers.TopPSampler(p=0.0), r"TopPSampler.p` must be at least"),
        (keras_hub.samplers.TopPSampler(p=0.9, k=0), r"TopPSampler.k` must be at least 1"),
        (keras_hub.samplers.TopKSampler(k=0), r"TopKSampler.k` must be at least 1"),
        (keras_hub.samplers.RandomSampler(temperature=-1.0), r"temperature` must be at least"),
        (keras_hub.samplers.BeamSampler(num_beams=0), r"num_beams` must be at least 1"),
    ],
)
def test_samplers_that_cannot_work_are_refused(sampler, message):
    with pytest.raises(ValueError, match=message):
        tiny.causal_lm().compile(sampler=sampler)
