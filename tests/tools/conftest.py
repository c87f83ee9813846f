"""Tools import the modules beside them as Python finds them when a tool is run."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))
