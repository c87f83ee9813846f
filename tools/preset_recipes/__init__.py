"""The parts of make_presets.py."""
