import json
import os
import pathlib
import subprocess
import sys

import pytest
from training_run import curves

pytestmark = pytest.mark.backend_free
TOOL = pathlib.Path(__file__).parents[2] / "tools" / "plot_run.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def write_log(path, scale=1.0):
    path.parent.mkdir()
    lines = [
        {"step": step, "epoch": 0, "time": 10.0 * step, "loss": scale / step, "tokens": 100 * step}
        for step in range(1, 30)
    ]
    lines[3]["loss"] = None  # was not finite
    lines[-1]["val_loss"] = scale
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "ep')
    return path


def test_curves_of_two_runs(tmp_path):
    logs = [write_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    output = tmp_path / "runs.svg"
    result = run(*logs, f"--output={output}", "--x=tokens")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{output}: loss of one, two\n"
    text = output.read_text()
    for label in ("one, validation", "two", "loss (nats, mean since the last line)", "tokens"):
        assert f"<!-- {label} -->" in text, label


def test_errors_are_one_line(tmp_path):
    log = write_log(tmp_path / "one" / "log.jsonl")
    result = run(log, f"--output={tmp_path / 'run.doc'}")
    assert result.returncode == 1 and "error: Format 'doc' is not supported" in result.stderr
    assert "Traceback" not in result.stderr
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "other.jsonl").write_text('{"text": "a"}\n')
    for paths, message in (
        ([], "Nothing to draw"),
        ([tmp_path / "nowhere.jsonl"], "cannot be read at"),
        ([tmp_path / "empty.jsonl"], "holds no line yet"),
        ([tmp_path / "other.jsonl"], "no run log: line 1 is"),
        ([log, log], "can be drawn once"),
    ):
        with pytest.raises(ValueError, match=message):
            curves.read_runs(paths)
    runs = curves.read_runs([log])
    assert list(runs) == ["log"] and len(runs["log"]) == 29
    with pytest.raises(ValueError, match=r"no 'los'\. They have \['loss', 'tokens', 'val_loss'\]"):
        curves.choose_metrics(runs, ["los"], "step")


def test_runs_are_named_by_what_differs():
    names = curves.run_names(["runs/a/x/log.jsonl", "runs/b/y/log.jsonl"])
    assert names == ["a/x", "b/y"]
    assert curves.run_names(["a.jsonl", "b.jsonl"]) == ["a", "b"]
    assert curves.run_names(["runs/a.jsonl", "runs/a/a.jsonl"]) == ["a", "a/a"]
