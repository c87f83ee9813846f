"""T5's span corruption."""

import functools

import numpy as np

from keras_textdiff.data.formats.format import Format
from keras_textdiff.data.formats.sentinels import check_sentinels, find_sentinels
from keras_textdiff.utils.checks import check_number
from keras_textdiff.utils.registration import register


@register
class SpanCorruption(Format):
    """Random spans of a document move to the target; sentinels say where they were.

    The prefix is the document with each span replaced by one sentinel token. The target is the
    spans in order, each behind its sentinel. Both end with the end token. How many tokens and
    spans move depends on the document's length alone, as in T5: `round(length * corruption_rate)`
    tokens, in that number over `mean_span_length` spans, rounded to even at halves. Spans and what
    lies between them are cut at random; a document starts with a token that stays.

    The `k`-th span gets the `k`-th sentinel. T5 takes them from the top of its vocabulary
    downward: `range(32099, 31999, -1)`. Where the tokenizer has no such tokens, give the model a
    `vocabulary_size` larger than the tokenizer's and use the ids on top.

    Args:
        corruption_rate: float in (0, 1), share of the tokens that move.
        mean_span_length: float, at least 1, tokens per span.
        sentinel_token_ids: distinct ints, or () for the tokenizer's own: `<extra_id_0>` and on,
            `<unused0>` and on, or `<|reserved_special_token_0|>` and on.

    Raises:
        ValueError: for arguments out of range; when called, for more spans than sentinels, a
            document that contains a sentinel, or a length that leaves no room.

    Example:
    ```python
    format = SpanCorruption(sentinel_token_ids=range(8291, 8191, -1))
    preprocessor = DiffusionLMPreprocessor(tokenizer, sequence_length=128, format=format)
    ```

    Reference: Raffel et al. 2020, arXiv 1910.10683, section 3.1.4.
    """

    def __init__(self, corruption_rate=0.15, mean_span_length=3.0, sentinel_token_ids=()):
        self.corruption_rate = check_number("corruption_rate", corruption_rate, minimum=0)
        if not 0 < self.corruption_rate < 1:
            raise ValueError(
                f"`corruption_rate` must lie strictly between 0 and 1. Got {corruption_rate}."
            )
        self.mean_span_length = check_number("mean_span_length", mean_span_length, minimum=1)
        self.sentinel_token_ids = check_sentinels(sentinel_token_ids)
        self._sentinels = frozenset(self.sentinel_token_ids)

    def __call__(self, tokens, room, generator, end_token_id):
        """Make one example, see `Format`."""
        num_used = min(len(tokens), self.document_length(room))
        tokens = tokens[:num_used]
        num_noise, num_spans = noise_counts(num_used, self.corruption_rate, self.mean_span_length)
        self._check(tokens, num_spans)
        noise = random_segments(num_noise, num_spans, generator)
        kept = random_segments(max(num_used, 2) - num_noise, num_spans, generator)
        prefix, target, start = [], [], 0
        for sentinel, num_kept, num_moved in zip(
            self.sentinel_token_ids, kept, noise, strict=False
        ):
            middle, end = start + num_kept, start + num_kept + num_moved
            prefix += tokens[start:middle]
            if middle < num_used:  # a document of one token has nothing to move
                prefix.append(sentinel)
                target += [sentinel, *tokens[middle:end]]
            start = end
        return [*prefix, end_token_id], [*target, end_token_id], num_used

    def document_length(self, room):
        """Return the most tokens whose prefix and target fit into a `Room`."""
        return _document_length(room, self.corruption_rate, self.mean_span_length)

    def bind(self, tokenizer):
        """Return this format with the tokenizer's sentinels, where none were given."""
        if self.sentinel_token_ids:
            return self
        return SpanCorruption(
            self.corruption_rate, self.mean_span_length, find_sentinels(tokenizer)
        )

    @property
    def special_token_ids(self):
        """The sentinels."""
        return self.sentinel_token_ids

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            "corruption_rate": self.corruption_rate,
            "mean_span_length": self.mean_span_length,
            "sentinel_token_ids": list(self.sentinel_token_ids),
        }

    def _check(self, tokens, num_spans):
        if num_spans > len(self.sentinel_token_ids):
            raise ValueError(
                f"{len(tokens)} tokens have {num_spans} spans, but there are "
                f"{len(self.sentinel_token_ids)} sentinels. Pass more `sentinel_token_ids`, or use "
                "shorter rows."
            )
        if not self._sentinels.isdisjoint(tokens):
            found = next(token for token in tokens if token in self._sentinels)
            raise ValueError(
                f"A document contains the token {found}, which is one of `sentinel_token_ids`. "
                "Choose ids that text never has."
            )


def noise_counts(length, corruption_rate, mean_span_length):
    """Return how many tokens move, and in how many spans, as T5's float32 arithmetic has it.

    Args:
        length: int, tokens of the document.
        corruption_rate: float, see `SpanCorruption`.
        mean_span_length: float, see `SpanCorruption`.

    Returns:
        `(num_noise_tokens, num_noise_spans)`, both at least 1; neither leaves a span empty.
    """
    length = max(length, 2)
    num_noise = int(np.round(np.float32(length) * np.float32(corruption_rate)))
    num_noise = min(max(num_noise, 1), length - 1)
    num_spans = max(int(np.round(np.float32(num_noise) / np.float32(mean_span_length))), 1)
    return num_noise, min(num_spans, length - num_noise)


def random_segments(num_items, num_segments, generator):
    """Cut `num_items` into `num_segments` lengths of at least 1, all cuts equally likely."""
    cuts = np.sort(generator.permutation(num_items - 1)[: num_segments - 1]) + 1
    return np.diff([0, *cuts, num_items]).tolist()


def span_lengths(inputs_length, corruption_rate=0.15, mean_span_length=3.0):
    """Return how long documents must be for inputs to be just `inputs_length` tokens (T5).

    For models whose encoder reads the inputs and whose decoder writes the targets.

    Args:
        inputs_length: int, tokens of the inputs, sentinels and end token included.
        corruption_rate: float, see `SpanCorruption`.
        mean_span_length: float, see `SpanCorruption`.

    Returns:
        `(tokens_length, targets_length)`: tokens to take from a document, and tokens of the
        targets, sentinels and end token included.

    Example:
    ```python
    span_lengths(512)  # (568, 114)
    ```
    """

    def lengths(tokens_length):
        num_noise = round(tokens_length * corruption_rate)
        num_spans = round(num_noise / mean_span_length)
        return tokens_length - num_noise + num_spans + 1, num_noise + num_spans + 1

    tokens_length = inputs_length - 1
    while lengths(tokens_length + 1)[0] <= inputs_length:
        tokens_length += 1
    inputs_length, targets_length = lengths(tokens_length)
    if corruption_rate == 0.5 and targets_length > inputs_length:  # T5 wants the two equal then
        return tokens_length - 1, targets_length - 1
    return tokens_length, targets_length


@functools.lru_cache(maxsize=1024)
def _document_length(room, corruption_rate, mean_span_length):
    for num_tokens in range(room.total, 1, -1):
        num_noise, num_spans = noise_counts(num_tokens, corruption_rate, mean_span_length)
        prefix = num_tokens - num_noise + num_spans + 1  # a sentinel a span, and an end token
        target = num_noise + num_spans + 1
        if prefix <= room.prefix and target <= room.target and prefix + target <= room.total:
            return num_tokens
    raise ValueError(
        "Span corruption needs room for 6 tokens, a span with two sentinels and two end tokens. "
        f"Got {room}. Use a larger `sequence_length` or `prefix_length`."
    )
