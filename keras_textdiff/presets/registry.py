"""Presets that ship with the package, by name."""

import json
import pathlib

SHIPPED_FOLDER = pathlib.Path(__file__).parent / "shipped"  # a folder for each, named as it is
FILES = ("config.json", "task.json", "metadata.json")


def shipped_presets(task_class=None):
    """List the presets that ship.

    Args:
        task_class: str, name of the class of model; None means all.

    Returns:
        Dict from name to metadata: "description"; "params", the number of parameters; and "path",
        of the folder.
    """
    found = {}
    for directory in sorted(SHIPPED_FOLDER.glob("*")):
        if not all((directory / file).is_file() for file in FILES):
            continue
        task, metadata = (
            json.loads((directory / file).read_text(encoding="utf-8")) for file in FILES[1:]
        )
        if task_class in (None, task["class_name"]):
            found[directory.name] = {
                "description": metadata["description"],
                "params": metadata["parameter_count"],
                "path": str(directory),
            }
    return found
