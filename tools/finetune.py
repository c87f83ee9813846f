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

from absl import app, flags
from training_run import run
from training_run.flags import FLAGS

PRESET = flags.DEFINE_string("preset", None, "Preset or KerasHub model.", required=True)
PROMPT = flags.DEFINE_string("prompt", "{prompts}", "Template of a prompt, fields in braces.")
RESPONSE = flags.DEFINE_string("response", "{responses}", "Template of a response.")


def make_model(rows):
    """Return the model to start from, on one device."""
    model = run.model_of_preset(PRESET.value)
    if FLAGS.sequence_length is not None:
        model.preprocessor.sequence_length = FLAGS.sequence_length
    return model


def main(_):
    """Read the flags and train."""
    run.main((PROMPT.value, RESPONSE.value), make_model)


if __name__ == "__main__":
    app.run(main)
