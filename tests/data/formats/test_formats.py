"""Properties of all formats: nothing lost, lengths right, the same seed the same example."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from keras_textdiff.data import UL2, Format, PrefixLM, SpanCorruption, WholeDocument, formats
from keras_textdiff.data.formats.format import Room
from keras_textdiff.data.formats.span_corruption import (
    noise_counts,
    random_segments,
    span_lengths,
)
from keras_textdiff.utils import registration

pytestmark = pytest.mark.backend_free

END = 0
SENTINELS = range(999, 799, -1)
FORMATS = {
    "whole": WholeDocument(),
    "prefix": PrefixLM(),
    "span": SpanCorruption(sentinel_token_ids=SENTINELS),
    "span 50% of 8": SpanCorruption(0.5, 8.0, SENTINELS),
    "span 90% of 1": SpanCorruption(0.9, 1.0, SENTINELS),
    "ul2": UL2(sentinel_token_ids=SENTINELS),
    "ul2 with modes": UL2((1, 1, 1), (700, 701, 702), SENTINELS),
}


def documents(num, seed=0):
    """Random documents whose tokens are all different, so that places can be told apart."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        yield rng.permutation(np.arange(1, 600))[: rng.integers(1, 400)].tolist()


def restore(prefix, target):
    """Put a prefix and a target back together, by what the sentinels say."""
    prefix = [token for token in prefix if token not in (700, 701, 702)]
    if not prefix or prefix[-1] != END:  # a document cut in two
        text = prefix + target
        return text[:-1] if text[-1] == END else text
    spans, sentinel = collections.defaultdict(list), None
    for token in target[:-1]:
        if token in SENTINELS:
            sentinel = token
        else:
            spans[sentinel].append(token)
    text = []
    for token in prefix[:-1]:
        text += spans.pop(token) if token in SENTINELS else [token]
    assert not spans
    return text


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_lost_and_lengths_are_right(name, encoder):
    format = FORMATS[name]
    rng = np.random.default_rng(1)
    for document in documents(60):
        room = Room.shared(int(rng.integers(8, 200)))
        if encoder:
            prefix, target = (int(n) for n in rng.integers(8, 100, 2))
            room = Room(prefix, target, prefix + target)
        text, rest = [], document
        while rest:
            prefix, target, num_used = format(rest, room, rng, END)
            assert 0 < num_used <= len(rest)
            assert 0 < len(target) <= room.target and len(prefix) <= room.prefix
            assert len(prefix) + len(target) <= room.total
            piece = restore(prefix, target)
            assert piece == rest[:num_used]
            text, rest = text + piece, rest[num_used:]
        assert text == document
        assert all(type(token) is int for token in prefix + target)


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_seed_gives_the_same_example(name):
    document = next(documents(1))
    examples = [
        FORMATS[name](document, Room.shared(128), np.random.default_rng(seed), END)
        for seed in (3, 3, 4)
    ]
    assert examples[0] == examples[1]
    assert (examples[0] == examples[2]) == (name == "whole")


def test_a_document_that_goes_on_has_no_end_token_and_fills_the_row():
    document = list(range(1, 101))
    for format in (WholeDocument(), PrefixLM()):
        prefix, target, num_used = format(document, Room.shared(40), np.random.default_rng(0), END)
        assert prefix + target == document[:40] and num_used == 40
        prefix, target, num_used = format(
            document[:39], Room.shared(40), np.random.default_rng(0), END
        )
        assert prefix + target == [*document[:39], END]


def test_every_split_of_a_prefix_lm_is_equally_likely():
    rng = np.random.default_rng(0)
    splits = [len(PrefixLM()([5, 6, 7], Room.shared(9), rng, END)[0]) for _ in range(8000)]
    assert np.allclose(np.bincount(splits) / 8000, 1 / 4, atol=0.02)


# === Span corruption ===


@pytest.mark.parametrize(
    ("inputs_length", "expected"),
    # What T5's pretraining uses: 512 and 114 tokens of a document of 568; 1024 of 1137.
    [(512, (568, 114)), (1024, (1137, 229)), (256, (284, 58))],
)
def test_lengths_are_those_of_t5(inputs_length, expected):
    assert span_lengths(inputs_length) == expected
    tokens_length, targets_length = expected
    num_noise, num_spans = noise_counts(tokens_length, 0.15, 3.0)
    assert tokens_length - num_noise + num_spans + 1 == inputs_length
    assert num_noise + num_spans + 1 == targets_length
    # One token more would not fit.
    num_noise, num_spans = noise_counts(tokens_length + 1, 0.15, 3.0)
    assert tokens_length + 1 - num_noise + num_spans + 1 > inputs_length


def test_half_corruption_has_equal_lengths():
    # 767 tokens would give 512 inputs and 513 targets; T5 takes one token less then.
    assert span_lengths(512, 0.5, 3.0) == (766, 512)


@pytest.mark.parametrize(("rate", "mean"), [(0.15, 3.0), (0.15, 8.0), (0.5, 3.0), (0.3, 32.0)])
def test_counts_are_tensorflows_float32_arithmetic(rate, mean):
    lengths = np.arange(2, 3000)
    noise = tf.cast(tf.round(tf.cast(lengths, tf.float32) * rate), tf.int32)
    noise = tf.minimum(tf.maximum(noise, 1), lengths - 1)
    spans = tf.maximum(tf.cast(tf.round(tf.cast(noise, tf.float32) / mean), tf.int32), 1)
    counts = np.array([noise_counts(int(length), rate, mean) for length in lengths])
    np.testing.assert_array_equal(counts, np.stack([noise, spans], axis=1))


def test_the_share_and_the_spans_of_an_example():
    document = next(d for d in documents(50) if len(d) > 300)[:300]
    prefix, target, _ = FORMATS["span"](document, Room.shared(512), np.random.default_rng(0), END)
    sentinels = [token for token in prefix if token in SENTINELS]
    assert sentinels == list(SENTINELS[:15])  # 45 tokens in spans of 3, from the top down
    assert [token for token in target if token in SENTINELS] == sentinels
    assert len(target) == 45 + 15 + 1 and len(prefix) == 255 + 15 + 1
    assert prefix[0] == document[0] and prefix[-1] == target[-1] == END
    assert target[0] == sentinels[0] and prefix[-2] == sentinels[-1]


def test_all_cuts_are_equally_likely():
    rng = np.random.default_rng(0)
    cuts = collections.Counter(tuple(random_segments(6, 3, rng)) for _ in range(10_000))
    assert len(cuts) == 10 and all(sum(cut) == 6 and min(cut) >= 1 for cut in cuts)
    assert np.allclose(np.array(list(cuts.values())) / 10_000, 0.1, atol=0.02)


def test_short_documents():
    rng = np.random.default_rng(0)
    assert FORMATS["span"]([7], Room.shared(64), rng, END) == ([7, END], [END], 1)  # as in T5
    assert FORMATS["span"]([7, 8], Room.shared(64), rng, END) == ([7, 999, END], [999, 8, END], 2)


def test_the_longest_document_that_fits():
    for format in (FORMATS["span"], FORMATS["span 50% of 8"]):
        for length in range(6, 300):
            n = format.document_length(Room.shared(length))
            sizes = []
            for num_tokens in (n, n + 1):
                spans = noise_counts(num_tokens, format.corruption_rate, format.mean_span_length)[1]
                sizes.append(num_tokens + 2 * spans + 2)
            assert sizes[0] <= length < sizes[1]


# === UL2 ===


def test_ul2_draws_its_modes_as_weighted():
    modes = collections.Counter()
    rng = np.random.default_rng(0)
    format = UL2((1, 2, 5), (700, 701, 702), SENTINELS)
    document = list(range(1, 101))
    for _ in range(4000):
        prefix, target, _ = format(document, Room.shared(256), rng, END)
        modes[prefix[0]] += 1
        moved = sum(token not in SENTINELS for token in target[:-1])
        spans = sum(token in SENTINELS for token in target)
        if prefix[0] == 700:
            assert (moved, spans) in {(15, 5), (15, 2)}
        elif prefix[0] == 702:
            assert (moved, spans) in {(50, 17), (50, 6), (15, 1), (50, 1)}
        else:
            assert spans == 0
    shares = np.array([modes[700], modes[701], modes[702]]) / 4000
    assert np.allclose(shares, [1 / 8, 2 / 8, 5 / 8], atol=0.03)


def test_ul2_makes_seven_denoisers_equally_likely():
    rng, seen, document = np.random.default_rng(0), collections.Counter(), list(range(1, 257))
    for _ in range(4000):
        _, target, _ = FORMATS["ul2"](document, Room.shared(512), rng, END)
        spans = sum(token in SENTINELS for token in target)
        moved = sum(token not in SENTINELS for token in target[:-1])
        seen["S" if spans == 0 else (moved, spans)] += 1
    assert len(seen) == 7
    assert np.allclose(np.array(list(seen.values())) / 4000, 1 / 7, atol=0.02)


# === Configuration and bad input ===


@pytest.mark.parametrize("name", FORMATS)
def test_configs_round_trip(name):
    config = registration.serialize(FORMATS[name])
    twin = formats.get(config)
    assert type(twin) is type(FORMATS[name]) and registration.serialize(twin) == config
    document = next(documents(1))
    arguments = (document, Room.shared(100))
    assert twin(*arguments, np.random.default_rng(1), END) == FORMATS[name](
        *arguments, np.random.default_rng(1), END
    )


def test_formats_have_names():
    for name, cls in formats.CLASSES.items():
        assert isinstance(formats.get(name), cls) and issubclass(cls, Format)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpanCorruption(0.0), "strictly between 0 and 1"),
        (lambda: SpanCorruption(1.0), "strictly between 0 and 1"),
        (lambda: SpanCorruption(mean_span_length=0.5), "at least 1"),
        (lambda: SpanCorruption(sentinel_token_ids=[5, 5]), "distinct"),
        (lambda: SpanCorruption(sentinel_token_ids=[-1]), "at least 0"),
        (lambda: UL2(weights=(1, 1)), "three numbers"),
        (lambda: UL2(weights=(0, 0, 0)), "not all 0"),
        (lambda: UL2(weights=(1, -1, 1)), "at least 0"),
        (lambda: UL2(mode_token_ids=(1, 2)), "three distinct"),
        (lambda: UL2(mode_token_ids=(1, 2, 3), sentinel_token_ids=(3, 4)), "must not share"),
        (lambda: formats.get("T5"), "Unknown format"),
        (lambda: FORMATS["span"].document_length(Room.shared(5)), "room for 6"),
        (
            lambda: SpanCorruption(sentinel_token_ids=(9,))(
                list(range(10, 90)), Room.shared(128), np.random.default_rng(0), END
            ),
            r"80 tokens have 4 spans, but there are 1 sentinels",
        ),
        (
            lambda: FORMATS["span"]([5, 999, 6], Room.shared(128), np.random.default_rng(0), END),
            "contains the token 999",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
