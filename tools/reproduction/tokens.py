"""One byte-pair tokenizer for all models of a reproduction."""

import itertools
import json

import keras_hub
import tokenizers

END_TOKEN = "<|endoftext|>"
SAMPLE = 20_000  # documents of the mixture to train on


def train_tokenizer(texts, vocabulary_size, sentinels):
    """Train a byte-level byte-pair tokenizer.

    The sentinels of span corruption stand behind its own tokens; no text is tokenized to them.

    Args:
        texts: iterable of strings, read up to `SAMPLE`.
        vocabulary_size: int, without sentinels.
        sentinels: int.

    Returns:
        `keras_hub.models.GPT2Tokenizer` of at most `vocabulary_size + sentinels` tokens.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    # What KerasHub splits text by, so that the merges learned are those that will be used.
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_TOKEN],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.islice(texts, SAMPLE), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary, size = model["vocab"], len(model["vocab"])
    vocabulary.update({f"<extra_id_{n}>": size + n for n in range(sentinels)})
    return make_tokenizer(
        {"vocabulary": vocabulary, "merges": [" ".join(pair) for pair in model["merges"]]}
    )


def make_tokenizer(config):
    """Return the tokenizer of a vocabulary and its merges."""
    return keras_hub.models.GPT2Tokenizer(vocabulary=config["vocabulary"], merges=config["merges"])


def tokenizer_config(tokenizer):
    """Return what `make_tokenizer` takes, as JSON can hold it."""
    return {"vocabulary": tokenizer.vocabulary, "merges": tokenizer.merges}
