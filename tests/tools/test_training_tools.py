import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.training import read_run_log
from tests import tiny
from tests.processes import free_port, run_together

TOOLS = pathlib.Path(__file__).parents[2] / "tools"
NUM_PROCESSES = 1 if keras.config.backend() == "tensorflow" else 2
TEXTS = ["the cat is thin", "a dog on a log", "one two three", "the hen in the hat"] * 3


ENVIRONMENT = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # compiles faster


def run(tool, *arguments, num_processes=1):
    """Run a tool in one or several processes, and return what each printed."""
    together = [[]]
    if num_processes > 1:
        flags = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={num_processes}"]
        together = [[*flags, f"--process_id={index}"] for index in range(num_processes)]
    command = [sys.executable, TOOLS / tool, *arguments]
    return run_together([[*command, *flags] for flags in together], env=ENVIRONMENT)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    documents = [json.dumps({"text": text}) for text in TEXTS]
    (folder / "text.jsonl").write_text("\n".join(documents))
    tasks = [json.dumps({"ask": text[:6], "answer": text[6:]}) for text in TEXTS]
    (folder / "tasks.jsonl").write_text("\n".join(tasks))
    config = {**tiny.BACKBONE, "num_layers": 1, "vocabulary_size": 280}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.skipif(
    keras.config.backend() == "torch", reason="twice is enough: in one process and in two"
)
def test_from_documents_to_a_model_that_answers(corpus, tmp_path):
    common = ["--batch_size=4", "--epoch_steps=2", "--warmup_steps=1", "--seed=1"]
    documents = f"--data={corpus / 'text.jsonl'}"
    ar = [
        documents, f"--validation_data={corpus / 'text.jsonl'}", "--vocabulary_size=270",
        f"--config={corpus / 'config.json'}", "--objective=next_token", "--sequence_length=16",
        "--pack", "--ema_momentum=0.5", *common, f"--output={tmp_path / 'ar'}",
    ]  # fmt: skip
    outputs = run("pretrain.py", *ar, "--steps=2", num_processes=NUM_PROCESSES)
    assert "val_loss" in outputs[0] and "Trained" in outputs[0]
    assert all("loss" not in output for output in outputs[1:])  # told once
    before = CausalLM.from_preset(tmp_path / "ar" / "preset")
    assert before.preprocessor.sequence_length == 16
    assert before.preprocessor.tokenizer.vocabulary_size() == 270

    # The checkpoints are there, so the same command has nothing left to do.
    outputs = run("pretrain.py", *ar, "--steps=2", num_processes=NUM_PROCESSES)
    assert "Resuming from" in outputs[0]
    assert [line["step"] for line in read_run_log(tmp_path / "ar" / "log.jsonl")][-1] == 2
    again = CausalLM.from_preset(tmp_path / "ar" / "preset")
    for one, other in zip(before.trainable_variables, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(tiny.to_numpy(one.value), tiny.to_numpy(other.value))

    run(
        "finetune.py", f"--preset={tmp_path / 'ar' / 'preset'}",
        f"--data={corpus / 'tasks.jsonl'}", "--prompt={ask}", "--response={answer}",
        "--schedule=constant", "--accumulate_steps=2", "--clip_norm=0", "--roll_back_after=5",
        "--gradient_checkpointing", "--dtype=mixed_bfloat16", "--steps=2", *common,
        f"--output={tmp_path / 'qa'}",
    )  # fmt: skip
    lm = DiffusionLM.from_preset(tmp_path / "qa" / "preset")
    assert lm.backbone.attention == "bidirectional"
    lm.compile(jit_compile=tiny.JIT)
    assert isinstance(lm.generate("the ca", max_length=12, seed=0), str)


@pytest.mark.backend_free
def test_the_optimizer_is_what_the_flags_say():
    flags = [
        "--output=o", "--data=python", "--steps=100", "--optimizer=adam", "--learning_rate=0.4",
        "--schedule=linear", "--warmup_steps=20", "--accumulate_steps=2", "--clip_norm=0.5",
        "--weight_decay=0.1", "--ema_momentum=0.9", "--spike_factor=7",
    ]  # fmt: skip
    code = (
        "import json, sys; from absl import flags; from training_run.optimizer import *;"
        "flags.FLAGS(sys.argv); guard = make_optimizer(); inner = guard.inner_optimizer;"
        "rates = [float(inner._learning_rate(step)) for step in (0, 9, 10, 30, 50)];"
        "print(json.dumps([guard.spike_factor, rates, inner.global_clipnorm, inner.weight_decay,"
        " inner.ema_momentum, inner.use_ema, inner.gradient_accumulation_steps]))"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": str(TOOLS), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, "-c", code, *flags], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    spike_factor, rates, *others = json.loads(result.stdout)
    assert spike_factor == 7 and others == [0.5, 0.1, 0.9, True, 2]
    # 50 updates: 10 of warm-up, then 40 down to nothing.
    np.testing.assert_allclose(rates, [0.04, 0.4, 0.4, 0.2, 0.0], rtol=1e-5)


ERRORS = [
    (["--size=tiny"], "--tokenizer and --vocabulary_size"),
    (["--size=tiny", "--preset=ar_tiny_python"], "one of --preset, --size and --config"),
    (["--size=tiny", "--epoch_steps=3"], "--steps must be a multiple of --epoch_steps, 3"),
    (["--size=tiny", "--warmup_steps=9"], "--warmup_steps must be below --steps"),
    (["--size=tiny", "--weights=1,2"], "one number per --data, 1"),
    (["--size=tiny", "--process_id=1"], "go with --coordinator"),
    (["--size=tiny", "--noskip_bad_steps", "--roll_back_after=2"], "needs --skip_bad_steps"),
    (["--size=tiny", "--device=abacus"], "abacus"),
    (["--preset=nowhere"], "Unknown preset 'nowhere'"),
    (["--preset=ar_tiny_python", "--data=missing.txt"], "no file 'missing.txt'"),
]
if keras.config.backend() != "jax":
    sharded = ["--size=tiny", "--vocabulary_size=300", "--fully_sharded"]
    ERRORS.append((sharded, "KERAS_BACKEND=jax"))
TRY_ALL = """
import json, sys
import pretrain
from absl import flags
from absl.testing import flagsaver

found = []
for arguments in json.loads(sys.argv[1]):
    with flagsaver.flagsaver():
        flags.FLAGS(["pretrain.py", *arguments])
        try:
            pretrain.main(None)
        except SystemExit as end:
            found.append(end.code)
print(json.dumps(found))
"""


@pytest.mark.backend_free
def test_errors_are_one_line_and_come_before_training(corpus, tmp_path):
    attempts = [
        [
            f"--output={tmp_path / str(index)}",
            "--steps=4",
            f"--data={corpus / 'text.jsonl'}",
            *flags,
        ]
        for index, (flags, _) in enumerate(ERRORS)
    ]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(TOOLS), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", TRY_ALL, json.dumps(attempts)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found) == len(ERRORS)
    for text, (_, message) in zip(found, ERRORS, strict=True):
        assert text.startswith("error: ") and message in text
