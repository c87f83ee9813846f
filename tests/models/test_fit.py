"""Training on everything that users have, for both models."""

import functools

import grain
import keras
import numpy as np
import pytest

from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.objectives import Sundae
from keras_textdiff.samplers import SundaeSampler
from tests import tiny
from tests.presets.presets import quantize
from tests.tiny import TEXTS, to_numpy

MODELS = {"diffusion": tiny.diffusion_lm, "causal": tiny.causal_lm}


def make(kind, **options):
    model = MODELS[kind](scale=0.1)
    options = {"optimizer": keras.optimizers.Adam(0.01), "jit_compile": tiny.JIT, **options}
    model.compile(**options)
    return model


def make_eager():
    """A model for a few steps, for which tensorflow's tracing takes longest of all."""
    return make("diffusion", run_eagerly=keras.config.backend() == "tensorflow")


@functools.cache
def shared():
    """The same for all tests that take it with whatever weights it has by now."""
    return make_eager()


def tokenized(kind="diffusion"):
    return {key: np.array(value) for key, value in make(kind).preprocessor(TEXTS).items()}


class Texts(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {key: value[2 * index : 2 * index + 2] for key, value in TEXTS.items()}


class Tokens(Texts):
    """Batches in the tuples that Keras gives, tokenized."""

    def __getitem__(self, index):
        return (tiny.diffusion_lm().preprocessor(super().__getitem__(index)),)


class Endless(keras.utils.PyDataset):
    """Says by `num_batches`, as Keras asks for it, that it never ends."""

    num_batches = None

    def __getitem__(self, index):
        return Texts()[index % 2]


class Unsaid(keras.utils.PyDataset):
    """Says nothing about its length."""

    def __getitem__(self, index):
        return Texts()[index % 2]


def sources():
    """The same two batches of two examples, in every form."""
    import tensorflow as tf
    import torch

    rows = tokenized()
    texts = tf.data.Dataset.from_tensor_slices(TEXTS)
    examples = [{key: value[i] for key, value in TEXTS.items()} for i in range(4)]
    return {
        "texts in a dict": lambda: (TEXTS, 2),
        "strings": lambda: ([p + r for p, r in zip(*TEXTS.values(), strict=True)], 2),
        "tokenized": lambda: (rows, 2),
        "only token_ids": lambda: ({"token_ids": rows["token_ids"]}, 2),
        "PyDataset": lambda: (Texts(), None),
        "PyDataset of tuples": lambda: (Tokens(), None),
        "endless PyDataset": lambda: (Endless(), None),
        "tf.data of texts": lambda: (texts.batch(2), None),
        "tf.data of tokens": lambda: (tf.data.Dataset.from_tensor_slices(rows).batch(2), None),
        "tf.data of strings": lambda: (
            tf.data.Dataset.from_tensor_slices(TEXTS["prompts"]).batch(2),
            None,
        ),
        "grain.MapDataset": lambda: (grain.MapDataset.source(examples).batch(2), None),
        "grain.IterDataset": lambda: (
            grain.MapDataset.source(examples).to_iter_dataset().batch(2),
            None,
        ),
        "torch DataLoader": lambda: (torch.utils.data.DataLoader(examples, batch_size=2), None),
        "torch DataLoader of tokens": lambda: (
            torch.utils.data.DataLoader(
                [{key: value[i] for key, value in rows.items()} for i in range(4)], batch_size=2
            ),
            None,
        ),
        "list of batches": lambda: (iter([Texts()[0], Texts()[1]] * 2), None),
        "generator": lambda: ((Texts()[i % 2] for i in range(4)), None),
    }


SOURCES = [
    "texts in a dict",
    "strings",
    "tokenized",
    "only token_ids",
    "PyDataset",
    "PyDataset of tuples",
    "endless PyDataset",
    "tf.data of texts",
    "tf.data of tokens",
    "tf.data of strings",
    "grain.MapDataset",
    "grain.IterDataset",
    "torch DataLoader",
    "torch DataLoader of tokens",
    "list of batches",
    "generator",
]


@pytest.mark.parametrize("source", SOURCES)
def test_fit_takes(source):
    x, batch_size = sources()[source]()
    model = shared()
    steps = 2 if source in ("generator", "list of batches", "endless PyDataset") else None
    seen = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["loss"])

    model.fit(
        x, batch_size=batch_size, epochs=2, steps_per_epoch=steps, verbose=0, callbacks=[Count()]
    )
    assert len(seen) == 4
    assert np.isfinite(seen).all()


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_learns_a_few_texts(kind):
    model = make(kind)
    before = model.evaluate(TEXTS, verbose=0, return_dict=True)
    model.fit(TEXTS, batch_size=2, epochs=25, verbose=0)
    after = model.evaluate(TEXTS, verbose=0, return_dict=True)
    assert after["loss"] < before["loss"] - 1
    assert after["accuracy"] > before["accuracy"] + 0.3


def test_metrics_name_both_steps():
    history = shared().fit(TEXTS, batch_size=4, verbose=0).history
    names = {"loss", "loss_first", "loss_unrolled", "accuracy", "supervised_tokens"}
    assert set(history) == names
    assert history["loss"][0] == pytest.approx(
        history["loss_first"][0] + history["loss_unrolled"][0], rel=1e-4
    )
    rows = tokenized()
    assert history["supervised_tokens"][0] == rows["target_mask"].sum()


def test_evaluation_draws_the_same_noise_and_leaves_training_alone():
    model = make("diffusion")
    first, second = (model.evaluate(TEXTS, verbose=0, return_dict=True) for _ in range(2))
    assert first == second
    losses = []
    for validation_data in (None, TEXTS):
        keras.utils.set_random_seed(3)
        model = make("diffusion")
        history = model.fit(
            TEXTS, batch_size=2, epochs=3, validation_data=validation_data, verbose=0
        )
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_padding_is_learned_by_diffusion_and_masked_in_the_twin():
    diffusion, causal = tokenized(), tokenized("causal")
    assert diffusion["padding_mask"].all()
    assert diffusion["target_mask"][:, -1].all()
    assert not causal["target_mask"][:, -1].any()
    # The twin's target is the response and one end token.
    tokenizer = tiny.tokenizer()
    lengths = [len(tokenizer(text)) + 1 for text in TEXTS["responses"]]
    np.testing.assert_array_equal(causal["target_mask"].sum(axis=1), lengths)


def test_documents_are_split_anew_each_epoch_and_the_same_each_time():
    preprocessor = make("diffusion").preprocessor
    texts = ["the cat in the hat and the dog on a log"] * 8
    lengths = [preprocessor(texts, epoch=epoch)["prompt_mask"].sum(axis=1) for epoch in (0, 0, 1)]
    np.testing.assert_array_equal(lengths[0], lengths[1])
    assert len(set(lengths[0])) > 2
    assert (lengths[0] != lengths[2]).any()


def test_shuffling_changes_order_only():
    from keras_textdiff.data.batches import ExampleBatches

    batches = ExampleBatches(list("abcdefgh"), lambda x, epoch: x, 3, True, seed=1)
    epochs = []
    for _ in range(2):
        epochs.append([x for index in range(len(batches)) for x in batches[index]])
        batches.on_epoch_end()
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list("abcdefgh")


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ([], {}, "no examples"),
        ({"prompts": [], "responses": []}, {}, "no examples"),
        (TEXTS, {"batch_size": 0}, "`batch_size` must be at least 1"),
        (TEXTS, {"y": [1]}, "`y` is not used"),
        (TEXTS, {"validation_split": 0.1}, "validation_data"),
        ("text", {}, "list of strings"),
        ({"prompts": ["a"], "responses": ["b", "c"]}, {}, "same number"),
        ({"prompts": ["a"]}, {}, "'prompts' and 'responses'"),
        ([1, 2], {}, "strings"),
        (["a", "b", 3], {"batch_size": 1}, "Got int at position 2"),
        ({"prompts": ["a"], "responses": [3]}, {}, "Got int at position 0"),
        ({"prompts": "a", "responses": "b"}, {}, "must be a list"),
        ([b"\xff"], {}, "Text 0 is not UTF-8"),
        ({"token_ids": [[1, 99]]}, {}, r"\[0, 33\)"),
        ({"token_ids": [[1], [1], [99]]}, {"batch_size": 1}, r"outside at position \[2, 0\]"),
        ({"token_ids": [[1.0, float("nan")]]}, {}, "integers"),
        ({"token_ids": [[1, 2]], "padding_mask": [[True]]}, {}, "shape"),
        ({"token_ids": [[1, 2]], "target_mask": [[0.5, 1.0]]}, {}, "booleans"),
        ({"token_ids": [[1, 2]], "segment_ids": [[0.5, 1.0]]}, {}, "integers, one for each"),
        ({"token_ids": [[1, 2]], "segment_ids": [[1]]}, {}, "shape"),
        ({"token_ids": [[1, 2]], "labels": [[1, 2]]}, {}, "Unknown keys"),
        ({"token_ids": [[1, 2], [3]]}, {}, "'token_ids' has rows of different lengths"),
        (
            {
                "token_ids": [[1, 2]] * 2,
                "padding_mask": [[1, 1], [1, 0]],
                "target_mask": [[0, 1]] * 2,
            },
            {},
            "row 1, position 1 is padding",
        ),
        (
            {"token_ids": [[1, 2]], "prompt_mask": [[1, 0]], "target_mask": [[1, 1]]},
            {},
            "row 0, position 0 is part of the prompt",
        ),
        (Endless(), {}, "never ends.*`steps_per_epoch`"),
        (TEXTS, {"validation_data": Endless()}, "never ends.*`validation_steps`"),
        (Unsaid(), {}, "Unsaid does not say how many batches.*`__len__`"),
        (5, {}, "Cannot read batches"),
        (Texts(), {"batch_size": 2}, "yields batches"),
        ((x for x in [Texts()[0]]), {"steps_per_epoch": 2, "epochs": 2}, "after 1 batches; 4"),
        ((x for x in [Texts()[0]]), {"epochs": 2}, "read once, and epochs is 2"),
        (TEXTS, {"validation_data": iter([Texts()[0]])}, "Pass `validation_steps`"),
        (
            TEXTS,
            {"validation_data": iter([Texts()[0]]), "validation_steps": 2},
            "after 1 batches; validation_steps is 2",
        ),
        (TEXTS, {"validation_data": [3]}, "Got int at position 0"),
    ],
)
def test_bad_data_is_refused(x, options, message):
    with pytest.raises(ValueError, match=message):
        shared().fit(x, verbose=0, **options)


def bad_batches(num_good):
    yield from [Texts()[0]] * num_good
    yield [3]


def test_a_run_that_fails_leaves_the_model_whole():
    """Keras on jax empties the variables for a run, and leaves them so where it fails."""
    model = shared()
    model.fit(TEXTS, batch_size=2, verbose=0)
    trained = now(model)
    for run, num_good in (("evaluate", 0), ("evaluate", 3), ("predict", 3), ("fit", 0), ("fit", 3)):
        with pytest.raises(ValueError, match=r"^Texts must be strings") as caught:
            getattr(model, run)(bad_batches(num_good), verbose=0)
        assert (caught.value.__cause__ is None) == (
            keras.config.backend() != "tensorflow" or not num_good
        )
        changed = [path for path in trained if (now(model)[path] != trained[path]).any()]
        assert bool(changed) == (run == "fit" and num_good > 0)


class Bad(Texts):
    """Its second batch is none, read in the threads of Keras."""

    def __init__(self):
        super().__init__(workers=2)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 4:
            raise KeyError("no batch")
        return super().__getitem__(index % 2)


def test_an_error_of_a_dataset_arrives_as_it_was_raised():
    with pytest.raises(KeyError, match="no batch"):
        shared().fit(Bad(), verbose=0)
    with pytest.raises(KeyError, match="no batch"):
        shared().fit(TEXTS, validation_data=Bad(), verbose=0)


def now(model):
    return {weight.path: to_numpy(weight) for weight in model.weights}


def test_rows_without_supervised_tokens_are_counted():
    model = shared()
    rows = tokenized()
    rows["target_mask"][1:3] = False
    with pytest.warns(UserWarning, match="2 of 4 rows had no supervised token"):
        model.fit(rows, batch_size=2, verbose=0)
    rows["target_mask"][:] = False
    with pytest.warns(UserWarning, match="4 of 4"):
        assert model.fit(rows, batch_size=2, verbose=0).history["loss"] == [0]
    with pytest.warns(UserWarning, match="4 of 4"):
        model.fit(rows, validation_data=TEXTS, batch_size=2, verbose=0)
    with pytest.warns(UserWarning, match="4 of 4"):
        model.fit(TEXTS, validation_data=rows, batch_size=2, epochs=2, verbose=0)


@pytest.mark.parametrize("source", ["PyDataset", "endless PyDataset", "generator"])
def test_validation_takes(source):
    """The same loss whatever holds the data, epoch after epoch: nothing is read off."""
    model = make("diffusion", optimizer=keras.optimizers.SGD(0.0))
    expected = model.evaluate(TEXTS, batch_size=2, verbose=0, return_dict=True)["loss"]
    steps = None if source == "PyDataset" else 2
    history = model.fit(
        TEXTS,
        batch_size=2,
        epochs=3,
        validation_data=sources()[source]()[0],
        validation_steps=steps,
        verbose=0,
    ).history
    np.testing.assert_allclose(history["val_loss"], [expected] * 3, rtol=1e-5)


@pytest.mark.parametrize("name", ["loss", "metrics", "weighted_metrics"])
def test_compile_takes_an_objective_instead_of(name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        tiny.diffusion_lm().compile("adam", **{name: ["mse"]})


@pytest.mark.parametrize(("kind", "objective"), [("diffusion", "next_token"), ("causal", "sundae")])
def test_an_objective_must_fit_the_attention(kind, objective):
    with pytest.raises(ValueError, match="trains models whose attention is one of"):
        make(kind, objective=objective)
    tiny.diffusion_lm(attention="prefix").compile(objective="next_token")


def test_attention_must_fit_the_model():
    with pytest.raises(ValueError, match="cannot denoise"):
        DiffusionLM(tiny.backbone(attention="causal"))
    with pytest.raises(ValueError, match="attention='causal'"):
        CausalLM(tiny.backbone())


def test_a_tokenizer_larger_than_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"32 tokens.*vocabulary 20"):
        tiny.diffusion_lm(vocabulary_size=20)


@pytest.mark.parametrize("kind", MODELS)
def test_a_keras_file_keeps_weights_and_compilation(kind, tmp_path):
    model = make(kind)
    if kind == "diffusion":
        model.compile("adam", objective=Sundae(2), sampler="argmax_unrolled", jit_compile=tiny.JIT)
    model.fit(TEXTS, batch_size=2, verbose=0)
    path = str(tmp_path / "model.keras")
    model.save(path)
    twin = keras.saving.load_model(path)
    assert twin.get_compile_config() == model.get_compile_config()
    rows = {key: value for key, value in tokenized(kind).items() if key != "target_mask"}
    np.testing.assert_array_equal(to_numpy(twin(rows)), to_numpy(model(rows)))


def test_a_keras_file_keeps_a_sampler_of_the_user(tmp_path):
    class Mine(SundaeSampler):
        pass

    model = tiny.diffusion_lm()
    model.compile(sampler=Mine(3))
    model.optimizer.build(model.trainable_variables)  # else Keras warns that it was not
    path = str(tmp_path / "model.keras")
    model.save(path)
    twin = keras.saving.load_model(path, custom_objects={"Mine": Mine})
    assert type(twin.sampler) is Mine
    assert twin.sampler.num_denoising_steps == 3


@pytest.mark.parametrize("kind", MODELS)
def test_a_config_makes_a_twin_where_keras_clones_layers(kind):
    model = make(kind)
    with pytest.raises(ValueError, match=r"`clone_model` cannot copy a .*LM\. .*from_config"):
        keras.models.clone_model(model)
    twin = type(model).from_config(model.get_config())
    twin.set_weights(model.get_weights())
    rows = {key: value for key, value in tokenized(kind).items() if key != "target_mask"}
    np.testing.assert_array_equal(to_numpy(twin(rows)), to_numpy(model(rows)))


@pytest.mark.parametrize("kind", MODELS)
def test_lora_trains_and_leaves_the_rest(kind):
    """Also after training and generating, for which other weights were compiled."""
    samplers = {"diffusion": SundaeSampler(2, num_canvases=1), "causal": "greedy"}
    model = make(kind, sampler=samplers[kind])
    model.fit(TEXTS, batch_size=2, verbose=0)
    model.generate("the", max_length=16)
    model.enable_lora(2)
    frozen = now(model)
    loss = model.fit(TEXTS, batch_size=2, epochs=8, verbose=0).history["loss"]
    assert loss[-1] < loss[0]
    changed = {path for path, value in now(model).items() if (value != frozen[path]).any()}
    lora = {weight.path for weight in model.weights if weight.name.startswith("lora_")}
    assert lora <= changed
    assert not changed & {weight.path for weight in model.backbone.non_trainable_variables}
    before = model.generate("the", max_length=16, **seeded(kind))
    for weight in model.trainable_variables:
        weight.assign(weight + 3.0)
    assert model.generate("the", max_length=16, **seeded(kind)) != before


def seeded(kind):
    return {"seed": 1} if kind == "diffusion" else {}


@pytest.mark.parametrize(
    ("rank", "names", "message"),
    [
        (0, None, "`rank` must be at least 1"),
        (2.5, None, "`rank` must be an integer"),
        (2, ["quary"], r"'query'.* Got \['quary'\]"),
        (2, ["attention_norm"], "must be among"),
        (2, [], r"Got \[\]"),
    ],
)
def test_bad_lora_is_refused(rank, names, message):
    model = tiny.diffusion_lm()
    with pytest.raises(ValueError, match=message):
        model.enable_lora(rank, target_layer_names=names)
    assert len(model.trainable_variables) == len(model.backbone.trainable_variables) > 10


def test_int8_stays_close_and_trains_lora():
    model = make("diffusion")
    rows = {key: value for key, value in tokenized().items() if key != "target_mask"}
    before = to_numpy(model(rows))
    quantize(model, "int8")
    after = to_numpy(model(rows))
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()
    assert model.generate(["the"], max_length=8, seed=1)
    model.enable_lora(2)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=tiny.JIT)
    assert np.isfinite(model.fit(TEXTS, batch_size=2, verbose=0).history["loss"]).all()


def test_predict_gives_the_denoiser_logits():
    model = make("diffusion")
    rows = tokenized()
    logits = model.predict(rows, batch_size=2, verbose=0)
    direct = to_numpy(model({key: rows[key] for key in ("token_ids", "padding_mask")}))
    np.testing.assert_allclose(logits, direct, rtol=1e-4, atol=1e-5)


def test_mixed_bfloat16_trains():
    model = tiny.diffusion_lm(scale=0.1, dtype="mixed_bfloat16")
    model.compile(keras.optimizers.Adam(0.01), jit_compile=tiny.JIT)
    before = model.evaluate(TEXTS, verbose=0, return_dict=True)["loss"]
    model.fit(TEXTS, batch_size=2, epochs=15, verbose=0)
    assert model.evaluate(TEXTS, verbose=0, return_dict=True)["loss"] < before - 0.5


def test_an_optimizer_that_would_change_nothing_is_refused():
    model = tiny.diffusion_lm(scale=0.1, dtype="bfloat16")
    model.compile("adamw", jit_compile=tiny.JIT)
    with pytest.raises(ValueError, match=r"rounds to 1.*mixed_bfloat16"):
        model.fit(TEXTS, verbose=0)
    model.compile(keras.optimizers.SGD(1.0), jit_compile=tiny.JIT)
    before = to_numpy(keras.ops.cast(model.backbone.layer_norm.scale, "float32"))
    model.fit(TEXTS, verbose=0)
    after = to_numpy(keras.ops.cast(model.backbone.layer_norm.scale, "float32"))
    assert (before != after).any()
