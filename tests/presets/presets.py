"""What the tests of presets share: loading with this library's classes, and editing files."""

import gc
import json
import warnings

import pytest

from keras_textdiff.backbones import EncoderDecoderBackbone, TransformerBackbone
from keras_textdiff.models import (
    CausalLM,
    CausalLMPreprocessor,
    DiffusionLM,
    DiffusionLMPreprocessor,
)
from keras_textdiff.presets import load_task
from tests import tiny

CLASSES = {
    "task_classes": (DiffusionLM, CausalLM),
    "backbone_classes": (TransformerBackbone, EncoderDecoderBackbone),
    "preprocessor_classes": (DiffusionLMPreprocessor, CausalLMPreprocessor),
}
LAMBDA = {
    "module": "keras.layers",
    "class_name": "Lambda",
    "config": {"function": "print"},
    "registered_name": None,
}


def diffusion_lm(**options):
    """A model of two layers, so that their weights have numbered names."""
    return tiny.diffusion_lm(**{"num_layers": 2, **options})


def load(directory, task_class=DiffusionLM, **kwargs):
    return load_task(directory, task_class, **CLASSES, **kwargs)


def refused(directory, *words, **kwargs):
    """Assert that a preset is refused with a message that has all the words."""
    with pytest.raises(ValueError) as caught:
        load(directory, **kwargs)
    for word in words:
        assert str(word) in str(caught.value), caught.value


def logits(model, seed=0):
    inputs = tiny.encoder_inputs(seed=seed)
    inputs = {key: inputs[key] for key in model.backbone.input}
    return tiny.to_numpy(model(inputs)).astype("float32")


def quantize(model, mode, **kwargs):
    """Quantize a model, without Keras' warnings about layers that have no weights."""
    gc.freeze()  # Keras collects garbage at each layer, which takes longest of all
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.quantize(mode, **kwargs)
    finally:
        gc.unfreeze()
    return model


def edit(directory, changes, names=("config.json",)):
    """Set values in JSON files by their dotted places; the checksums go."""
    (directory / "checksums.json").unlink(missing_ok=True)
    for name in names:
        path = directory / name
        tree = json.loads(path.read_text())
        for place, value in changes.items():
            if name == "task.json" and "config.json" in names:
                place = f"config.backbone.{place}"
            *parents, last = place.split(".")
            node = tree
            for key in parents:
                node = node[key]
            node[last] = value
        path.write_text(json.dumps(tree))


def edit_backbone(directory, changes):
    """Set values of the backbone's config in both files that hold it."""
    changes = {f"config.{key}": value for key, value in changes.items()}
    edit(directory, changes, ("config.json", "task.json"))
