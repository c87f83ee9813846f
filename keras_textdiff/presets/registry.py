"""Presets shipped inside the package: name to the folder below this one and what is in it."""

SHIPPED_PRESETS = {}  # name: {"path": subdirectory, "description": one line}
