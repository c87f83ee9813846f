"""The parts of `tools/reproduce_ar2diff.py`."""
