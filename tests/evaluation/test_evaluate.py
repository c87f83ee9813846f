"""Models evaluated on tasks, from text to table."""

import json
import types

import keras
import keras_hub
import pytest

from keras_textdiff.evaluation import (
    CodeTask,
    CrossEntropyTask,
    LikelihoodTask,
    QuestionAnsweringTask,
    TranslationTask,
    bleu,
    denoiser_cross_entropy,
    evaluate,
    likelihood_bound,
    log_likelihood,
)
from keras_textdiff.evaluation.generate_texts import generate_texts
from keras_textdiff.models import CausalLM, CausalLMPreprocessor
from keras_textdiff.samplers import SundaeSampler
from keras_textdiff.utils import random
from tests import tiny
from tests.evaluation.test_code_task import sandbox
from tests.evaluation.test_log_likelihood import keras_hub_lm

PAIRS = [
    {"en": prompt, "fr": response, "answers": [response.strip(), "other"]}
    for prompt, response in zip(tiny.TEXTS["prompts"], tiny.TEXTS["responses"], strict=True)
]
CODE = {
    "prompts": ['def f(x):\n ""\n', 'def g(x):\n ""\n'],
    "responses": [" return x", " return x x"],
}


def diffusion_lm(**config):
    lm = tiny.diffusion_lm(**config)
    lm.compile(sampler=SundaeSampler(2, num_canvases=1), jit_compile=tiny.JIT)
    return lm


@pytest.fixture(scope="module")
def memory():
    """An autoregressive model that knows the pairs and the programs by heart."""
    tokens = ["<|endoftext|>", *map(chr, range(97, 123)), *'():"', "Ċ", "Ġ", "in"]
    tokenizer = keras_hub.models.GPT2Tokenizer(
        vocabulary={token: index for index, token in enumerate(tokens)}, merges=["i n"]
    )
    preprocessor = CausalLMPreprocessor(tokenizer, sequence_length=28)
    config = {"vocabulary_size": 34, "num_layers": 1, "attention": "causal"}
    lm = CausalLM(tiny.backbone(scale=0.1, **config), preprocessor)
    lm.compile(optimizer=keras.optimizers.Adam(2e-2), jit_compile=tiny.JIT)
    data = {name: tiny.TEXTS[name] + CODE[name] for name in CODE}
    lm.fit(data, batch_size=6, epochs=40, shuffle=False, verbose=0)
    return lm


def test_translation_of_a_model_that_knows_the_answers(memory):
    task = TranslationTask(PAIRS, prompt="{en}")
    report = evaluate(memory, task, batch_size=3)
    assert [row["prediction"] for row in report.outputs] == [row["fr"].strip() for row in PAIRS]
    references = [row["fr"] for row in PAIRS]
    expected = bleu([text.strip() for text in references], references)
    assert report.metrics == {"bleu": expected["bleu"]}
    assert report.details["signature"] == expected["signature"]
    assert report.details["examples"] == 4


def test_question_answering_of_a_model_that_knows_the_answers(memory):
    rows = [{**row, "question": row["en"], "context": ""} for row in PAIRS]
    rows[0]["answers"] = ["the hat", "something else"]
    report = evaluate(memory, QuestionAnsweringTask(rows, prompt="{question}{context}"))
    # "in the hat" against "the hat": 1 of 2 and 1 of 1 words.
    assert report.metrics == {"exact_match": 75.0, "f1": pytest.approx(75 + 25 * 2 / 3)}
    assert report.outputs[0]["prediction"] == "in the hat"


def test_code_of_a_model_that_knows_the_programs(memory):
    problems = [
        {
            "task_id": name,
            "prompt": prompt,
            "canonical_solution": " return x",
            "entry_point": name,
            "test": "def check(candidate):\n    assert candidate(2) == 2\n",
        }
        for name, prompt in zip("fg", CODE["prompts"], strict=True)
    ]
    task = CodeTask(problems, "human_eval", sandbox=sandbox(), num_samples=2, k=(1, 2))
    calls = []
    report = evaluate(memory, task, progress=lambda *call: calls.append(call))
    assert report.metrics == {"pass@1": 50.0, "pass@2": 50.0}
    assert report.details["statuses"] == {"pass": 2, "error": 2}
    assert report.outputs[0]["statuses"] == ["pass", "pass"]
    assert report.outputs[0]["completions"] == [" return x", " return x"]
    assert calls == [
        ("generating", 2, 4),
        ("generating", 4, 4),
        ("testing", 1, 2),
        ("testing", 2, 2),
    ]


def test_texts_are_those_of_generate_whatever_the_batch():
    lm = diffusion_lm()
    prompts = ["the cat", "a dog", "one", "a dog", "the hen is"]
    one, two = (
        generate_texts(lm, prompts, num_samples=2, batch_size=size, seed=3) for size in (1, 2)
    )
    assert one == two
    for sample in range(2):
        seed = int(random.generator("samples", 3, step=sample).integers(2**31))
        for prompt, texts in zip(prompts, one, strict=True):
            whole = lm.generate(prompt, seed=seed)
            assert texts[sample] == whole.removeprefix(prompt)
            assert whole.startswith(prompt)
    assert one[0][0] != one[0][1]
    assert one[1] == one[3]


@pytest.mark.parametrize("kind", ["causal", "diffusion"])
def test_texts_of_a_model_with_an_encoder_are_all_that_it_writes(kind):
    lm = tiny.encoder_decoder_lm(kind, sequence_length=8, prefix_length=30, num_decoder_layers=2)
    sampler = "greedy" if kind == "causal" else SundaeSampler(2, num_canvases=1)
    lm.compile(sampler=sampler, jit_compile=tiny.JIT)
    # Longer than what is written, and beginning with every letter, as some texts do.
    letters = "abcdefghijklmnopqrstuvwxyz"
    prompts = [
        f"{letter} {word} in the hat" for word in ("cat", "dog", "log") for letter in letters
    ]
    seed = int(random.generator("samples", 0, step=0).integers(2**31))
    expected = lm.generate(prompts, **({} if kind == "causal" else {"seed": seed}))
    assert any(text[:1] == prompt[0] for text, prompt in zip(expected, prompts, strict=True))
    assert generate_texts(lm, prompts) == [[text] for text in expected]


def test_lengths_come_in_buckets_and_batches_have_one_size():
    lm = tiny.diffusion_lm()
    shapes = []

    def generate(inputs, max_length, seed):
        shapes.append((len(inputs), max_length))
        return [f"{prompt} {max_length}" for prompt in inputs]

    lm.generate = generate
    prompts = ["a" * length for length in (1, 2, 3, 20, 50, 52, 55, 60)]
    texts = generate_texts(lm, prompts, response_length=40, batch_size=3)
    assert shapes == [(2, 64), (2, 64), (2, 128), (2, 128)]
    assert texts == [[" 64"]] * 4 + [[" 128"]] * 4
    shapes.clear()
    generate_texts(lm, [*prompts[:3], "b", "c"], batch_size=4)
    assert shapes == [(3, 24), (3, 24)]  # the second one filled up


def test_long_prompts_are_refused_before_the_work():
    with pytest.raises(ValueError, match="1 of 2 prompts"):
        generate_texts(diffusion_lm(), ["a", "a" * 30])


def test_random_samplers_follow_the_seed():
    lm = tiny.causal_lm(sequence_length=8, scale=0.1)
    lm.compile(sampler="random", jit_compile=tiny.JIT)
    first, again, other = (
        generate_texts(lm, ["the cat", "a"], num_samples=2, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert [texts[0] for texts in first] != [texts[1] for texts in first]


def test_a_model_of_keras_hub():
    lm = keras_hub_lm()
    lm.compile(sampler="greedy", jit_compile=tiny.JIT)
    task = TranslationTask(PAIRS, prompt="{en}")
    report = evaluate(lm, task)
    expected = lm.generate(tiny.TEXTS["prompts"], strip_prompt=True)
    assert [row["prediction"] for row in report.outputs] == [text.strip() for text in expected]
    assert report.model == "GPT2CausalLM"


def test_likelihood_and_cross_entropy():
    lm, causal_lm = diffusion_lm(), tiny.causal_lm()
    report = evaluate(lm, LikelihoodTask(tiny.TEXTS, num_steps=3, num_samples=2), seed=5)
    expected = likelihood_bound(lm, tiny.TEXTS, num_steps=3, num_samples=2, seed=5)
    assert list(report.metrics) == ["nats_per_token", "standard_error", "perplexity"]
    assert report.metrics["nats_per_token"] == expected["nats_per_token"]
    assert report.details["kind"] == "bound from above"
    assert report.details["tokens"] == expected["num_tokens"]

    report = evaluate(causal_lm, LikelihoodTask(tiny.TEXTS))
    expected = log_likelihood(causal_lm, tiny.TEXTS)
    assert report.metrics == {name: expected[name] for name in ("nats_per_token", "perplexity")}
    assert report.details["kind"] == "exact"

    calls = []
    task = CrossEntropyTask(tiny.TEXTS, noise_levels=(0.3, 0.5))
    report = evaluate(lm, task, batch_size=3, progress=lambda *call: calls.append(call), seed=2)
    expected = denoiser_cross_entropy(lm, tiny.TEXTS, (0.3, 0.5), seed=2)
    assert report.metrics["cross_entropy@0.3"] == pytest.approx(expected[0.3], rel=1e-5)
    assert calls == [("denoising", done, 8) for done in (3, 4, 7, 8)]


def test_the_report_prints_and_is_reproducible_and_goes_into_json():
    lm, task = diffusion_lm(), TranslationTask(PAIRS * 2, prompt="{en}")
    report, again, other = (evaluate(lm, task, seed=seed) for seed in (1, 1, 2))
    text = str(report)
    for words in ("DiffusionLM on translation", "bleu", "nrefs:1|", "examples", "seconds"):
        assert words in text
    assert json.loads(json.dumps(report.to_dict()))["outputs"] == report.outputs
    assert dict(report.rows()) == {**report.metrics, **report.details}
    assert report.details["backend"] == keras.config.backend()
    assert len(report.outputs) == 8
    assert report.outputs == again.outputs
    assert report.outputs != other.outputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TranslationTask([{"en": "a"}]), "fr"),
        (lambda: TranslationTask("nowhere.jsonl"), "nowhere.jsonl"),
        (lambda: TranslationTask(PAIRS, tokenize="words"), "tokenize"),
        (lambda: TranslationTask([{"en": "a", "fr": 1}]), "position 0"),
        (lambda: TranslationTask(PAIRS, response_length=0), "response_length"),
        (lambda: TranslationTask(PAIRS, prompt="{de}"), "de"),
        (lambda: QuestionAnsweringTask(PAIRS), "question"),
        (lambda: QuestionAnsweringTask("nowhere.json"), "SQuAD"),
        (
            lambda: QuestionAnsweringTask([{"question": "a", "context": "b", "answers": "c"}]),
            "lists of one or more strings",
        ),
        (lambda: LikelihoodTask(["a"], num_samples=1), "num_samples"),
    ],
)
def test_bad_tasks(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_calls():
    lm, task = diffusion_lm(), TranslationTask(PAIRS, prompt="{en}")
    for change, message in (
        ({"task": "translation"}, "EvaluationTask"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"lm": types.SimpleNamespace()}, "DiffusionLM"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(**{"lm": lm, "task": task, **change})
    lm.preprocessor = None
    with pytest.raises(ValueError, match="preprocessor"):
        evaluate(lm, task)
