"""Rows of tokens, and formats in the preprocessors of both models, kept in configs and presets."""

import json

import numpy as np
import pytest

from keras_textdiff.data import UL2, PrefixLM, SpanCorruption, WholeDocument
from keras_textdiff.models import CausalLMPreprocessor, DiffusionLM, DiffusionLMPreprocessor
from keras_textdiff.models.text_preprocessor import pack_rows
from tests import tiny
from tests.presets.presets import load

pytestmark = pytest.mark.backend_free

TEXTS = ["the cat in the hat and the dog on a log", "one two three"]
SPANS = SpanCorruption(0.3, 2.0, range(49, 39, -1))
MODES = UL2((1, 2, 3), (39, 38, 37), range(49, 39, -1))


def test_rows_with_learned_padding():
    rows = pack_rows([[5, 6], []], [[7, 0], [8, 9, 1, 2, 3]], 5, 0, learn_padding=True)
    np.testing.assert_array_equal(rows["token_ids"], [[5, 6, 7, 0, 0], [8, 9, 1, 2, 3]])
    assert rows["padding_mask"].all()
    np.testing.assert_array_equal(rows["prompt_mask"].sum(axis=1), [2, 0])
    np.testing.assert_array_equal(rows["target_mask"], ~rows["prompt_mask"])


def test_rows_with_masked_padding():
    rows = pack_rows([[5, 6], [1] * 9], [[7, 0], [8]], 5, 0, learn_padding=False)
    np.testing.assert_array_equal(rows["padding_mask"].sum(axis=1), [4, 5])
    np.testing.assert_array_equal(rows["target_mask"].sum(axis=1), [2, 0])
    assert not (rows["target_mask"] & rows["prompt_mask"]).any()


def test_each_model_has_its_default():
    assert isinstance(DiffusionLMPreprocessor(tiny.tokenizer()).format, PrefixLM)
    assert isinstance(CausalLMPreprocessor(tiny.tokenizer()).format, WholeDocument)


@pytest.mark.parametrize("cls", [DiffusionLMPreprocessor, CausalLMPreprocessor])
def test_span_corruption_in_rows(cls):
    preprocessor = cls(tiny.tokenizer(), sequence_length=64, format=SPANS)
    rows = preprocessor(TEXTS)
    for row, text in enumerate(TEXTS):
        ids, prompt = rows["token_ids"][row], rows["prompt_mask"][row]
        prefix, target = ids[prompt].tolist(), ids[~prompt].tolist()
        start = preprocessor.start_tokens()
        assert prefix[: len(start)] == start and prefix[-1] == preprocessor.end_token_id
        sentinels = [token for token in prefix if token >= 40]
        assert sentinels == list(range(49, 49 - len(sentinels), -1)) and sentinels
        assert [token for token in target if token >= 40] == sentinels
        kept = [t for t in prefix[len(start) : -1] if t < 40]
        moved = [t for t in target[: target.index(0)] if t < 40]
        assert sorted(kept + moved) == sorted(preprocessor.tokenize([text])[0])
    learned = cls is DiffusionLMPreprocessor
    assert rows["padding_mask"].all() == rows["target_mask"][:, -1].all() == learned


def test_rows_depend_on_text_and_epoch_alone():
    preprocessor = DiffusionLMPreprocessor(tiny.tokenizer(), sequence_length=40, format=MODES)
    both, second = preprocessor(TEXTS), preprocessor(TEXTS[1:])
    np.testing.assert_array_equal(both["token_ids"][1], second["token_ids"][0])
    epochs = {preprocessor(TEXTS, epoch=epoch)["token_ids"].tobytes() for epoch in (0, 0, 1, 2)}
    assert len(epochs) == 3


def test_texts_in_a_dict():
    preprocessor = DiffusionLMPreprocessor(tiny.tokenizer(), sequence_length=40)
    for name, value in preprocessor({"text": TEXTS}).items():
        np.testing.assert_array_equal(value, preprocessor(TEXTS)[name])


def test_special_tokens_are_no_text():
    preprocessor = DiffusionLMPreprocessor(tiny.tokenizer(), format=MODES)
    (tokens,) = preprocessor.tokenize(["the cat"])
    assert preprocessor.detokenize([[39, *tokens, 49, 45]]) == ["the cat"]


def test_sentinels_of_the_tokenizer_are_found():
    import keras_hub

    names = ["<|endoftext|>", *map(chr, range(97, 123)), "th", "<extra_id_1>", "<extra_id_0>"]
    tokenizer = keras_hub.models.GPT2Tokenizer(
        vocabulary={token: index for index, token in enumerate(names)}, merges=["t h"]
    )
    for format in ("span_corruption", "ul2"):
        preprocessor = DiffusionLMPreprocessor(tokenizer, sequence_length=20, format=format)
        assert preprocessor.bound_format.special_token_ids == (29, 28)
        assert preprocessor.format.special_token_ids == ()  # the config keeps what was asked for
    preprocessor = DiffusionLMPreprocessor(tokenizer, sequence_length=24, format="span_corruption")
    assert 29 in preprocessor(["thecatin"])["token_ids"]


def test_missing_sentinels_say_what_to_pass():
    preprocessor = DiffusionLMPreprocessor(tiny.tokenizer(), format="span_corruption")
    with pytest.raises(ValueError, match=r"no sentinel tokens.*range\(131, 31, -1\).*132"):
        preprocessor.make_examples([TEXTS[0]], [(0,)])


def test_special_tokens_must_lie_in_the_vocabulary():
    preprocessor = DiffusionLMPreprocessor(tiny.tokenizer(), format=SPANS)
    with pytest.raises(ValueError, match="token 49, but the backbone's vocabulary is 33"):
        DiffusionLM(tiny.backbone(), preprocessor)


# === Presets ===


@pytest.fixture
def saved(tmp_path):
    preprocessor = DiffusionLMPreprocessor(tiny.tokenizer(), sequence_length=24, format=MODES)
    DiffusionLM(tiny.backbone(vocabulary_size=50), preprocessor).save_to_preset(tmp_path / "lm")
    return tmp_path / "lm"


def test_presets_keep_the_format(saved):
    for preprocessor in (load(saved).preprocessor, DiffusionLMPreprocessor.from_preset(saved)):
        assert isinstance(preprocessor.format, UL2)
        assert preprocessor.format.get_config() == MODES.get_config()
    other = DiffusionLMPreprocessor.from_preset(saved, format="whole_document")
    assert isinstance(other.format, WholeDocument)


def test_presets_from_before_formats_have_the_default(saved):
    edit(saved, lambda config: config.pop("format"))
    assert isinstance(load(saved).preprocessor.format, PrefixLM)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("os.system", "just 'class_name' and 'config'"),
        ({"class_name": "UL2", "config": {}, "module": "os"}, "just 'class_name' and 'config'"),
        ({"class_name": "Sundae", "config": {}}, "'Sundae' is not allowed here. Allowed:.*UL2"),
        ({"class_name": "UL2", "config": []}, r"format\.config: must be an object"),
        ({"class_name": "UL2", "config": {"weight": [1]}}, "Did you mean 'weights'"),
        ({"class_name": "UL2", "config": {"weights": 1}}, r"weights: must be a list"),
        ({"class_name": "SpanCorruption", "config": {"corruption_rate": "a"}}, "must be a number"),
        ({"class_name": "SpanCorruption", "config": {"corruption_rate": 2}}, "strictly between"),
        (
            {"class_name": "UL2", "config": {"weights": [{"class_name": "Lambda"}]}},
            "is not allowed here",
        ),
    ],
)
def test_a_bad_format_in_a_preset_is_refused(saved, value, message):
    edit(saved, lambda config: config.update(format=value))
    with pytest.raises(ValueError, match=message):
        load(saved)


def edit(directory, change):
    """Change the preprocessor's config in every file that holds it."""
    for name in ("preprocessor.json", "task.json"):
        content = json.loads((directory / name).read_text())
        config = content["config"]
        change(config["preprocessor"]["config"] if name == "task.json" else config)
        (directory / name).write_text(json.dumps(content))
    (directory / "checksums.json").unlink()
