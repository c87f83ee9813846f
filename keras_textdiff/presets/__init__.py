"""Presets: found by name, read strictly, written safely."""

from keras_textdiff.presets.locate import locate_preset
from keras_textdiff.presets.reader import (
    load_backbone,
    load_preprocessor,
    load_task,
    read_backbone_config,
)
from keras_textdiff.presets.registry import shipped_presets
from keras_textdiff.presets.writer import save_preset

__all__ = [
    "load_backbone",
    "load_preprocessor",
    "load_task",
    "locate_preset",
    "read_backbone_config",
    "save_preset",
    "shipped_presets",
]
