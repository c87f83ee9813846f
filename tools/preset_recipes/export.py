"""Writes a trained model as a preset that ships: bfloat16, with a description and a card."""

import json
import pathlib
import shutil

from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.presets.folder import CHECKSUMS_FILE, METADATA_FILE, file_checksum
from preset_recipes import card

MAXIMUM_BYTES = 12_000_000


def write_preset(workshop, stage):
    """Write the weights of a finished stage in bfloat16, with a description.

    Raises:
        ValueError: where they take more than a preset that ships may have.
    """
    directory = workshop.shipped(stage)
    cls = CausalLM if stage == "ar" else DiffusionLM
    model = cls.from_preset(workshop.preset(stage), dtype="bfloat16")
    shutil.rmtree(directory, ignore_errors=True)
    model.save_to_preset(directory)
    add_metadata(directory, description=card.description(workshop, stage))
    if size_of(directory) > MAXIMUM_BYTES:
        raise ValueError(
            f"{directory} has {size_of(directory)} bytes; a preset that ships has at most "
            f"{MAXIMUM_BYTES}. Make the recipe smaller."
        )


def write_card(workshop, stage):
    """Write the model card of a preset; it is measured for that, where it has not been."""
    path = workshop.shipped(stage) / "README.md"
    path.write_text(card.make_card(workshop, stage), encoding="utf-8")


def add_metadata(directory, **metadata):
    """Add entries to a preset's metadata, and renew its checksum."""
    path = directory / METADATA_FILE
    found = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**found, **metadata}, indent=4), encoding="utf-8")
    checksums = json.loads((directory / CHECKSUMS_FILE).read_text(encoding="utf-8"))
    checksums[METADATA_FILE] = file_checksum(path)
    (directory / CHECKSUMS_FILE).write_text(json.dumps(checksums, indent=4), encoding="utf-8")


def size_of(directory):
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def copy_preset(directory, destination):
    """Put a finished preset in the place of `destination`."""
    destination = pathlib.Path(destination)
    shutil.rmtree(destination, ignore_errors=True)
    shutil.copytree(directory, destination)
