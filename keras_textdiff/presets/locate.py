"""From what a user types to a local preset folder."""

import pathlib
import re
from typing import NamedTuple

from keras_textdiff.presets.registry import shipped_presets

FORMS = (
    "the name of a shipped preset, a local folder, 'hf://user/name', or "
    "'kaggle://user/model/keras/variation' (optionally followed by '/version')"
)
DOWNLOADED_FILES = ("*.json", "*.weights.h5", "assets/*")


class Location(NamedTuple):
    """A preset folder, and the folder that its files may not leave."""

    directory: pathlib.Path
    boundary: pathlib.Path


def locate_preset(handle):
    """Return the local folder of a preset, downloading it where needed.

    Args:
        handle: path of a local folder (str or `pathlib.Path`), "hf://user/name",
            "kaggle://user/model/keras/variation[/version]", or the name of a shipped preset.

    Returns:
        `pathlib.Path` of a folder; nothing in it has been checked.

    Raises:
        ValueError: for anything else, naming the allowed forms.
    """
    return locate(handle).directory


def locate(handle):
    """Return the `Location` of a preset, see `locate_preset`."""
    if not isinstance(handle, (str, pathlib.Path)) or not str(handle):
        raise ValueError(f"A preset is named by a string or a path. Got {handle!r}. Pass {FORMS}.")
    text = str(handle)
    if isinstance(handle, str) and handle in (shipped := shipped_presets()):
        directory = pathlib.Path(shipped[handle]["path"])  # before a folder here, as in KerasHub
        return Location(directory, directory.resolve())
    scheme = re.match(r"(?P<name>[A-Za-z]{2,}):(?P<slashes>/*)(?P<rest>.*)", text)
    if scheme and not pathlib.Path(text).is_dir():
        return _download(text, **scheme.groupdict())
    directory = pathlib.Path(text).expanduser()
    if directory.is_dir():
        return Location(directory, directory.resolve())
    if directory.exists():
        raise ValueError(f"A preset is a folder; {directory} is not one. Pass {FORMS}.")
    interrupted = previous_directory(directory)
    if interrupted.is_dir():
        raise ValueError(
            f"There is no folder {directory}, but a save to it was interrupted and the preset "
            f"from before is whole. Rename {interrupted} to {directory}."
        )
    shipped = list(shipped_presets()) or "none in this version"
    raise ValueError(
        f"Unknown preset {text!r}: not a folder here and not a shipped preset. Shipped presets: "
        f"{shipped}. Otherwise pass {FORMS}. A preset of KerasHub goes through "
        "`keras_textdiff.ar2diff`."
    )


def previous_directory(directory):
    """Return where a save keeps the preset that it is about to replace."""
    return directory.with_name(f".{directory.name}.previous")


def _download(handle, name, slashes, rest):
    """Download `name://rest` and return its `Location`."""
    if name not in ("hf", "kaggle"):
        raise ValueError(f"Unknown scheme in the preset {handle!r}. Pass {FORMS}.")
    if slashes != "//":
        raise ValueError(f"Got the preset {handle!r}. Did you mean '{name}://{rest}'?")
    counts = (2,) if name == "hf" else (4, 5)
    parts = rest.split("/")
    if len(parts) not in counts or not all(re.fullmatch(r"\w[\w.\-]*", part) for part in parts):
        raise ValueError(f"Got the preset {handle!r}. Pass {FORMS}.")
    return _download_from_hugging_face(rest) if name == "hf" else _download_from_kaggle(rest)


def _download_from_hugging_face(repository):
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"Reading 'hf://{repository}' needs the package huggingface_hub. Run "
            "`pip install huggingface_hub`."
        ) from error
    try:
        directory = pathlib.Path(
            huggingface_hub.snapshot_download(repository, allow_patterns=list(DOWNLOADED_FILES))
        )
    except Exception as error:
        raise ValueError(f"Cannot download 'hf://{repository}': {error}") from error
    # Files of a snapshot are links into the blobs of the same repository's cache.
    cache = directory.parent.parent
    inside = directory.parent.name == "snapshots"
    return Location(directory, (cache if inside else directory).resolve())


def _download_from_kaggle(model):
    try:
        import kagglehub
    except ImportError as error:
        raise ValueError(
            f"Reading 'kaggle://{model}' needs the package kagglehub. Run `pip install kagglehub`."
        ) from error
    try:
        directory = pathlib.Path(kagglehub.model_download(model))
    except Exception as error:
        raise ValueError(f"Cannot download 'kaggle://{model}': {error}") from error
    return Location(directory, directory.resolve())
