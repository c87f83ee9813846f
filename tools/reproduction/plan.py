"""What there is to run: stages, the cells of tables and figures, and what they cost."""

import dataclasses
import functools
import hashlib
import json

from reproduction import models, paper

VERSION = 2  # of the stages; raise it where the same configuration would give other numbers
DIFFUSION_SAMPLER = {"num_denoising_steps": 10, "temperature": 0.2, "num_canvases": 8}
CODE_TEMPERATURE = 0.8  # of AR sampling


@dataclasses.dataclass(frozen=True)
class Training:
    """A stretch of training.

    Attributes:
        architecture: "decoder" or "encoder-decoder".
        objective: "prefix_lm" or "span_corruption", of the pretraining at the bottom.
        mode: "ar" or "diffusion".
        size: str.
        seed: int.
        data: "pretraining" or a task.
        first_step: int, steps taken before by the same optimizer on the same data.
        last_step: int.
        parent: `Training` whose weights it starts from, or None.
    """

    architecture: str
    objective: str
    mode: str
    size: str
    seed: int
    data: str
    first_step: int
    last_step: int
    parent: "Training | None" = None

    @property
    def name(self):
        """Name for people and folders: "decoder-prefix_lm-small-ar800-diffusion80-qa400-seed0"."""
        last = {(stage.data, stage.mode): stage.last_step for stage in self.ancestors()}
        steps = [
            f"{mode if data == 'pretraining' else data}{step}"
            for (data, mode), step in last.items()
        ]
        parts = (self.architecture, self.objective, self.size, *steps)
        return f"{'-'.join(parts)}-seed{self.seed}"

    @property
    def goes_on(self):
        """Whether the parent's optimizer and data go on here."""
        return self.first_step > 0

    @property
    def passes(self):
        """Forward and backward passes."""
        return (self.last_step - self.first_step) * (1 if self.mode == "ar" else 2)

    def ancestors(self):
        """Return this stage and those before it, the first one first."""
        return [*(self.parent.ancestors() if self.parent else []), self]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A trained model on the held-out examples of its task.

    Attributes:
        model: `Training`, the fine-tuning.
        sampler: tuple of pairs, see `models.Models.writer`.
    """

    model: Training
    sampler: tuple

    @property
    def name(self):
        """Name for people and files."""
        options = dict(self.sampler)
        if self.model.mode == "diffusion":
            sampler = f"{options['num_denoising_steps']}x{options['num_canvases']}"
        else:
            sampler = f"t{options['temperature']}" if options["temperature"] else "greedy"
        return f"{self.model.name}-{sampler}"


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long random weights take to write a text.

    Attributes:
        size: str.
        steps: int, denoising steps, or 0 for AR decoding.
        length: int, tokens.
    """

    size: str
    steps: int
    length: int

    @property
    def name(self):
        """Name for people and files."""
        method = f"diffusion{self.steps}" if self.steps else "ar"
        return f"time-{self.size}-{method}-{self.length}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number in a table or a point of a curve, for one seed.

    Attributes:
        name: str, as `--cells` selects it: "table2/small/ar2diff_0/qa/seed1".
        stage: `Evaluation` or `Timing`; cells may share one.
    """

    name: str
    stage: object


def make_cells(scale, seeds, tables=(1, 2, 3), figures=(3,)):
    """Return all cells, the most telling first: the order in which they are run."""
    cells = []
    if 3 in figures:
        cells += _figure_3(scale)
    sizes = [scale.base_size, *(size for size in scale.sizes if size != scale.base_size)]
    for size in sizes:
        for seed in seeds:
            if 2 in tables:
                cells += _table_2(scale, size, seed)
            if size == scale.base_size and 3 in tables:
                cells += _table_3(scale, seed)
        if size == scale.base_size and 1 in tables:
            for seed in seeds:
                cells += _table_1(scale, seed)
    return cells


def fingerprint(stage, scale, data):
    """Return a short digest of everything that a stage's numbers depend on.

    Args:
        stage: `Training`, `Evaluation` or `Timing`.
        scale: `Scale`.
        data: dict, see `corpora.DataOptions.describe`.
    """
    settings = dataclasses.asdict(scale)
    training = stage.model if isinstance(stage, Evaluation) else stage
    names = ["vocabulary_size", "sentinels"]
    if not isinstance(stage, Timing):
        names += ["batch_tokens", "learning_rate", "optimizer", "segment_steps"]
        names += ["corpus", "documents"]
        # The tokenizer knows the tasks.
        names += ["most_words", "context_words", "most_operations"]
        if training.data != "pretraining":
            names += ["decay", "training_examples"]
    config = {name: settings[name] for name in names}
    if not isinstance(stage, Timing):
        config["lengths"] = [scale.lengths[part.data] for part in training.ancestors()]
    if isinstance(stage, Evaluation):
        config["examples"] = scale.evaluation_examples[training.data]
        config["code_samples"] = scale.code_samples if training.data == "code" else None
    config["shape"] = settings["sizes"][training.size]
    config = [VERSION, config, data, dataclasses.asdict(stage)]
    text = json.dumps(config, sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def needed_stages(cell):
    """Return the stages behind a cell, in the order in which they run."""
    if isinstance(cell.stage, Timing):
        return [cell.stage]
    return [*cell.stage.model.ancestors(), cell.stage]


# === Tables ===


def pretraining(scale, architecture, objective, arm, size, seed):
    """Return the pretraining of an arm, see `paper.ARMS`."""
    make = functools.partial(
        Training, architecture, objective, size=size, seed=seed, data="pretraining"
    )
    if arm == "diffusion":
        return make("diffusion", first_step=0, last_step=_diffusion_steps(scale))
    conversion = {"ar2diff_n1": 0, "ar2diff_n2": 1}.get(arm)
    conversion_steps = 0 if conversion is None else scale.conversion_steps[conversion]
    stage, step = None, 0
    # AR pretraining comes in stretches, from one branch to the next.
    for end in sorted({scale.branch_step(n) for n in (0, *scale.conversion_steps)}):
        if end <= scale.branch_step(conversion_steps):
            stage, step = make("ar", first_step=step, last_step=end, parent=stage), end
    if conversion_steps:
        stage = make("diffusion", first_step=0, last_step=conversion_steps, parent=stage)
    return stage


def evaluation(scale, pretrained, mode, task, **sampler):
    """Return the evaluation of a model fine-tuned on a task."""
    steps = (
        scale.finetuning_steps if mode == "ar" else scale.diffusion_steps(scale.finetuning_steps)
    )
    finetuned = dataclasses.replace(
        pretrained, mode=mode, data=task, first_step=0, last_step=steps, parent=pretrained
    )
    if mode == "ar":
        sampler = {"temperature": CODE_TEMPERATURE if task == "code" else 0}
    else:
        sampler = {**DIFFUSION_SAMPLER, **sampler}
    return Evaluation(finetuned, tuple(sampler.items()))


def _diffusion_steps(scale):
    return scale.diffusion_steps(scale.pretraining_steps)


def _table_1(scale, seed):
    cells = []
    for architecture, objective in paper.TABLE_1:
        pretrained = pretraining(scale, architecture, objective, "diffusion", scale.base_size, seed)
        for task in paper.TASKS:
            name = f"table1/{architecture}-{objective}/{task}/seed{seed}"
            cells.append(Cell(name, evaluation(scale, pretrained, "diffusion", task)))
    return cells


def _table_2(scale, size, seed):
    cells = []
    for arm in paper.ARMS:
        pretrained = pretraining(scale, "decoder", "prefix_lm", arm, size, seed)
        mode = "ar" if arm == "ar" else "diffusion"
        for task in paper.TASKS:
            name = f"table2/{size}/{arm}/{task}/seed{seed}"
            cells.append(Cell(name, evaluation(scale, pretrained, mode, task)))
    return cells


def _table_3(scale, seed):
    cells = []
    for arm in paper.TABLE_3_ARMS:
        pretrained = pretraining(scale, "decoder", "prefix_lm", arm, scale.base_size, seed)
        for steps, canvases in paper.TABLE_3:
            for task in paper.TABLE_3_TASKS:
                stage = evaluation(
                    scale,
                    pretrained,
                    "diffusion",
                    task,
                    num_denoising_steps=steps,
                    num_canvases=canvases,
                )
                name = f"table3/{arm}/steps{steps}-samples{canvases}/{task}/seed{seed}"
                cells.append(Cell(name, stage))
    return cells


def _figure_3(scale):
    return [
        Cell(f"figure3/{size}/{f'diffusion{steps}' if steps else 'ar'}/{length}", timing)
        for size in scale.figure_sizes
        for steps in (0, *paper.FIGURE_3_STEPS)
        for length in scale.figure_lengths
        for timing in [Timing(size, steps, length)]
    ]


# === Cost ===


def tokens_of(stage, scale):
    """Return how many tokens go through the model, each pass and each denoising step counted."""
    if isinstance(stage, Timing):
        return stage.length * max(stage.steps, 1)
    if isinstance(stage, Training):
        return stage.passes * scale.batch_tokens
    options, task = dict(stage.sampler), stage.model.data
    texts = scale.evaluation_examples[task] * (scale.code_samples if task == "code" else 1)
    runs = options.get("num_denoising_steps", 1) * options.get("num_canvases", 1)
    return texts * runs * scale.lengths[task]


def flops_of(stage, scale):
    """Return the floating-point operations of a stage: 2 per parameter and token, 6 in training."""
    training = stage.model if isinstance(stage, Evaluation) else stage
    architecture = getattr(training, "architecture", "decoder")
    parameters = models.count_parameters(scale, architecture, training.size)
    return (6 if isinstance(stage, Training) else 2) * parameters * tokens_of(stage, scale)


def estimate_seconds(stage, scale, measured):
    """Return how long a stage will take.

    Args:
        stage: `Training`, `Evaluation` or `Timing`.
        scale: `Scale`.
        measured: dict from `cost_class` to seconds of finished stages; it goes first.
    """
    known = measured.get(cost_class(stage))
    return flops_of(stage, scale) / scale.flops + scale.overhead if known is None else known


def cost_class(stage):
    """Return what stages have in common that take equally long."""
    if isinstance(stage, Timing):
        return (stage.size, stage.steps, stage.length)
    if isinstance(stage, Evaluation):
        model = stage.model
        return ("evaluation", model.architecture, model.mode, model.size, model.data, stage.sampler)
    return ("training", stage.architecture, stage.mode, stage.size, stage.passes)
