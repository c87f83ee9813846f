"""What the presets that ship are made of: sizes, data and what is tried on the result."""

import dataclasses

from keras_textdiff.backbones import TransformerBackbone


def preset_name(stage, domain):
    """Return the name that a preset ships under: "ar2diff_tiny_python"."""
    return f"{stage}_tiny_{domain}"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the three models of a domain are made.

    Attributes:
        domain: "python" or "english".
        vocabulary_size: int, most tokens of the byte-pair tokenizer.
        sequence_length: int, tokens in a row; longer documents are left out.
        hidden_dim: int.
        num_layers: int.
        intermediate_dim: int.
        batch_size: int, rows.
        learning_rate: float, highest rate, after `warmup_steps`; a cosine takes it to 0.
        conversion_learning_rate: float, the same for AR2Diff's training on.
        warmup_steps: int.
        diffusion_format: str, how diffusion's rows are made of a text, see `keras_textdiff.data`.
        weight_decay: float.
        segment_steps: int, steps from one line of the log, and checkpoint, to the next.
        held_out: int, rows that scores are measured on, at most.
        generated: int, prompts that texts are written behind for a score.
        sampler: tuple of pairs, options of `SundaeSampler` for those and for samples.
        temperature: float, of AR sampling.
        prompts: strings for the card's samples.
        gaps: tuple of `(pieces, lengths)` for the card's infilling.
        seed: int.
    """

    domain: str
    vocabulary_size: int = 2048
    sequence_length: int = 64
    hidden_dim: int = 128
    num_layers: int = 6
    intermediate_dim: int = 384
    batch_size: int = 16
    learning_rate: float = 3e-3
    conversion_learning_rate: float = 3e-3
    warmup_steps: int = 100
    diffusion_format: str = "prefix_lm"
    weight_decay: float = 0.05
    segment_steps: int = 100
    held_out: int = 512
    generated: int = 64
    sampler: tuple = (
        ("num_denoising_steps", 40),
        ("temperature", 0.5),
        ("update_proportion", 0.2),
        ("num_canvases", 8),
    )
    temperature: float = 0.5
    prompts: tuple = ()
    gaps: tuple = ()
    seed: int = 0

    @property
    def backbone_config(self):
        """The arguments of `TransformerBackbone` but for vocabulary and attention."""
        return {
            "num_layers": self.num_layers,
            "num_query_heads": self.hidden_dim // 32,
            "num_key_value_heads": self.hidden_dim // 32,
            "head_dim": 32,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "rope": {"theta": 10000.0},
        }


RECIPES = {
    "python": Recipe(
        "python",
        prompts=("def get_name(self", "def __init__(self", "def is_", "def __repr__(self"),
        gaps=(
            (("def get_name(self):\n    return ", ""), (4,)),
            (("def __len__(self):\n    return ", "(self._data)"), (1,)),
        ),
    ),
    "english": Recipe(
        "english",
        sequence_length=32,
        batch_size=32,
        prompts=("She", "The old man", "It was", "I am"),
        gaps=((("He looked at ", " and smiled."), (4,)), (("It was a ", " night."), (3,))),
    ),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long each stage trains, the same however often a run is stopped.

    A SUNDAE step with its unroll takes two passes, one forward and backward each; an AR step
    takes one. AR2Diff goes on from the whole AR training with three times its passes, and
    diffusion from scratch has as many as both together.

    Attributes:
        passes: int, passes of the AR training; even.
    """

    passes: int

    def __post_init__(self):
        if self.passes < 2 or self.passes % 2:
            raise ValueError(f"--passes must be an even number from 2 on. Got {self.passes}.")

    @property
    def steps(self):
        """Steps of each stage, in the order in which they run."""
        return {
            "ar": self.passes,
            "ar2diff": CONVERSION * self.passes // 2,
            "diffusion": (1 + CONVERSION) * self.passes // 2,
        }

    @property
    def total_passes(self):
        """Passes of all stages together."""
        return sum(self.steps[stage] * PASSES_PER_STEP[stage] for stage in self.steps)


CONVERSION = 3  # passes of AR2Diff's training on for one of the AR training
PASSES_PER_STEP = {"ar": 1, "ar2diff": 2, "diffusion": 2}
FLOPS = 45e9  # operations a second on one core, for estimates


def plan_within(recipe, seconds):
    """Return the `Plan` that takes about so long, by the operations it needs."""
    config = {**recipe.backbone_config, "vocabulary_size": recipe.vocabulary_size}
    parameters = TransformerBackbone.parameter_count_from_config(config)
    # 2 operations per parameter and token forward, 4 backward.
    operations = 6 * parameters * recipe.batch_size * recipe.sequence_length
    passes_per_pass = Plan(2).total_passes / 2
    return Plan(max(2, int(seconds * FLOPS / operations / passes_per_pass) // 2 * 2))


def describe(recipe):
    """Return what training depends on in a recipe, as JSON holds it."""
    names = ("held_out", "generated", "sampler", "temperature", "prompts", "gaps")
    return {key: value for key, value in dataclasses.asdict(recipe).items() if key not in names}
