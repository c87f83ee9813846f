"""The flags that pretrain.py and finetune.py share."""

from absl import flags

FLAGS = flags.FLAGS
OPTIMIZERS = ("adamw", "adam", "adafactor", "lion", "muon", "sgd")
SCHEDULES = ("constant", "linear", "cosine")

# === The data ===
flags.DEFINE_multi_string("data", None, "'python', a corpus by name (mc4/en, squad), or files "
                          "(.txt, .jsonl, .parquet); repeat it to mix.", required=True)  # fmt: skip
flags.DEFINE_list("weights", [], "How often each --data is drawn from.")
flags.DEFINE_string("validation_data", None, "Held-out data, named as --data.")

# === The run ===
flags.DEFINE_string("output", None, "Folder of the run; the same folder goes on.", required=True)
flags.DEFINE_integer("steps", None, "Training steps.", lower_bound=1, required=True)
flags.DEFINE_integer("batch_size", 32, "Rows of a batch, of all processes.", lower_bound=1)
flags.DEFINE_integer("sequence_length", None, "Tokens of a row; None: the preprocessor's.")
flags.DEFINE_integer("seed", 0, "Seed of weights, data and noise.")
flags.DEFINE_enum("objective", "sundae", ["sundae", "next_token"], "What is minimized: diffusion "
                  "or autoregressive.")  # fmt: skip
flags.DEFINE_integer("num_unroll_steps", 1, "Unrolls of SUNDAE.", lower_bound=0)
flags.DEFINE_string("dtype", None, "Dtype policy: float32, bfloat16, mixed_bfloat16 ...")
flags.DEFINE_bool("gradient_checkpointing", False, "Recompute blocks in the backward pass.")
flags.DEFINE_integer("save_every_steps", 1000, "Steps from checkpoint to checkpoint.")
flags.DEFINE_integer("max_to_keep", 3, "Checkpoints that stay.")
flags.DEFINE_integer("epoch_steps", 100, "Steps from one line of the history to the next; also of "
                     "validation, where there is any.")  # fmt: skip
flags.DEFINE_integer("validation_examples", 256, "Most examples of the validation data.")
flags.DEFINE_integer("log_every_steps", 10, "Steps from one line of log.jsonl to the next.")
flags.DEFINE_bool("tensorboard", False, "Write the same numbers for TensorBoard.")
flags.DEFINE_string("device", None, "What one device can do, for the MFU: tpu_v5e, tpu_v5p, "
                    "tpu_v6e, h100, h200, or its operations per second.")  # fmt: skip

# === The optimizer ===
flags.DEFINE_enum("optimizer", "adamw", OPTIMIZERS, "A Keras optimizer.")
flags.DEFINE_float("learning_rate", 3e-4, "Highest learning rate.", lower_bound=0.0)
flags.DEFINE_enum("schedule", "cosine", SCHEDULES, "What it does behind the warm-up.")
flags.DEFINE_integer("warmup_steps", 0, "Steps in which it rises.", lower_bound=0)
flags.DEFINE_float("weight_decay", None, "Of the optimizer; None: its default.")
flags.DEFINE_float("clip_norm", 1.0, "Largest norm of all gradients together; 0: any.")
flags.DEFINE_integer("accumulate_steps", 1, "Steps whose gradients are averaged.", lower_bound=1)
flags.DEFINE_float("ema_momentum", 0.0, "Momentum of averaged weights, which the preset gets; 0: "
                   "none.", lower_bound=0.0, upper_bound=1.0)  # fmt: skip

# === Guards ===
flags.DEFINE_bool("skip_bad_steps", True, "Skip steps whose gradient is not finite, or a spike.")
flags.DEFINE_float("spike_factor", 10.0, "A gradient that many times the usual norm is a spike; "
                   "0: none is.")  # fmt: skip
flags.DEFINE_integer("roll_back_after", 0, "Go back to the last checkpoint after so many skipped "
                     "steps in a row; 0: never.", lower_bound=0)  # fmt: skip

# === Processes and devices ===
flags.DEFINE_bool("distributed", False, "Several processes, found by the environment: TPU pods, "
                  "SLURM, Open MPI (jax), torchrun (torch).")  # fmt: skip
flags.DEFINE_string("coordinator", None, "Several processes: host:port of the first one.")
flags.DEFINE_integer("num_processes", None, "How many.")
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0 on.")
flags.DEFINE_integer("model_parallel", 1, "Devices that share the weights of a layer (jax).",
                     lower_bound=1)  # fmt: skip
flags.DEFINE_bool("fully_sharded", False, "Split weights and optimizer over all devices (jax).")
