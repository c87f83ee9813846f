"""An adversarial set: no forged pass, nothing reached, all ended, no trace, as either user."""

import json
import pathlib

import pytest

from keras_textdiff.evaluation import Sandbox, SandboxUnavailable
from tests.evaluation import sandbox_floods, sandbox_reaches, sandbox_runner  # noqa: F401
from tests.evaluation.sandbox_attacks import ATTACKS
from tests.evaluation.sandbox_users import USERS, run_as

pytestmark = pytest.mark.backend_free


@pytest.fixture(scope="module", params=USERS)
def report(request):
    """What came of all attacks as one user."""
    try:
        Sandbox()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    process = run_as(request.param, pathlib.Path(sandbox_runner.__file__))
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    assert (report["user"] == 0) == (request.param == "root")
    return report


def test_all_attacks_are_there(report):
    assert report["results"].keys() == ATTACKS.keys()
    assert len(ATTACKS) > 100


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(report, name):
    status, message, output = report["results"][name]
    assert status in ATTACKS[name].expected, f"{message}\n{output}"


def test_nothing_is_left(report):
    assert report["left"] == []


def test_the_attacks_are_attacks():
    """Run where tests are run beside the program, some of them pass: the programs are no duds."""
    names = ("always equal", "starts with anything", "a class as witness", "shadowed built-ins")
    for name in names:
        space = {}
        exec(ATTACKS[name].program, space)
        for test in ATTACKS[name].tests:
            exec(test, space)
