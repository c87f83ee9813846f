import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest

from tests import tiny

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "evaluate.py"
ROWS = [
    {"en": prompt, "fr": response}
    for prompt, response in zip(tiny.TEXTS["prompts"], tiny.TEXTS["responses"], strict=True)
]


def run(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *arguments],
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"},  # compiles faster
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_translation(tmp_path):
    tiny.diffusion_lm().save_to_preset(tmp_path / "preset")
    data, output = tmp_path / "rows.jsonl", tmp_path / "report.json"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    result = run(
        f"--preset={tmp_path / 'preset'}",
        "--task=translation",
        f"--data={data}",
        "--prompt={en}",
        "--limit=3",
        "--sampler_options=num_denoising_steps=2",
        "--sampler_options=num_canvases=1",
        f"--output={output}",
    )
    assert result.returncode == 0, result.stderr
    for words in ("DiffusionLM on translation", "bleu", "generating", "3/3", "nrefs:1|"):
        assert words in result.stdout
    report = json.loads(output.read_text())
    assert len(report["outputs"]) == report["details"]["examples"] == 3
    assert report["details"]["backend"] == keras.config.backend()


@pytest.mark.backend_free
def test_errors_are_one_line(tmp_path):
    result = run("--preset=nowhere", "--task=qa", f"--data={tmp_path / 'dev.json'}")
    assert result.returncode == 1
    assert "error: No file at" in result.stderr
    assert "Traceback" not in result.stderr
