"""How large everything is: from seconds to the paper's own size. The code path is the same.

Compute is counted in passes: one forward and backward pass over a batch. An AR step takes one, a
SUNDAE step with one unroll two.
"""

import dataclasses

from keras_textdiff.backbones import encoder_decoder_config, transformer_config


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a Transformer whose heads rotate their queries and keys.

    Attributes:
        layers: int, blocks of the decoder, and of the encoder where there is one.
        hidden_dim: int.
        heads: int.
        intermediate_dim: int, inner size of the gated networks.
    """

    layers: int
    hidden_dim: int
    heads: int
    intermediate_dim: int


@dataclasses.dataclass(frozen=True)
class Scale:
    """All settings of a reproduction.

    Attributes:
        name: str.
        sizes: dict from name to `Shape`, or to the name of one of the library's sizes.
        base_size: str, the size of Tables 1 and 3.
        vocabulary_size: int, byte-pair tokens, without sentinels.
        sentinels: int, tokens of span corruption.
        lengths: dict from "pretraining" and the tasks to tokens of a row; with an encoder, of its
            rows and of the decoder's.
        batch_tokens: int, tokens of a batch: rows times their length.
        pretraining_steps: int, AR steps.
        conversion_steps: tuple, the two N of AR2Diff_N, in SUNDAE steps.
        finetuning_steps: int, AR steps.
        equal_compute: bool. True: every arm takes as many passes as AR: diffusion takes half the
            steps, and the N steps of AR2Diff_N replace the last 2 N of the AR pretraining.
            False, as in the paper: as many steps, and the N steps come on top.
        learning_rate: float, peak of both pretraining and fine-tuning.
        decay: bool, whether fine-tuning's learning rate falls to zero.
        optimizer: "adamw" or "adafactor".
        segment_steps: int, steps between two points of the log (and possible checkpoints).
        checkpoint_seconds: float, how much work a kill may cost; at most one segment at 0.
        corpus: "local" (files of `--data`, or what Python brings), or "public" (by name).
        documents: int, most documents to read from each local source of text.
        training_examples: int, most examples of a task to train on.
        most_words: int, of a sentence to translate. This and the next two are for the local tasks.
        context_words: int, words that stay before and behind the answer to a question.
        most_operations: int, on a number or a string that a program takes.
        evaluation_examples: dict from task to number of held-out examples.
        code_samples: int, programs per code task; k of pass@k as well.
        figure_sizes: tuple of names of sizes in Figure 3.
        figure_lengths: tuple of ints, tokens to write in Figure 3.
        flops: float, floating-point operations per second that estimates start from.
        overhead: float, seconds per stage that they add.
    """

    name: str
    sizes: dict
    base_size: str
    vocabulary_size: int
    sentinels: int
    lengths: dict
    batch_tokens: int
    pretraining_steps: int
    conversion_steps: tuple
    finetuning_steps: int
    equal_compute: bool
    learning_rate: float
    decay: bool
    optimizer: str
    segment_steps: int
    checkpoint_seconds: float
    corpus: str
    documents: int
    training_examples: int
    most_words: int
    context_words: int
    most_operations: int
    evaluation_examples: dict
    code_samples: int
    figure_sizes: tuple
    figure_lengths: tuple
    flops: float
    overhead: float

    def __post_init__(self):
        steps = {
            "pretraining_steps": self.pretraining_steps,
            "finetuning_steps": self.finetuning_steps,
            **{f"conversion_steps {n}": n for n in self.conversion_steps},
        }
        for name, value in steps.items():
            # Diffusion takes half of them, in whole segments.
            if value % (2 * self.segment_steps):
                raise ValueError(
                    f"{name} must be a multiple of {2 * self.segment_steps}. Got {value}."
                )
        if self.equal_compute and 2 * max(self.conversion_steps) >= self.pretraining_steps:
            raise ValueError("AR2Diff_N needs AR pretraining before its N steps.")

    def batch_size(self, data):
        """Return the rows of a batch, of "pretraining" or of a task."""
        return self.batch_tokens // self.lengths[data]

    def diffusion_steps(self, ar_steps):
        """Return how many SUNDAE steps stand against so many AR steps."""
        return ar_steps // 2 if self.equal_compute else ar_steps

    def branch_step(self, conversion_steps):
        """Return the AR step at which AR2Diff_N leaves the AR pretraining."""
        return self.pretraining_steps - 2 * conversion_steps * self.equal_compute

    def backbone_config(self, architecture, size):
        """Return the arguments of a backbone, "attention" and "dtype" excepted."""
        shape, vocabulary_size = self.sizes[size], self.vocabulary_size + self.sentinels
        with_encoder = architecture == "encoder-decoder"
        if isinstance(shape, str):
            make = encoder_decoder_config if with_encoder else transformer_config
            return make(shape, vocabulary_size=vocabulary_size)
        config = {
            "vocabulary_size": vocabulary_size,
            "num_query_heads": shape.heads,
            "num_key_value_heads": shape.heads,
            "head_dim": shape.hidden_dim // shape.heads,
            "hidden_dim": shape.hidden_dim,
            "intermediate_dim": shape.intermediate_dim,
            "rope": {"theta": 10000.0},
            "tie_embeddings": True,
        }
        if with_encoder:
            stacks = {"num_encoder_layers": shape.layers, "num_decoder_layers": shape.layers}
            return {**config, **stacks, "num_position_buckets": None}
        return {**config, "num_layers": shape.layers}


TOY = Scale(
    name="toy",
    sizes={"nano": Shape(1, 16, 2, 32), "micro": Shape(1, 32, 2, 64)},
    base_size="nano",
    vocabulary_size=400,
    sentinels=16,
    lengths={"pretraining": 64, "translation": 64, "qa": 64, "code": 128},
    batch_tokens=512,
    pretraining_steps=24,
    conversion_steps=(4, 8),
    finetuning_steps=8,
    equal_compute=True,
    learning_rate=2e-3,
    decay=True,
    optimizer="adamw",
    segment_steps=2,
    checkpoint_seconds=0,
    corpus="local",
    documents=40,
    training_examples=64,
    most_words=4,
    context_words=3,
    most_operations=2,
    evaluation_examples={"translation": 4, "qa": 4, "code": 3},
    code_samples=2,
    figure_sizes=("nano",),
    figure_lengths=(16, 32),
    flops=1e9,
    overhead=2.0,
)

MINUTES = Scale(
    name="minutes",
    sizes={"tiny": Shape(1, 64, 2, 176), "small": Shape(2, 96, 3, 256)},
    base_size="small",
    vocabulary_size=1500,
    sentinels=16,
    lengths={"pretraining": 64, "translation": 24, "qa": 48, "code": 64},
    batch_tokens=768,
    pretraining_steps=1200,
    conversion_steps=(80, 240),
    finetuning_steps=1600,
    equal_compute=True,
    learning_rate=3e-3,
    decay=True,
    optimizer="adamw",
    segment_steps=40,
    checkpoint_seconds=20,
    corpus="local",
    documents=100_000,
    training_examples=60_000,
    most_words=4,
    context_words=3,
    most_operations=2,
    evaluation_examples={"translation": 160, "qa": 160, "code": 60},
    code_samples=2,
    figure_sizes=("small",),
    figure_lengths=(64, 128, 256, 512, 1024),
    flops=6e10,
    overhead=2.0,
)

HOURS = dataclasses.replace(
    MINUTES,
    name="hours",
    sizes={"small": Shape(4, 128, 4, 352), "medium": Shape(6, 192, 6, 512)},
    vocabulary_size=4000,
    sentinels=32,
    lengths={"pretraining": 96, "translation": 48, "qa": 96, "code": 96},
    batch_tokens=2880,
    pretraining_steps=2000,
    conversion_steps=(100, 400),
    finetuning_steps=1200,
    segment_steps=50,
    checkpoint_seconds=60,
    most_words=6,
    context_words=6,
    most_operations=3,
    evaluation_examples={"translation": 400, "qa": 400, "code": 80},
    code_samples=8,
    figure_sizes=("small", "medium"),
    figure_lengths=(64, 128, 256, 512, 1024, 2048),
)

# From the report: sizes, vocabulary, mixture, N, 10 steps, 8 canvases, fine-tuning at a constant
# 1e-3 with batches of 128, 80 programs a task. Not confirmed there, so check before spending on
# it: a million pretraining steps and half a million of fine-tuning, rows of 1024 tokens, the same
# learning rate and batch size in pretraining, and Adafactor.
PAPER = Scale(
    name="paper",
    sizes={"base": "base", "large": "large", "xl": "xl"},
    base_size="base",
    vocabulary_size=255_900,
    sentinels=100,
    lengths={"pretraining": 1024, "translation": 1024, "qa": 1024, "code": 1024},
    batch_tokens=128 * 1024,
    pretraining_steps=1_000_000,
    conversion_steps=(10_000, 100_000),
    finetuning_steps=500_000,
    equal_compute=False,
    learning_rate=1e-3,
    decay=False,
    optimizer="adafactor",
    segment_steps=500,
    checkpoint_seconds=900,
    corpus="public",
    documents=0,
    training_examples=50_000_000,
    most_words=0,
    context_words=0,
    most_operations=0,
    evaluation_examples={"translation": 3003, "qa": 10_570, "code": 500},
    code_samples=80,
    figure_sizes=("base",),
    figure_lengths=(125, 250, 500, 1000, 2000, 4000),
    flops=2e14,
    overhead=600.0,
)

SCALES = {scale.name: scale for scale in (TOY, MINUTES, HOURS, PAPER)}
