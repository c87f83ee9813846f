"""Imports point one way through the rooms, and only utils knows a backend."""

import ast
import pathlib

import pytest

import keras_textdiff

pytestmark = pytest.mark.backend_free

PACKAGE = pathlib.Path(keras_textdiff.__file__).parent
# Each room may import those of the lines above it, and itself.
LAYERS = [
    {"utils"},
    {"presets"},
    {"corruption", "data", "backbones"},
    {"objectives", "samplers"},
    {"models"},
    {"transfer", "training", "distribution", "evaluation", "visualization"},
]
BACKENDS = {"jax", "tensorflow", "torch"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Yield every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(room):
    return next(index for index, rooms in enumerate(LAYERS) if room in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return  # the package's own surface sees all rooms
    room = parts[0]
    for module in imports(path):
        names = module.split(".")
        if names[0] == "keras_textdiff":
            other = names[1]
            assert other == room or level(other) < level(room), f"{path}: imports {module}"
        assert room == "utils" or names[0] not in BACKENDS, f"{path}: imports {module}"


def test_every_room_has_a_layer():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert rooms <= set().union(*LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
