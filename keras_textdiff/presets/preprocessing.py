"""The tokenizer and the preprocessor of a preset: checked, then built."""

import keras_hub

from keras_textdiff.presets.folder import (
    MAXIMUM_VOCABULARY_BYTES,
    PREPROCESSOR_FILE,
    TOKENIZER_ASSETS,
    TOKENIZER_FILE,
)
from keras_textdiff.presets.schema import (
    below,
    check_agreement,
    check_named,
    check_object,
    tokenizer_classes,
)

CONFIG_FILE_KEY = "config_file"  # KerasHub derives a folder from it, which may lie anywhere


def read_preprocessor(folder, value, where, preprocessor_classes):
    """Check a serialized preprocessor and the tokenizer inside it.

    Args:
        folder: `PresetFolder`.
        value: JSON value.
        where: str, file and place for error messages.
        preprocessor_classes: tuple of allowed classes; their `part_classes` says which classes
            the small objects among their arguments may be of.

    Returns:
        `Serialized` whose "tokenizer" is `Serialized` too.
    """
    preprocessor = check_object(
        value,
        where,
        preprocessor_classes,
        keras_hub.models.Preprocessor,
        parts=("tokenizer", *(name for cls in preprocessor_classes for name in cls.part_classes)),
        extra_keys=(CONFIG_FILE_KEY,),
    )
    _check_config_file(preprocessor, PREPROCESSOR_FILE)
    for name, classes in preprocessor.cls.part_classes.items():
        if name in preprocessor.config:
            place = below(where, f"config.{name}")
            check_named(preprocessor.config[name], place, classes)
    tokenizer = preprocessor.config.get("tokenizer")
    if tokenizer is None:
        raise ValueError(f"{below(where, 'config')}: has no 'tokenizer'.")
    place = below(where, "config.tokenizer")
    preprocessor.config["tokenizer"] = _check_tokenizer(tokenizer, place)
    if TOKENIZER_FILE in folder:
        read_tokenizer(folder)
        check_agreement(folder, TOKENIZER_FILE, tokenizer, place)
    return preprocessor


def read_tokenizer(folder):
    """Return the checked content of "tokenizer.json"."""
    return _check_tokenizer(folder.read_json(TOKENIZER_FILE), folder.describe(TOKENIZER_FILE))


def build_preprocessor(folder, preprocessor, vocabulary_size=None, **overrides):
    """Build a preprocessor whose tokenizer reads the preset's assets.

    Args:
        folder: `PresetFolder`.
        preprocessor: see `read_preprocessor`.
        vocabulary_size: int, the backbone's number of token ids, or None for no check.
        **overrides: arguments of the constructor in place of the saved ones.
    """
    tokenizer = _build_tokenizer(folder, preprocessor.config["tokenizer"], vocabulary_size)
    return build(preprocessor, tokenizer=tokenizer, **overrides)


def build(serialized, **overrides):
    """Build a checked object, with some arguments replaced."""
    cls = serialized.cls
    try:
        return cls.from_config({**serialized.config, **overrides})
    except Exception as error:
        raise ValueError(
            f"{serialized.where}: does not describe a valid {cls.__name__}: {error}"
        ) from error


def _check_tokenizer(value, where):
    tokenizer = check_object(
        value,
        where,
        tokenizer_classes(),
        keras_hub.tokenizers.Tokenizer,
        extra_keys=(CONFIG_FILE_KEY,),
    )
    _check_config_file(tokenizer, TOKENIZER_FILE)
    return tokenizer


def _check_config_file(serialized, expected):
    found = serialized.config.get(CONFIG_FILE_KEY, expected)
    if found != expected:
        raise ValueError(
            f"{below(serialized.where, 'config')}.{CONFIG_FILE_KEY}: must be {expected!r}, inside "
            f"the preset's folder. Got {found!r}."
        )


def _build_tokenizer(folder, serialized, vocabulary_size):
    tokenizer = build(serialized)
    names = [f"{TOKENIZER_ASSETS}/{name}" for name in tokenizer.file_assets or ()]
    for name in names:
        size = folder.path(name, source=TOKENIZER_FILE).stat().st_size
        if size > MAXIMUM_VOCABULARY_BYTES:
            raise ValueError(
                f"{folder.describe(name)}: {size} bytes, but at most {MAXIMUM_VOCABULARY_BYTES} "
                "are allowed."
            )
        if name.endswith(".json"):
            vocabulary = folder.read_json(name, MAXIMUM_VOCABULARY_BYTES)
            _check_ids(folder.describe(name), vocabulary, vocabulary_size)
    if names:
        try:
            tokenizer.load_assets(str(folder.directory / TOKENIZER_ASSETS))
        except Exception as error:
            raise ValueError(
                f"{', '.join(map(folder.describe, names))}: cannot be read by "
                f"{serialized.cls.__name__}: {error}"
            ) from error
    if vocabulary_size is not None and tokenizer.vocabulary_size() > vocabulary_size:
        raise ValueError(
            f"{serialized.where}: the tokenizer has {tokenizer.vocabulary_size()} tokens, but the "
            f"backbone's `vocabulary_size` is {vocabulary_size}. Use the tokenizer that the model "
            "was trained with."
        )
    special = {
        token: tokenizer.token_to_id(token)
        for token in tokenizer.special_tokens
        if token is not None
    }
    _check_ids(f"{serialized.where}, special tokens", special, vocabulary_size)
    return tokenizer


def _check_ids(where, vocabulary, vocabulary_size):
    """Raise a ValueError where a token has no id inside the backbone's vocabulary."""
    for token, index in vocabulary.items():
        is_integer = isinstance(index, int) and not isinstance(index, bool)
        if not is_integer or index < 0:
            raise ValueError(f"{where}: the token {token!r} has the id {index!r}, not an integer.")
        if vocabulary_size is not None and index >= vocabulary_size:
            raise ValueError(
                f"{where}: the token {token!r} has the id {index}, but the backbone's "
                f"`vocabulary_size` is {vocabulary_size}. Use the tokenizer that the model was "
                "trained with."
            )
