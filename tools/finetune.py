"""Fine-tune a preset on prompts and responses.

    python tools/finetune.py --preset=ar2diff_tiny_english --data=tasks.jsonl \\
        --prompt="{question}" --response="{answer}" --steps=1000 --output=runs/qa
    python tools/finetune.py --preset=gemma3_270m --data=squad --dtype=mixed_bfloat16 \\
        --fully_sharded --distributed --batch_size=128 --steps=5000 --output=runs/squad

An autoregressive preset, of KerasHub as well, is converted to a diffusion model first (AR2Diff_0);
with --objective=next_token it stays what it is. The same command goes on where a run was stopped.
KERAS_BACKEND names the backend. Several processes and hosts:
examples/distributed_training/README.md.
"""

import sys

from absl import app, flags
from training_run import devices, run, sources
from training_run.flags import FLAGS

PRESET = flags.DEFINE_string("preset", None, "Preset or KerasHub model.", required=True)
DATA = flags.DEFINE_multi_string(
    "data", None, "A corpus by name (squad, wmt14/en-fr, mbpp), or files (.jsonl, .parquet).",
    required=True,
)  # fmt: skip
WEIGHTS = flags.DEFINE_list("weights", [], "How often each --data is drawn from.")
PROMPT = flags.DEFINE_string("prompt", "{prompts}", "Template of a prompt, fields in braces.")
RESPONSE = flags.DEFINE_string("response", "{responses}", "Template of a response.")
VALIDATION = flags.DEFINE_string("validation_data", None, "Held-out examples, as --data.")


def make_model():
    """Return the model to start from, on one device."""
    model = run.model_of_preset(PRESET.value)
    if model.preprocessor is None:
        raise ValueError(f"{PRESET.value} has no tokenizer. Pass a preset that has one.")
    if FLAGS.sequence_length is not None:
        model.preprocessor.sequence_length = FLAGS.sequence_length
    return model


def main(_):
    """Read the flags and train."""
    try:
        devices.start_processes()
        template = (PROMPT.value, RESPONSE.value)
        rows = [sources.open_source(name, template) for name in DATA.value]
        weights = sources.parse_weights(WEIGHTS.value, len(rows))
        validation = None
        if VALIDATION.value is not None:
            held_out = sources.open_source(VALIDATION.value, template)
            validation = run.take(held_out, FLAGS.validation_examples)
        run.check_flags()
        run.train(run.make_start(make_model), rows, weights, validation=validation)
    except (FileNotFoundError, ImportError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main)
