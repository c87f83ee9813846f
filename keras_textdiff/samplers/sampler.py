"""From prompts to text: canvases, the denoising loop, reranking. A sampler is an update rule in it.

Shapes: B prompts, R rows (prompts times canvases), L length, P length of an encoder's rows,
V vocabulary, S denoising steps.
"""

import abc
import dataclasses
import functools
import json

import numpy as np
from keras import ops, tree

from keras_textdiff.data.batches import ENCODER_KEYS
from keras_textdiff.utils import random, registration
from keras_textdiff.utils.capture import capture, recording_at_once, records
from keras_textdiff.utils.categorical import draw, has_distribution, log_probability, log_total
from keras_textdiff.utils.checks import check_integer, check_number
from keras_textdiff.utils.compilation import while_loop
from keras_textdiff.utils.fused_attention import unmasked_attention
from keras_textdiff.utils.leading_positions import (
    add_leading,
    count_leading,
    cut_leading,
    first_target,
    prompts_lead,
)
from keras_textdiff.utils.shrinking import run_shrinking, shrink_factor

LENGTH_BUCKET = 64  # rows are padded to a multiple, so that a new length seldom recompiles


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """All canvases of a generation.

    Attributes:
        canvases: int array `(S + 1, B, L)`; the first one is the initial noise.
        confidences: float array `(S, B, L)`, each drawn token's probability at temperature 1;
            1 on positions that are not canvas, 0 after a row has stopped.
        target_mask: bool array `(B, L)`, True on canvas positions.
        scores: float array `(B,)`, model scores in nats per token.
        num_steps: int array `(B,)`, denoiser calls until each row stopped.
    """

    canvases: np.ndarray
    confidences: np.ndarray
    target_mask: np.ndarray
    scores: np.ndarray
    num_steps: np.ndarray


class Sampler(abc.ABC):
    """Refines a canvas of noise into text with a denoiser.

    The loop is a pure function of (tokens, noise): all noise is drawn on the host, from a
    stream per row, so a row gives the same text whatever stands beside it. Prefix positions are
    never written.

    Args:
        num_denoising_steps: int, most denoiser updates of the canvas.
        temperature: float; tokens are drawn from softmax(logits / temperature), the most likely
            ones at 0.
        num_canvases: int, canvases per prompt; the one with the best model score is kept.
        stop_when_unchanged: bool, whether a row stops at the first step that changes nothing.

    Raises:
        ValueError: for counts below 1 or a negative temperature.

    Reference: Han et al. 2024, arXiv 2401.17181, section 3.2 (temperature 0.2, 10 steps, 8
    canvases reranked by model score).
    """

    noise_streams = ("tokens",)  # one uniform number per row, step and position from each
    needs_confidence = True  # whether `update` looks at it; else it is made where others do

    def __init__(
        self,
        num_denoising_steps=10,
        temperature=0.2,
        num_canvases=8,
        stop_when_unchanged=True,
    ):
        self.num_denoising_steps = check_integer(
            "num_denoising_steps", num_denoising_steps, minimum=1
        )
        self.temperature = check_number("temperature", temperature, minimum=0)
        self.num_canvases = check_integer("num_canvases", num_canvases, minimum=1)
        self.stop_when_unchanged = bool(stop_when_unchanged)

    @abc.abstractmethod
    def update(self, step, canvas, logits, log_totals, noise, target_mask, denoiser):
        """Return what one denoising step makes of the canvas.

        Args:
            step: int tensor, 0 first.
            canvas: int tensor `(R, L)`, the tokens that the denoiser saw.
            logits: float tensor `(R, L, V)`, what it returned, in the model's compute dtype.
            log_totals: float32 tensor `(R, L)`, logarithms of the sums of their exponentials; None
                where `needs_confidence` is False and nobody else looks at scores or confidence.
            noise: dict from stream name to float32 tensor `(R, L)` inside (0, 1).
            target_mask: bool tensor `(R, L)`, True where tokens may be written.
            denoiser: callable from a canvas to logits, for rules that look twice.

        Returns:
            `(candidates, confidence)`: int `(R, L)`, and float32 `(R, L)`, each candidate's
            probability at temperature 1, or None without `log_totals`. The loop keeps prefix
            positions as they were.
        """

    def generate(self, model, rows, *, seed, batch_size, compiled, return_trajectory=False):
        """Write all canvases of some prompts, and keep each prompt's best.

        Args:
            model: `DiffusionLM`.
            rows: dict of "token_ids", "padding_mask", "prompt_mask" and "target_mask", `(B, L)`,
                and the encoder's arrays `(B, P)`, where there is one.
            seed: int.
            batch_size: int, prompts at a time.
            compiled: `CompiledFunctions`.
            return_trajectory: bool.

        Returns:
            `(token_ids (B, L), Trajectory or None)`.

        Raises:
            ValueError: where the model returned NaN or infinite logits, naming the step.
        """
        num_canvases = self.num_canvases
        key, function = self._compiled_loop(model, rows, compiled, return_trajectory)
        keys = canvas_keys(rows, num_canvases)
        num_rows, length = rows["token_ids"].shape
        first = first_target(rows["target_mask"])
        parts = []
        for start in range(0, num_rows, batch_size):
            part = {name: value[start : start + batch_size] for name, value in rows.items()}
            part_keys = keys[start * num_canvases : (start + batch_size) * num_canvases]
            stops = self.stop_when_unchanged and not return_trajectory
            factor = shrink_factor(compiled.num_calls(key), stops)
            part = self._canvas_rows(part)
            inputs = self.make_canvases(part, part_keys, model.backbone, seed)
            padded_length = inputs["token_ids"].shape[1]
            leading = count_leading(first, padded_length, compiled.num_calls(key))
            inputs = cut_leading(inputs, leading, self.noise_streams, num_canvases)
            outputs = run_shrinking(function, inputs, self.num_denoising_steps, factor)
            outputs = add_leading(outputs, inputs["leading_ids"])
            failed_step = int(outputs.pop("failed_step"))
            if failed_step >= 0:
                raise ValueError(
                    f"The denoiser returned NaN or infinite logits at denoising step {failed_step} "
                    "(0 first). Check the weights, or use float32 or bfloat16 instead of float16."
                )
            scores = outputs["scores"].reshape(-1, num_canvases)
            best = np.arange(len(scores)) * num_canvases + scores.argmax(axis=1)
            parts.append(
                {name: np.take(x, best, axis=_row_axis(name)) for name, x in outputs.items()}
            )
        outputs = {
            name: np.concatenate([part[name] for part in parts], axis=_row_axis(name))
            for name in parts[0]
        }
        trajectory = None
        if return_trajectory:
            trajectory = Trajectory(
                canvases=outputs["canvases"][..., :length],
                confidences=outputs["confidences"][..., :length],
                target_mask=rows["target_mask"],
                scores=outputs["scores"],
                num_steps=outputs["num_steps"],
            )
        return outputs["token_ids"][:, :length], trajectory

    def compile(self, model, rows, *, compiled):
        """Compile the loop for prompts of these shapes, by running none of its steps.

        On torch the last one is run, so that the denoiser is recorded.

        Args:
            model: `DiffusionLM`.
            rows: dict of arrays, see `generate`.
            compiled: `CompiledFunctions`.
        """
        _, function = self._compiled_loop(model, rows, compiled)
        keys = canvas_keys(rows, self.num_canvases)
        inputs = self.make_canvases(self._canvas_rows(rows), keys, model.backbone, seed=0)
        inputs = cut_leading(inputs, 0, self.noise_streams, self.num_canvases)
        first_step = self.num_denoising_steps - records(model)
        with recording_at_once():
            function({**inputs, "first_step": np.int32(first_step), "resting_rows": np.int32(0)})

    def _is_unmasked(self, model, rows):
        """Return whether each position of all rows, filled up, sees all others."""
        lengths = {rows[name].shape[1] for name in model.backbone.input}
        filled = all(_filled_length(length, model.backbone) == length for length in lengths)
        return filled and model.backbone.is_unmasked(rows)

    def _settles(self, model, rows):
        """Return whether leading positions keep what is computed of them over all steps."""
        any_settle = model.backbone.count_settled(rows["token_ids"].shape[1]) > 0
        return any_settle and prompts_lead(rows["prompt_mask"], rows["target_mask"])

    def _compiled_loop(self, model, rows, compiled, return_trajectory=False):
        """Return the key of the loop in `compiled`, and the loop."""
        unmasked, settles = self._is_unmasked(model, rows), self._settles(model, rows)

        def count_settled(leading_ids):
            """Return how many positions are computed once; one less for a shifted model's first."""
            leading = leading_ids.shape[1] - model.logit_shift
            return model.backbone.count_settled(leading) if settles else 0

        def for_rows(values, num_rows):
            """Repeat what there is of each prompt for its canvases."""
            return tree.map_structure(
                lambda x: ops.repeat(x, num_rows // x.shape[0], axis=0), values
            )

        @functools.partial(capture, model)
        def denoise(canvas, leading_ids, others, context, cache):
            inputs = {**others, "token_ids": ops.concatenate([leading_ids, canvas], axis=1)}
            first = count_settled(leading_ids) if cache else 0
            with unmasked_attention(unmasked):
                hidden_states = model.hidden_states(
                    inputs, context=context, cache=cache or None, first=first
                )
            return model.backbone.logits(hidden_states[:, leading_ids.shape[1] - first :])

        def function(inputs):
            # Once per prompt; its canvases, and all steps, share it.
            num_rows = inputs["token_ids"].shape[0]
            with unmasked_attention(unmasked):
                context = for_rows(model.backbone.encode(inputs), num_rows)
            per_prompt = num_rows // inputs["leading_ids"].shape[0]
            leading_ids = for_rows(inputs["leading_ids"], num_rows)
            others = {name: inputs[name] for name in model.backbone.input if name != "token_ids"}
            token_ids = ops.concatenate([leading_ids, inputs["token_ids"]], axis=1)
            cache, num_settled = (), count_settled(leading_ids)
            length = token_ids.shape[1]
            if num_settled * per_prompt * self.num_denoising_steps > length:  # it pays for a pass
                settled = {**others, "token_ids": token_ids}
                settled = {name: value[::per_prompt] for name, value in settled.items()}
                cache = for_rows(model.backbone.read_settled(settled, num_settled), num_rows)

            def denoiser(canvas):
                return denoise(canvas, leading_ids, others, context, cache)

            # Scores choose among canvases.
            return_scores = self.num_canvases > 1 or return_trajectory
            return self.run(denoiser, inputs, return_trajectory, return_scores)

        config = json.dumps(registration.serialize(self), sort_keys=True)
        key = (config, unmasked, settles, return_trajectory)
        return key, compiled.get(key, model, function)

    def _canvas_rows(self, rows):
        """Return prompts' arrays with a row per canvas, but for what an encoder reads."""
        return {
            name: value if name in ENCODER_KEYS else np.repeat(value, self.num_canvases, axis=0)
            for name, value in rows.items()
        }

    def make_canvases(self, rows, keys, backbone, seed):
        """Fill target positions with noise, and draw the noise of the loop.

        Args:
            rows: dict of "token_ids", "padding_mask", "prompt_mask" and "target_mask", `(R, L)`,
                and the encoder's arrays `(B, P)`, where there is one.
            keys: list of R keys, see `canvas_keys`.
            backbone: `TransformerBackbone` or `EncoderDecoderBackbone`.
            seed: int.

        Returns:
            Dict of arrays for `run`, L and P padded to a multiple of `LENGTH_BUCKET` (L to the
            backbone's learned positions, where these are fewer).
        """
        length = rows["token_ids"].shape[1]
        noise_ids = np.stack(
            [
                random.generator("canvas", seed, *key).integers(0, backbone.vocabulary_size, length)
                for key in keys
            ]
        )
        canvas = np.where(rows["target_mask"], noise_ids, rows["token_ids"]).astype("int32")
        noise = self.draw_noise(seed, keys, length)
        inputs = {**rows, "token_ids": canvas, **noise}
        for name, value in inputs.items():
            more = _filled_length(value.shape[-1], backbone) - value.shape[-1]
            widths = [(0, 0)] * (value.ndim - 1) + [(0, more)]
            inputs[name] = np.pad(value, widths, constant_values=0.5 if name in noise else 0)
        return inputs

    def draw_noise(self, seed, keys, length):
        """Draw all noise of a run on the host.

        Args:
            seed: int.
            keys: list of R keys, see `canvas_keys`.
            length: int L.

        Returns:
            Dict from stream name to float32 array `(S, R, L)`.
        """
        noise = {}
        for name in self.noise_streams:
            noise[name] = np.stack(
                [
                    np.stack(
                        [
                            random.uniform(random.generator(name, seed, *key, step=step), length)
                            for key in keys
                        ]
                    )
                    for step in range(self.num_denoising_steps)
                ]
            )
        return noise

    def run(self, denoiser, inputs, return_trajectory=False, return_scores=True):
        """Run the loop; compilable, without random state.

        Args:
            denoiser: callable from int `(R, L)` to logits `(R, L, V)`.
            inputs: dict of "token_ids" int `(R, L)`, prefix and canvas; "target_mask" bool
                `(R, L)`; the arrays of `draw_noise`; and, where not all of the loop is run,
                ints "first_step", and "resting_rows": the loop ends once so few rows go on.
            return_trajectory: bool, whether all canvases are kept.
            return_scores: bool; otherwise scores are 0, which saves a pass over all logits.

        Returns:
            Dict of "token_ids" `(R, L)`; "scores" `(R,)`, the mean log-probability of the
            tokens fed to each row's last step under the logits it returned (the paper's model
            score, nats per token); "num_steps" `(R,)`, denoiser steps each row took part in;
            "active" `(R,)`, whether a row would go on, and "step", with which;
            "failed_step", the first step with NaN or infinite logits, or -1; and with
            `return_trajectory`, "canvases" `(S + 1, R, L)` and "confidences" `(S, R, L)`, which
            are 1 on prefix positions and 0 after a row has stopped.
        """
        canvas = ops.cast(inputs["token_ids"], "int32")
        target_mask = ops.cast(inputs["target_mask"], "bool")
        target_count = ops.maximum(ops.sum(ops.cast(target_mask, "float32"), axis=-1), 1.0)
        active = ops.any(target_mask, axis=-1)  # (R,)
        scores = ops.zeros_like(target_count)
        num_steps = ops.zeros_like(active, dtype="int32")
        trajectory = ()
        if return_trajectory:
            steps = self.num_denoising_steps
            canvases = ops.repeat(canvas[None], steps + 1, axis=0)
            trajectory = (canvases, ops.zeros_like(canvases[:-1], dtype="float32"))

        resting_rows = ops.cast(inputs.get("resting_rows", 0), "int32")

        def condition(step, canvas, active, scores, num_steps, failed_step, trajectory):
            enough = ops.sum(ops.cast(active, "int32")) > resting_rows
            return ops.logical_and(
                ops.logical_and(enough, step < self.num_denoising_steps), failed_step < 0
            )

        def body(step, canvas, active, scores, num_steps, failed_step, trajectory):
            logits = denoiser(canvas)
            with_totals = return_scores or return_trajectory or self.needs_confidence
            log_totals = log_total(logits) if with_totals else None  # (R, L)
            good = ops.isfinite(log_totals) if with_totals else has_distribution(logits)
            finite = ops.all(ops.logical_or(good, ops.logical_not(target_mask)))
            failed_step = ops.where(finite, failed_step, step)
            score = scores
            if return_scores:
                fed = log_probability(logits, log_totals, canvas)
                score = ops.sum(ops.where(target_mask, fed, 0.0), axis=-1) / target_count
            noise = {
                name: ops.take(ops.convert_to_tensor(inputs[name]), step, axis=0)
                for name in self.noise_streams
            }
            candidates, confidence = self.update(
                step, canvas, logits, log_totals, noise, target_mask, denoiser
            )
            writable = ops.logical_and(target_mask, active[:, None])
            updated = ops.where(writable, candidates, canvas)
            scores = ops.where(active, score, scores)
            num_steps = num_steps + ops.cast(active, "int32")
            running = active
            if self.stop_when_unchanged:
                changed = ops.any(ops.not_equal(updated, canvas), axis=-1)
                active = ops.logical_and(active, changed)
            if trajectory:
                canvases, confidences = trajectory
                # A row that has stopped keeps its last canvas to the end.
                later = ops.arange(canvases.shape[0], dtype="int32")[:, None, None] > step
                canvases = ops.where(later, updated[None], canvases)
                confidence = ops.where(target_mask, confidence, 1.0)
                steps = ops.arange(confidences.shape[0], dtype="int32")[:, None, None]
                now = ops.logical_and(ops.equal(steps, step), running[:, None])  # (S, R, 1)
                confidences = ops.where(now, confidence[None], confidences)
                trajectory = (canvases, confidences)
            return step + 1, updated, active, scores, num_steps, failed_step, trajectory

        start = ops.cast(inputs.get("first_step", 0), "int32")
        failed_step = ops.convert_to_tensor(-1, dtype="int32")
        step, canvas, active, scores, num_steps, failed_step, trajectory = while_loop(
            condition,
            body,
            (start, canvas, active, scores, num_steps, failed_step, trajectory),
        )
        outputs = {
            "token_ids": canvas,
            "scores": scores,
            "num_steps": num_steps,
            "active": active,
            "step": step,
            "failed_step": failed_step,
        }
        if return_trajectory:
            outputs["canvases"], outputs["confidences"] = trajectory
        return outputs

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            "num_denoising_steps": self.num_denoising_steps,
            "temperature": self.temperature,
            "num_canvases": self.num_canvases,
            "stop_when_unchanged": self.stop_when_unchanged,
        }


def canvas_keys(rows, num_canvases):
    """Return one key per canvas, made of a row's clean tokens and where they stand.

    Args:
        rows: dict of "token_ids", "padding_mask" and "target_mask", `(B, L)`, and the encoder's
            arrays `(B, P)`, where there is one.
        num_canvases: int N.

    Returns:
        List of `B * N` keys, a row's canvases side by side.
    """
    contents = []
    for prefix, ids, target, real in zip(
        encoder_tokens(rows),
        rows["token_ids"],
        rows["target_mask"],
        rows["padding_mask"],
        strict=True,
    ):
        clean = real & ~target
        parts = [prefix, ids[clean], np.flatnonzero(clean), [target.sum()]]
        contents.append(np.concatenate(parts))
    return [(*key, n) for key in random.row_keys(contents) for n in range(num_canvases)]


def encoder_tokens(rows):
    """Return the token ids that the encoder reads, an int array per row; empty without one."""
    if "encoder_token_ids" not in rows:
        return [np.zeros(0, int)] * len(rows["token_ids"])
    pairs = zip(rows["encoder_token_ids"], rows["encoder_padding_mask"], strict=True)
    return [ids[real] for ids, real in pairs]


def _filled_length(length, backbone):
    """Return to which length rows are padded."""
    length += -length % LENGTH_BUCKET
    if backbone.num_learned_positions is not None:
        length = min(length, backbone.num_learned_positions)
    return length


def _row_axis(name):
    return 1 if name in ("canvases", "confidences") else 0


def draw_tokens(logits, log_totals, uniforms, temperature):
    """Draw a token per position, or take the most likely one at temperature 0.

    Args:
        logits: float tensor `(R, L, V)`.
        log_totals: float32 tensor `(R, L)`, logarithms of the sums of their exponentials, or None.
        uniforms: float32 tensor `(R, L)` inside (0, 1).
        temperature: float.

    Returns:
        `(tokens, confidence)`: int32 and float32 `(R, L)`; confidence is the token's
        probability at temperature 1, or None without `log_totals`.
    """
    tokens = draw(logits, uniforms, temperature)
    if log_totals is None:
        return tokens, None
    return tokens, ops.exp(log_probability(logits, log_totals, tokens))
