"""From prompts to canvases and back: the host's side of generation.

Shapes: B prompts, R rows (prompts times canvases), L length.
"""

import dataclasses
import json

import numpy as np
from keras import ops, tree

from keras_textdiff.data.batches import ENCODER_KEYS, encoder_tokens
from keras_textdiff.utils import random, registration
from keras_textdiff.utils.compilation import compile_function

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


def row_keys(rows, num_canvases):
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


def make_canvases(rows, keys, backbone, sampler, seed):
    """Fill target positions with noise, and draw the noise of the loop.

    Args:
        rows: dict of "token_ids", "padding_mask", "prompt_mask" and "target_mask", `(R, L)`, and
            the encoder's arrays `(B, P)`, where there is one.
        keys: list of R keys, see `row_keys`.
        backbone: `TransformerBackbone` or `EncoderDecoderBackbone`.
        sampler: `Sampler`.
        seed: int.

    Returns:
        Dict of arrays for the compiled loop, L and P padded to a multiple of `LENGTH_BUCKET` (L
        to the backbone's learned positions, where these are fewer).
    """
    length = rows["token_ids"].shape[1]
    noise_ids = np.stack(
        [
            random.generator("canvas", seed, *key).integers(0, backbone.vocabulary_size, length)
            for key in keys
        ]
    )
    canvas = np.where(rows["target_mask"], noise_ids, rows["token_ids"]).astype("int32")
    noise = sampler.draw_noise(seed, keys, length)
    inputs = {**rows, "token_ids": canvas, **noise}
    for name, value in inputs.items():
        padded_length = value.shape[-1] + -value.shape[-1] % LENGTH_BUCKET
        if backbone.num_learned_positions is not None:
            padded_length = min(padded_length, backbone.num_learned_positions)
        widths = [(0, 0)] * (value.ndim - 1) + [(0, padded_length - value.shape[-1])]
        inputs[name] = np.pad(value, widths, constant_values=0.5 if name in noise else 0)
    return inputs


def run_sampler(model, sampler, rows, *, seed, batch_size, return_trajectory, cache):
    """Run the denoising loop and keep each prompt's best canvas.

    Args:
        model: `DiffusionLM`.
        sampler: `Sampler`.
        rows: dict of "token_ids", "padding_mask", "prompt_mask" and "target_mask", `(B, L)`, and
            the encoder's arrays `(B, P)`, where there is one.
        seed: int.
        batch_size: int, prompts at a time.
        return_trajectory: bool.
        cache: `CompiledFunctions`.

    Returns:
        `(token_ids (B, L), Trajectory or None)`.

    Raises:
        ValueError: where the model returned NaN or infinite logits, naming the step.
    """
    num_canvases = sampler.num_canvases

    def function(inputs):
        # Once per prompt; its canvases, and all steps, share it.
        context = tree.map_structure(
            lambda x: ops.repeat(x, num_canvases, axis=0), model.backbone.encode(inputs)
        )

        def denoiser(canvas):
            inputs_now = {**inputs, "token_ids": canvas}
            return model.backbone.logits(model.hidden_states(inputs_now, context=context))

        return sampler.run(denoiser, inputs, return_trajectory)

    config = json.dumps(registration.serialize(sampler), sort_keys=True)
    compiled = cache.get((config, return_trajectory), model, function)
    keys = row_keys(rows, num_canvases)
    num_rows, length = rows["token_ids"].shape
    parts = []
    for start in range(0, num_rows, batch_size):
        part = {}
        for name, value in rows.items():
            value = value[start : start + batch_size]
            part[name] = value if name in ENCODER_KEYS else np.repeat(value, num_canvases, axis=0)
        part_keys = keys[start * num_canvases : (start + batch_size) * num_canvases]
        outputs = compiled(make_canvases(part, part_keys, model.backbone, sampler, seed))
        failed_step = int(outputs.pop("failed_step"))
        if failed_step >= 0:
            raise ValueError(
                f"The denoiser returned NaN or infinite logits at denoising step {failed_step} "
                "(0 first). Check the weights, or use float32 or bfloat16 instead of float16."
            )
        scores = outputs["scores"].reshape(-1, num_canvases)
        best = np.arange(len(scores)) * num_canvases + scores.argmax(axis=1)
        parts.append({name: _rows_of(name, value, best) for name, value in outputs.items()})
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


def _row_axis(name):
    return 1 if name in ("canvases", "confidences") else 0


def _rows_of(name, value, rows):
    return np.take(value, rows, axis=_row_axis(name))


class CompiledFunctions:
    """Compiled functions by key; kept out of Keras' attribute tracking by being no container."""

    def __init__(self):
        self._functions = {}

    def get(self, key, model, function):
        """Return the compiled `function`, compiling it at the first call with `key`."""
        if key not in self._functions:
            self._functions[key] = compile_function(model, function)
        return self._functions[key]

    def clear(self):
        """Forget all functions, where weights or options have changed shape."""
        self._functions.clear()


def cut_at_stop_tokens(token_ids, masks, stop_token_ids):
    """Return the masks without what stands behind a row's first stop token in the canvas.

    Args:
        token_ids: int array `(B, L)`.
        masks: dict of bool arrays "target_mask" and "padding_mask", `(B, L)`.
        stop_token_ids: tuple of ints, or None to keep everything.

    Returns:
        Bool array `(B, L)`, True on prompt and text, the stop token included.
    """
    keep = masks["padding_mask"]
    if stop_token_ids is None:
        return keep
    stops = np.isin(token_ids, stop_token_ids) & masks["target_mask"]
    return keep & ((np.cumsum(stops, axis=1) - stops) == 0)
