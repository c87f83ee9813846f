"""The tokens that stand for a span of text."""

import itertools

from keras_textdiff.utils.checks import check_integer

# How tokenizers name the tokens that no text has: T5, Gemma, Llama 3.
SENTINEL_NAMES = ("<extra_id_{}>", "<unused{}>", "<|reserved_special_token_{}|>")


def check_sentinels(sentinel_token_ids):
    """Return the ids as a tuple of distinct ints, or raise a ValueError."""
    ids = tuple(
        check_integer("sentinel_token_ids entry", token, minimum=0) for token in sentinel_token_ids
    )
    if len(set(ids)) != len(ids):
        raise ValueError(f"`sentinel_token_ids` must be distinct. Got {ids}.")
    return ids


def find_sentinels(tokenizer):
    """Return the ids of a tokenizer's own sentinels, in the order of their numbers.

    Raises:
        ValueError: where it has none.
    """
    vocabulary = {token: index for index, token in enumerate(tokenizer.get_vocabulary())}
    for name in SENTINEL_NAMES:
        tokens = itertools.takewhile(
            vocabulary.__contains__, (name.format(number) for number in itertools.count())
        )
        ids = tuple(vocabulary[token] for token in tokens)
        if ids:
            return ids
    size = tokenizer.vocabulary_size()
    raise ValueError(
        f"The tokenizer has no sentinel tokens ({', '.join(n.format(0) for n in SENTINEL_NAMES)}). "
        f"Pass `sentinel_token_ids`, for example range({size + 99}, {size - 1}, -1) with a "
        f"backbone whose `vocabulary_size` is at least {size + 100}."
    )
