"""Tools import the modules beside them as Python finds them when a tool is run."""

import pathlib
import sys

TOOLS = pathlib.Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
sys.path.append(str(TOOLS / "benchmarks"))
