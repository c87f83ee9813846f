"""Single steps on what `fit` takes."""

import keras
import numpy as np
import pytest

from tests.models.test_fit import TEXTS, Texts, make_eager, now, shared, tokenized


def test_a_step_trains_as_fit_does():
    for x in (TEXTS, tokenized()):
        models = []
        for run in ("fit", "train_on_batch"):
            keras.utils.set_random_seed(3)
            model = make_eager()
            if run == "fit":
                logs = model.fit(x, batch_size=4, shuffle=False, verbose=0).history
                logs = {name: values[0] for name, values in logs.items()}
            else:
                found = model.train_on_batch(x, return_dict=True)
            models.append(model)
        assert set(found) == set(logs)
        for name in logs:
            np.testing.assert_allclose(found[name], logs[name], rtol=1e-4)
        trained, twin = map(now, models)
        for path, value in trained.items():
            if "seed" not in path:
                np.testing.assert_allclose(value, twin[path], atol=1e-5)


def test_a_test_step_equals_evaluate_and_leaves_training_alone():
    model = shared()
    expected = model.evaluate(TEXTS, verbose=0, return_dict=True)
    before = now(model)
    for _ in range(2):
        found = model.test_on_batch(TEXTS, return_dict=True)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5)
    after = now(model)
    assert all((after[path] == before[path]).all() for path in before)
    values = model.test_on_batch(["the cat", "a dog"])
    assert len(values) == len(expected) and np.isfinite(values).all()


def test_a_prediction_step_equals_predict():
    model = shared()
    np.testing.assert_allclose(
        model.predict_on_batch(TEXTS), model.predict(TEXTS, verbose=0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("run", ["train_on_batch", "test_on_batch", "predict_on_batch"])
def test_bad_batches_are_refused(run):
    model = shared()
    before = now(model)
    for x, message in (
        ("text", "Pass a list of strings"),
        ([], "no examples"),
        (["a", 3], "Got int at position 1"),
        ({"token_ids": [[1, 99]]}, r"\[0, 33\)"),
        ({"token_ids": [[1, 2], [3]]}, "different lengths"),
        (Texts(), "Got a Texts. Pass a source of batches to `fit`"),
    ):
        with pytest.raises(ValueError, match=message):
            getattr(model, run)(x)
    if run != "predict_on_batch":
        with pytest.raises(ValueError, match="`y` is not used"):
            getattr(model, run)(TEXTS, [1])
    assert all((now(model)[path] == value).all() for path, value in before.items())
