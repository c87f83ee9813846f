"""From text to rows and back: what the preprocessors of AR and diffusion models share.

Shapes: B rows, L length, P length of the encoder's rows.
"""

import types

import keras_hub
import numpy as np

from keras_textdiff import presets
from keras_textdiff.data import formats
from keras_textdiff.data.formats.format import Room
from keras_textdiff.utils import random, registration
from keras_textdiff.utils.checks import check_integer, check_token_ids


class TextPreprocessor(keras_hub.models.Preprocessor):
    """Tokenizes text and packs it into rows; runs on the host, in Python and NumPy.

    Subclasses say whether padding is learned (`learn_padding`) and how plain strings become
    prefix and target where nothing else is asked for (`default_format`).

    Args:
        tokenizer: any `keras_hub.tokenizers.Tokenizer` with an end token.
        sequence_length: int, length L of a row.
        add_start_token: bool, whether a text begins with the tokenizer's start token, where it
            has one.
        prefix_length: int or None. For an `EncoderDecoderBackbone`, the length P of the encoder's
            rows: prefixes go there, behind them an end token, and the rows of length L begin with
            a start token and hold the target alone. None for prefix and target in one row.
        decoder_start_token_id: int or None, token at the start of such a row; None means the
            tokenizer's start token, or its end token where it has none. T5 has its padding token.
        format: name, config or object of `keras_textdiff.data`, how plain strings become prefix
            and target; None means the class's default, and "prefix_lm" with a `prefix_length`.
        **kwargs: see `keras_hub.models.Preprocessor`.
    """

    learn_padding = False
    default_format = "whole_document"
    # The classes that a preset may name for an argument.
    part_classes = types.MappingProxyType({"format": tuple(formats.CLASSES.values())})

    def __init__(
        self,
        tokenizer,
        sequence_length=1024,
        add_start_token=True,
        prefix_length=None,
        decoder_start_token_id=None,
        format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.sequence_length = check_integer("sequence_length", sequence_length, minimum=2)
        self.add_start_token = bool(add_start_token)
        if prefix_length is not None:
            check_integer("prefix_length", prefix_length, minimum=2)
        elif decoder_start_token_id is not None:
            raise ValueError(
                "`decoder_start_token_id` is for rows of a decoder: set `prefix_length`, too. Got "
                f"{decoder_start_token_id}."
            )
        if decoder_start_token_id is not None:
            check_integer("decoder_start_token_id", decoder_start_token_id, minimum=0)
        self.prefix_length = prefix_length
        self.decoder_start_token_id = decoder_start_token_id
        if format is None:  # an encoder has nothing to read where documents are whole targets
            format = self.default_format if prefix_length is None else "prefix_lm"
        self.format = formats.get(format)
        self._bound_format = None
        self.built = True

    @classmethod
    def from_preset(cls, preset, **kwargs):
        """Load a preprocessor from a preset of ours, or around a preset's tokenizer.

        Args:
            preset: what `save_to_preset` of a model or of a preprocessor wrote: a local folder
                (str or path), "hf://user/name" or "kaggle://...".
            **kwargs: arguments of the constructor in place of the saved ones.
        """
        return presets.load_preprocessor(preset, cls, preprocessor_classes=(cls,), **kwargs)

    @property
    def end_token_id(self):
        """The token that ends a text; it also fills the rest of a row."""
        return self.tokenizer.end_token_id

    @property
    def stop_token_ids(self):
        """The tokens that generation stops at by default."""
        second = getattr(self.tokenizer, "end_token2_id", None)
        return (self.end_token_id,) if second is None else (self.end_token_id, second)

    def tokenize(self, texts):
        """Return one list of token ids per text, without special tokens."""
        for index, text in enumerate(texts):
            if not isinstance(text, (str, bytes, np.str_)):
                raise ValueError(
                    f"Texts must be strings. Got {type(text).__name__} at position {index}."
                )
        texts = [text.decode() if isinstance(text, bytes) else str(text) for text in texts]
        if not texts:
            return []
        rows = self.tokenizer(texts)
        rows = rows.to_list() if hasattr(rows, "to_list") else rows
        return [np.asarray(row, dtype=int).tolist() for row in rows]

    def detokenize(self, rows):
        """Return one string per list of token ids, leaving special tokens out."""
        special = set(getattr(self.tokenizer, "special_token_ids", ()))
        special.update(self.bound_format.special_token_ids)
        rows = [[int(token) for token in row if int(token) not in special] for row in rows]
        # An empty row has no dtype for a tokenizer to go by.
        filled = [row for row in rows if row]
        texts = iter(self.tokenizer.detokenize(filled) if filled else [])
        return [str(next(texts)) if row else "" for row in rows]

    def start_tokens(self):
        """Return the tokens that begin a text."""
        start = getattr(self.tokenizer, "start_token_id", None)
        return [start] if self.add_start_token and start is not None else []

    def row_start_token_id(self):
        """Return the token that begins a decoder's row."""
        if self.decoder_start_token_id is not None:
            return self.decoder_start_token_id
        start = getattr(self.tokenizer, "start_token_id", None)
        return self.end_token_id if start is None else start

    def tokenize_prompts(self, prompts):
        """Return the prefix of each prompt: the start token and the prompt's tokens."""
        return [self.start_tokens() + row for row in self.tokenize(prompts)]

    def pack(self, prefixes, targets, length, fill_token_id=None, learn_padding=False):
        """Put prefixes and targets into rows, for a decoder alone or with an encoder.

        Args:
            prefixes: list of B lists of token ids.
            targets: list of B lists of token ids.
            length: int L.
            fill_token_id: int, see `pack_rows`; None means the end token.
            learn_padding: bool, see there.

        Returns:
            Dict of arrays, see `pack_rows`.
        """
        fill = self.end_token_id if fill_token_id is None else fill_token_id
        if self.prefix_length is None:
            return pack_rows(prefixes, targets, length, fill, learn_padding)
        return pack_encoder_decoder_rows(
            prefixes,
            targets,
            self.prefix_length,
            length,
            start_token_id=self.row_start_token_id(),
            end_token_id=self.end_token_id,
            fill_token_id=fill,
            learn_padding=learn_padding,
        )

    def pack_prompts(self, prompts, length, fill_token_id=None, learn_padding=False):
        """Tokenize prompts and put them into rows that are to be written, see `pack`.

        Raises:
            ValueError: where a prompt does not fit, or leaves no room for new tokens.
        """
        check_integer("max_length", length, minimum=1 if self.prefix_length is None else 2)
        prefixes = self.tokenize_prompts(prompts)
        self.check_prefixes(prefixes, length)
        return self.pack(prefixes, [[]] * len(prefixes), length, fill_token_id, learn_padding)

    def check_prefixes(self, prefixes, length):
        """Raise a ValueError where one of some prefixes to be written behind does not fit."""
        for index, prefix in enumerate(prefixes):
            if self.prefix_length is None and len(prefix) >= length:
                raise ValueError(
                    f"Prompt {index} has {len(prefix)} tokens and `max_length` is {length}: no "
                    "room is left for new text. Pass a larger `max_length` or a shorter prompt."
                )
            if self.prefix_length is not None and len(prefix) >= self.prefix_length:
                raise ValueError(
                    f"Prompt {index} has {len(prefix)} tokens and an end token behind them; the "
                    f"encoder's rows have a `prefix_length` of {self.prefix_length}. Pass a "
                    "shorter prompt, or make the preprocessor with a larger `prefix_length`."
                )

    def call(self, x, y=None, sample_weight=None, sequence_length=None, epoch=0):
        """Turn text into a training batch.

        Args:
            x: a string, a list of strings (or a dict of such a list, "text"), or a dict of
                "prompts" and "responses", lists of strings.
            y: must be None; the batch holds its own targets.
            sample_weight: must be None; "target_mask" says what counts.
            sequence_length: int or None, length L; None means the one set on construction.
            epoch: int; each epoch splits documents elsewhere.

        Returns:
            Dict of "token_ids", "padding_mask", "prompt_mask" and "target_mask", and with
            `prefix_length` "encoder_token_ids" and "encoder_padding_mask", see `pack_rows`.
        """
        if y is not None or sample_weight is not None:
            raise ValueError(
                "Text diffusion makes its own targets: pass `x` alone. Got `y` or `sample_weight`."
            )
        length = self.sequence_length if sequence_length is None else sequence_length
        end = [self.end_token_id]
        if isinstance(x, dict) and set(x) == {"text"}:
            x = x["text"]
        if isinstance(x, dict):
            if set(x) != {"prompts", "responses"}:
                raise ValueError(
                    f"A dict of texts needs exactly 'prompts' and 'responses'. Got {sorted(x)}."
                )
            prefixes = self.tokenize_prompts(_as_list(x["prompts"]))
            targets = [row + end for row in self.tokenize(_as_list(x["responses"]))]
            if len(prefixes) != len(targets):
                raise ValueError(
                    f"Got {len(prefixes)} prompts and {len(targets)} responses; there must be as "
                    "many of each."
                )
        else:
            documents = self.tokenize(_as_list(x))
            keys = random.row_keys([document + end for document in documents])
            prefixes, targets, room = [], [], self._room(length)
            for document, key in zip(documents, keys, strict=True):
                generator = random.generator("split", epoch, *key)
                prefix, target, _ = self._make_example(document, room, generator)
                prefixes.append(prefix)
                targets.append(target)
        return self.pack(prefixes, targets, length, learn_padding=self.learn_padding)

    def make_examples(self, rows, keys, sequence_length=None):
        """Turn rows of text into examples; a long document gives several, none is cut.

        Args:
            rows: list of documents, strings or dicts of a "text", and of pairs, dicts of one string
                each in "prompts" and "responses".
            keys: list of tuples of ints and strings, one for each row; what is drawn for a row
                depends on its key alone.
            sequence_length: int or None, length L that prefix and target share; None means the
                one set on construction.

        Returns:
            List of `(prefix, target)`, lists of ints, in the order of the rows. A response that
            does not fit is cut when it is packed.
        """
        length = self.sequence_length if sequence_length is None else sequence_length
        pieces = [list(_row_texts(row)) for row in rows]
        tokens = iter(self.tokenize([text for texts in pieces for text in texts]))
        examples, room = [], self._room(length)
        for texts, key in zip(pieces, keys, strict=True):
            document, *response = [next(tokens) for _ in texts]
            if response:
                target = [*response[0], self.end_token_id]
                examples.append((self.start_tokens() + document, target))
                continue
            generator = random.generator("format", *key) if document else None
            start = 0
            while start < len(document):
                rest = document[start : start + room.total + 1]  # enough to see that it goes on
                prefix, target, num_used = self._make_example(rest, room, generator)
                examples.append((prefix, target))
                start += num_used
        return examples

    @property
    def bound_format(self):
        """The format, with its special tokens looked up in the tokenizer."""
        if self._bound_format is None:
            self._bound_format = self.format.bind(self.tokenizer)
        return self._bound_format

    def _room(self, length):
        """Return the `Room` of an example behind the start tokens."""
        if self.prefix_length is None:
            room = Room.shared(length)
        else:  # packing adds an end token to the prefix, and a start token to the target
            prefix, target = self.prefix_length - 1, length - 1
            room = Room(prefix, target, prefix + target)
        return room.without(len(self.start_tokens()))

    def _make_example(self, document, room, generator):
        prefix, target, num_used = self.bound_format(document, room, generator, self.end_token_id)
        if self.prefix_length is not None and prefix[-1:] == [self.end_token_id]:
            prefix = prefix[:-1]  # packing ends the encoder's rows
        return self.start_tokens() + prefix, target, num_used

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "sequence_length": self.sequence_length,
            "add_start_token": self.add_start_token,
            "prefix_length": self.prefix_length,
            "decoder_start_token_id": self.decoder_start_token_id,
            "format": registration.serialize(self.format),
        }


def pack_rows(prefixes, targets, length, fill_token_id, learn_padding):
    """Put each prefix and its target into one row.

    Args:
        prefixes: list of B lists of token ids.
        targets: list of B lists of token ids; cut where a row is full.
        length: int L.
        fill_token_id: int, token of the positions behind the target.
        learn_padding: bool; True makes the fill part of the canvas (a diffusion model learns
            length by predicting it), False makes it padding.

    Returns:
        Dict of int32 "token_ids" and bool "padding_mask" (True where real), "prompt_mask" (True
        on prefix positions) and "target_mask" (True where the loss counts), each `(B, L)`.

    Example:
    ```python
    pack_rows([[5, 6]], [[7]], 4, fill_token_id=0, learn_padding=True)["token_ids"]
    # [[5, 6, 7, 0]]
    ```
    """
    token_ids = np.full((len(prefixes), length), fill_token_id, dtype="int32")
    columns = np.arange(length)
    starts, ends = [], []
    for row, (prefix, target) in enumerate(zip(prefixes, targets, strict=True)):
        tokens = [*prefix, *target][:length]
        token_ids[row, : len(tokens)] = tokens
        starts.append(min(len(prefix), length))
        ends.append(length if learn_padding else len(tokens))
    starts, ends = np.array(starts, int)[:, None], np.array(ends, int)[:, None]
    prompt_mask = columns < starts
    padding_mask = columns < ends
    return {
        "token_ids": token_ids,
        "padding_mask": np.broadcast_to(padding_mask, token_ids.shape),
        "prompt_mask": prompt_mask,
        "target_mask": padding_mask & ~prompt_mask,
    }


def pack_encoder_decoder_rows(
    prefixes,
    targets,
    prefix_length,
    length,
    *,
    start_token_id,
    end_token_id,
    fill_token_id,
    learn_padding,
):
    """Put each prefix into a row for an encoder, and its target into one for a decoder.

    The encoder's row is the prefix and an end token; a prefix that does not fit is cut before it.
    The decoder's row begins with a start token, its prefix: a causal decoder predicts the first
    token of the target there, and positions of a denoiser are relative to it.

    Args:
        prefixes: list of B lists of token ids.
        targets: list of B lists of token ids; cut where a row is full.
        prefix_length: int P.
        length: int L, the start token included.
        start_token_id: int, token of the decoder's first position.
        end_token_id: int, token behind a prefix; it fills the rest of the encoder's row, too.
        fill_token_id: int, token of the positions behind the target.
        learn_padding: bool, see `pack_rows`.

    Returns:
        Dict of what `pack_rows` returns for the decoder's rows, and int32 "encoder_token_ids" and
        bool "encoder_padding_mask" (True where real), each `(B, P)`.
    """
    prefixes = [[*prefix[: prefix_length - 1], end_token_id] for prefix in prefixes]
    encoder = pack_rows(prefixes, [[]] * len(prefixes), prefix_length, end_token_id, False)
    starts = [[start_token_id]] * len(targets)
    return {
        "encoder_token_ids": encoder["token_ids"],
        "encoder_padding_mask": encoder["padding_mask"],
        **pack_rows(starts, targets, length, fill_token_id, learn_padding),
    }


def list_prompts(prompts):
    """Return one prompt or several as a list, or raise a ValueError where they are neither."""
    if isinstance(prompts, (str, bytes)):
        return [prompts]
    if not isinstance(prompts, (list, tuple, np.ndarray)):
        found = sorted(prompts) if isinstance(prompts, dict) else type(prompts).__name__
        raise ValueError(f"Prompts are a string or a list of strings. Got {found}.")
    return list(prompts)


def stop_tokens(stop_token_ids, preprocessor, vocabulary_size):
    """Return the ids that end a text as a tuple, or None.

    Args:
        stop_token_ids: "auto" for the preprocessor's, one or more ids, or None.
        preprocessor: `TextPreprocessor` or None.
        vocabulary_size: int V; ids must lie below it.
    """
    if stop_token_ids is None:
        return None
    if isinstance(stop_token_ids, str) and stop_token_ids == "auto":
        if preprocessor is None:
            raise ValueError(
                "`stop_token_ids='auto'` needs a preprocessor. Pass a tuple of token ids, or None "
                "to fill the whole row."
            )
        return preprocessor.stop_token_ids
    if not isinstance(stop_token_ids, (list, tuple, np.ndarray)) or not len(stop_token_ids):
        raise ValueError(
            "`stop_token_ids` must be 'auto', None, or one or more token ids in a tuple. Got "
            f"{stop_token_ids!r}."
        )
    check_token_ids("stop_token_ids", stop_token_ids, vocabulary_size)
    return tuple(int(token) for token in stop_token_ids)


def _row_texts(row):
    """Return the texts of one row: a document, or a prompt and its response."""
    if isinstance(row, str):
        return (row,)
    if isinstance(row, dict) and set(row) == {"text"}:
        return (row["text"],)
    if isinstance(row, dict) and set(row) == {"prompts", "responses"}:
        return row["prompts"], row["responses"]
    found = sorted(row) if isinstance(row, dict) else type(row).__name__
    raise ValueError(
        f"A row of text is a string, or a dict of 'text' or of 'prompts' and 'responses'. Got "
        f"{found}."
    )


def _as_list(texts):
    return [texts] if isinstance(texts, (str, bytes)) else list(texts)
