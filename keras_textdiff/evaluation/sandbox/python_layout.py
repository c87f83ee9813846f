"""Where a confined process sees Python, and how its interpreters are started."""

SCRATCH = "/scratch"
HOME = "/python"  # what a confined Python takes for its installation
EXECUTABLE = f"{HOME}/bin/python"
GUEST = f"{HOME}/guest"
# No environment, no user's or installed packages.
FLAGS = ("-I", "-S", "-X", "utf8")
ENVIRONMENT = {
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
    "LC_ALL": "C.UTF-8",
    # Each further arena reserves 64 MiB of the address space that the memory limit counts.
    "MALLOC_ARENA_MAX": "1",
}

_PACKAGE = "keras_textdiff.evaluation.sandbox"
_BOOT = """
import sys
for name in {packages!r}:
    sys.modules[name] = type(sys)(name)
    sys.modules[name].__path__ = [{folder!r}]
from {module} import main
main()
"""


def boot(folder, module):
    """Return code that runs `main` of a module of this package, found in `folder`.

    The packages above are made up rather than imported: importing `keras_textdiff` takes seconds,
    and needs Keras.
    """
    parts = _PACKAGE.split(".")
    packages = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return _BOOT.format(packages=packages, folder=folder, module=f"{_PACKAGE}.{module}")
