"""Imports of libraries that only some sources need."""

import importlib


def optional_import(module, package):
    """Import a module, or say which package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This source needs {package!r}: pip install {package}, or "
            'pip install "keras_textdiff[data]" for all sources.'
        ) from error
