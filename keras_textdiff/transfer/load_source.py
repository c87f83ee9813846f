"""From a preset handle to the autoregressive model it names."""

import json
import os
import pathlib
import re

import keras_hub
from keras_hub.src.utils.preset_utils import get_file

from keras_textdiff.models import CausalLM
from keras_textdiff.presets import shipped_presets
from keras_textdiff.presets.folder import CONFIG_FILE, TASK_FILE
from keras_textdiff.presets.weights import LFS_POINTER
from keras_textdiff.utils.registration import PACKAGE

FORMS = (
    "a name in `keras_textdiff.models.CausalLM.presets`, a KerasHub preset name "
    "('gpt2_base_en'), 'hf://user/name', "
    "'kaggle://user/model/keras/variation', or a local folder"
)


def load_source(handle, dtype=None):
    """Load the causal language model that a preset handle names.

    Args:
        handle: str or `pathlib.Path`: the name of a shipped preset, a KerasHub preset name,
            "hf://user/name", "kaggle://user/model/keras/variation", or a local folder with a
            preset of this package, of KerasHub, or of Hugging Face Transformers.
        dtype: dtype or policy to load with; None means Keras' default.

    Returns:
        `keras_textdiff.models.CausalLM` or `keras_hub.models.CausalLM`.

    Raises:
        ValueError: for a handle that names nothing, or a preset that cannot be read.
    """
    is_shipped = isinstance(handle, str) and handle in shipped_presets()
    handle = handle if is_shipped else _check_handle(handle)
    # Builds nothing from a preset of ours but what its own reader allows.
    loader = CausalLM if is_shipped or _is_own_preset(handle) else keras_hub.models.CausalLM
    try:
        return loader.from_preset(handle, **({} if dtype is None else {"dtype": dtype}))
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"Cannot load the preset {handle!r}: {error}") from error


def _check_handle(handle):
    """Return the handle as KerasHub takes it; local folders as existing paths."""
    text = os.fspath(handle)
    if not text:
        raise ValueError(f"Expected {FORMS}. Got {text!r}.")
    if isinstance(handle, str) and text in keras_hub.models.CausalLM.presets:
        return text
    directory = pathlib.Path(text).expanduser()
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise ValueError(f"The folder {text!r} is no preset: it has no 'config.json'.")
        _check_weights_are_there(directory)
        return str(directory.absolute())  # no loader takes it for a name
    scheme = re.match(r"([A-Za-z]\w+):(/*)(.+)", text)
    is_handle = isinstance(handle, str) and scheme is not None
    if is_handle and scheme[2] == "//":
        return text
    if is_handle and not directory.exists():
        raise ValueError(f"Got the preset {text!r}. Did you mean '{scheme[1]}://{scheme[3]}'?")
    looks_local = not isinstance(handle, str) or any(c in text for c in "/\\~") or text[:1] == "."
    if looks_local or directory.exists():
        what = "a file" if directory.exists() else "not there"
        raise ValueError(f"Expected {FORMS}. Got {text!r}: as a local folder, it is {what}.")
    raise ValueError(
        f"Unknown preset {text!r}. Expected {FORMS}. Shipped presets: "
        f"{list(shipped_presets('CausalLM')) or 'none in this version'}; "
        "`keras_hub.models.CausalLM.presets` lists KerasHub's names."
    )


def _check_weights_are_there(directory):
    """Raise a ValueError where git has left a pointer in the place of weights."""
    for path in sorted([*directory.glob("*.h5"), *directory.glob("*.safetensors")]):
        if path.is_file():
            with open(path, "rb") as file:
                if file.read(len(LFS_POINTER)) == LFS_POINTER:
                    raise ValueError(
                        f"{path}: a git-lfs pointer, not the weights themselves. Run `git lfs "
                        "pull` in the folder."
                    )


def is_diffusion_preset(handle):
    """Return whether a preset handle, see `load_source`, names a `DiffusionLM` of this package."""
    if isinstance(handle, str) and handle in shipped_presets():
        return handle in shipped_presets("DiffusionLM")
    return _registered_name(_check_handle(handle), TASK_FILE) == f"{PACKAGE}>DiffusionLM"


def _is_own_preset(handle):
    """Return whether a local folder or a remote preset is one of this package."""
    return _registered_name(handle, CONFIG_FILE).startswith(f"{PACKAGE}>")


def _registered_name(handle, name):
    """Return the name of what a preset's file describes, "" where it has no such file or name."""
    file = _preset_file(handle, name)
    if file is None:
        return ""
    try:
        config = json.loads(pathlib.Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The preset file {str(file)!r} is not JSON: {error}") from error
    registered = config.get("registered_name") if isinstance(config, dict) else None
    return registered if isinstance(registered, str) else ""


def _preset_file(handle, name):
    """Return the path of a preset's file, downloaded where it is remote, or None."""
    if handle in keras_hub.models.CausalLM.presets:
        return None
    try:
        return get_file(handle, name)
    except Exception:  # whatever it is, loading the preset meets it again and says so
        return None
