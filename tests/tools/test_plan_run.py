import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.backend_free
TOOL = pathlib.Path(__file__).parents[2] / "tools" / "plan_run.py"
RUN = ("--device=tpu_v5e", "--batch_size=64", "--length=128")


def run(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *RUN, *arguments],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_table_and_json():
    result = run("--size=small", "--mesh=8x1", "--tokens=1e9", "--unrolls=2")
    assert result.returncode == 0, result.stderr
    for words in (
        "GB on each of 8 x tpu_v5e",
        "with gradient checkpointing",
        "one block",
        "fits in 16",
        "parameters",
        "tokens per second at an MFU of 0.4",
        "hours for 1e+09 tokens",
    ):
        assert words in result.stdout, result.stdout
    result = run("--size=xl", "--json")
    assert result.returncode == 2, result.stderr  # 16 bytes for each of 1.7 billion weights
    plan = json.loads(result.stdout)
    assert plan["num_parameters"] == 1_682_018_304 and plan["fits_checkpointed"] is False
    assert plan["hours"] is None


def test_errors_are_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"vocabulary_size": 3}')
    for arguments, message in (
        (("--size=base", "--mesh=8by1"), "--mesh is DATAxMODEL, such as 8x1. Got '8by1'"),
        ((f"--config={tmp_path / 'config.json'}",), "A TransformerBackbone needs ['num_layers'"),
    ):
        result = run(*arguments)
        assert result.returncode == 1 and f"error: {message}" in result.stderr, result.stderr
        assert "Traceback" not in result.stderr
