"""From rows to batches: nothing lost, and the same batches from every position on."""

import json

import grain
import numpy as np
import pytest

from keras_textdiff.data import ResumableDataset, SpanCorruption, mixture, pipeline
from keras_textdiff.models import CausalLMPreprocessor, DiffusionLMPreprocessor
from tests import tiny
from tests.data.test_mixture import Numbers

pytestmark = pytest.mark.backend_free

WORDS = ["the", " cat", " in", " a", " hat", " and", " the", " dog"]


def documents(num=23, longest=40):
    rng = np.random.default_rng(0)
    return [{"text": "".join(rng.choice(WORDS, rng.integers(0, longest)))} for _ in range(num)]


PAIRS = [{"prompts": "the cat", "responses": " in the hat"}, {"prompts": "a", "responses": " b"}]


def preprocessor(cls=DiffusionLMPreprocessor, **options):
    return cls(tiny.tokenizer(), sequence_length=24, add_start_token=False, **options)


def batches(rows, pre=None, **options):
    options = {"batch_size": 4, "group_size": 6, **options}
    return pipeline(rows, preprocessor() if pre is None else pre, **options)


def examples_of(batches):
    """The tokens of each example, without what fills a row."""
    for batch in batches:
        for row in range(len(batch["token_ids"])):
            segments = batch.get("segment_ids", batch["padding_mask"].astype(int))[row]
            for segment in range(1, segments.max() + 1):
                yield batch["token_ids"][row][segments == segment].tolist()


@pytest.mark.parametrize("cls", [DiffusionLMPreprocessor, CausalLMPreprocessor])
@pytest.mark.parametrize("format", [None, SpanCorruption(sentinel_token_ids=range(99, 49, -1))])
@pytest.mark.parametrize("pack", [False, True])
def test_every_token_of_every_document_is_there(cls, format, pack):
    rows = grain.MapDataset.source(documents())
    pre = cls(tiny.tokenizer(), sequence_length=24, format=format)
    found = list(batches(rows, pre, pack=pack))
    assert [len(batch["token_ids"]) for batch in found[:-1]] == [4] * (len(found) - 1)
    # Token by token, whatever the order: examples are shuffled inside a group.
    special = {pre.end_token_id, *pre.start_tokens(), *range(50, 100)}
    examples = [[t for t in e if t not in special] for e in examples_of(found)]
    counts = np.bincount([token for example in examples for token in example], minlength=33)
    tokens = pre.tokenize([row["text"] for row in documents()])
    expected = np.bincount([token for document in tokens for token in document], minlength=33)
    np.testing.assert_array_equal(counts, expected)
    if format is None:  # and piece by piece: each example is part of a document
        texts = [str(document).strip("[]") for document in tokens]
        for example in examples:
            assert any(str(example).strip("[]") in document for document in texts)


def test_packed_rows_are_full():
    found = list(batches(grain.MapDataset.source(documents(200, 60)), pack=True, group_size=64))
    used = np.concatenate([batch["padding_mask"] for batch in found])
    assert used.mean() > 0.95
    loose = list(batches(grain.MapDataset.source(documents(200, 60)), group_size=64))
    assert sum(len(b["token_ids"]) for b in found) < sum(len(b["token_ids"]) for b in loose)


def test_documents_and_pairs_mix():
    rows = mixture(
        [grain.MapDataset.source(documents()), grain.MapDataset.source(PAIRS)], [0.5, 0.5]
    )
    batch = next(iter(batches(rows, batch_size=32)))
    tokens = [row.tolist() for row in batch["token_ids"]]
    pre = preprocessor()
    prompt, response = pre.tokenize(PAIRS[0].values())
    row = tokens.index(prompt + response + [pre.end_token_id] * (24 - len(prompt + response)))
    assert batch["prompt_mask"][row].sum() == len(prompt)
    assert batch["target_mask"][row].sum() == 24 - len(prompt)  # padding is learned


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("kind", ["a list", "a mixture", "a stream"])
def test_every_position_gives_the_same_remaining_batches(kind, pack):
    def make():
        rows = {
            "a list": lambda: grain.MapDataset.source(documents()),
            "a mixture": lambda: mixture(
                [grain.MapDataset.source(documents()), grain.MapDataset.source(PAIRS)], [0.8, 0.2]
            ),
            "a stream": lambda: mixture([Numbers(documents())]),
        }[kind]()
        return batches(
            rows, preprocessor(format=SpanCorruption(sentinel_token_ids=[32])), pack=pack
        )

    dataset = make()
    iterator = iter(dataset)
    count = 12 if kind == "a stream" else 20  # a stream reads its window of 1024 rows each time
    expected = [batch for batch, _ in zip(iterator, range(count), strict=False)]
    assert len(expected) >= 10
    for position in range(len(expected)):
        state = json.loads(json.dumps(dataset.state_after(position)))
        again = iter(ResumableDataset(make(), state))
        for batch in expected[position:]:
            twin = next(again)
            assert batch.keys() == twin.keys()
            for key, value in batch.items():
                np.testing.assert_array_equal(value, twin[key])
        if kind == "a list":
            assert next(again, None) is None


def test_an_iterator_takes_its_own_state_back():
    iterator = iter(batches(grain.MapDataset.source(documents())))
    next(iterator)
    state, second = iterator.get_state(), next(iterator)
    next(iterator)
    iterator.set_state(state)
    np.testing.assert_array_equal(next(iterator)["token_ids"], second["token_ids"])


def test_states_are_kept_for_a_while():
    dataset = batches(mixture([grain.MapDataset.source(documents())]), batch_size=1)
    with pytest.raises(ValueError, match="nothing was read"):
        dataset.state_after(0)
    iterator = iter(dataset)
    for _ in range(300):
        next(iterator)
    dataset.state_after(300)
    with pytest.raises(ValueError, match=r"after 40 batches is not known. Known: 45 to 300"):
        dataset.state_after(40)


def test_seeds_and_rounds_draw_differently():
    rows = mixture([grain.MapDataset.source([{"text": "the cat in a hat and the dog"}])])

    def splits(**options):
        batch = next(iter(batches(rows, batch_size=12, **options)))
        return batch["prompt_mask"].sum(axis=1).tolist()

    assert splits() == splits() != splits(seed=1)
    assert len(set(splits())) > 3  # the same document, split elsewhere each time it comes


@pytest.mark.parametrize("num_rows", [5, 6, 7])
def test_rows_without_text_give_nothing(num_rows):
    rows = grain.MapDataset.source([{"text": ""}] * num_rows + [{"text": "the cat"}])
    (batch,) = batches(rows)
    assert batch["token_ids"].shape == (1, 24)
    assert list(batches(grain.MapDataset.source([{"text": ""}] * num_rows))) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"group_size": 0}, "`group_size` must be at least 1"),
        ({"sequence_length": 1}, "`sequence_length` must be at least 2"),
        ({"seed": "a"}, "`seed` must be an integer"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        batches(grain.MapDataset.source(documents()), **options)


@pytest.mark.parametrize("row", [{"texts": "a"}, {"prompts": "a"}, 5, {"text": 5}])
def test_rows_of_another_kind_are_refused(row):
    with pytest.raises(ValueError, match=r"row of text|Texts must be strings"):
        list(batches(grain.MapDataset.source([row])))
