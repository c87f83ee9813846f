"""Text diffusion: train with an objective, generate with a sampler."""

import keras_hub
import numpy as np
from keras import ops

from keras_textdiff import samplers
from keras_textdiff.data.batches import take_examples
from keras_textdiff.models.diffusion_lm_preprocessor import DiffusionLMPreprocessor
from keras_textdiff.models.text_preprocessor import list_prompts, stop_tokens
from keras_textdiff.models.text_task import TextTask
from keras_textdiff.objectives.cross_entropy import cross_entropy
from keras_textdiff.utils import random, registration
from keras_textdiff.utils.checks import check_integer
from keras_textdiff.utils.compilation import CompiledFunctions
from keras_textdiff.utils.steady_weights import weights_stay


@registration.register
class DiffusionLM(TextTask, keras_hub.models.Task):
    """A text diffusion model: a bidirectional denoiser, trained by `fit`, sampled in parallel.

    Made from a pretrained autoregressive model by `keras_textdiff.ar2diff`, or from scratch.

    Args:
        backbone: `TransformerBackbone` or `EncoderDecoderBackbone`; any attention but "causal"
            can denoise.
        preprocessor: `DiffusionLMPreprocessor`, or None for tokenized inputs.
        logit_shift: bool, whether the prediction for position i is read at position i - 1, as
            an autoregressive model was trained to give it (Dream, arXiv 2508.15487); with an
            encoder, the first prediction is read at the start token.
        **kwargs: see `keras_hub.models.Task`.

    Call arguments:
        inputs: dict of "token_ids" int `(B, L)`, the canvas behind its prefix; and bool
            `(B, L)` "padding_mask" (True where real) and "prompt_mask" (True on prefix positions;
            needed by attention "prefix" only). With an encoder: "encoder_token_ids" int `(B, P)`,
            the prefix, "encoder_padding_mask" bool `(B, P)`, and "token_ids" is a start token and
            the canvas.

    Returns:
        Logits `(B, L, V)` of one denoiser call.

    Raises:
        ValueError: for a backbone with causal attention.

    Example:
    ```python
    lm = keras_textdiff.models.DiffusionLM(backbone, preprocessor)
    lm.compile(objective="sundae", sampler="sundae", optimizer=keras.optimizers.AdamW(1e-4))
    lm.fit({"prompts": ["2 + 2 ="], "responses": [" 4"]}, batch_size=1)
    lm.generate("2 + 2 =", max_length=16, seed=7)
    ```

    Reference: Han et al. 2024, arXiv 2401.17181; Savinov et al. 2022, arXiv 2112.06749.
    """

    preprocessor_cls = DiffusionLMPreprocessor
    default_objective = "sundae"

    def __init__(self, backbone, preprocessor=None, logit_shift=False, **kwargs):
        if backbone.attention == "causal":
            raise ValueError(
                "A DiffusionLM cannot denoise with attention='causal': a position would not see "
                "those behind it. Use `keras_textdiff.ar2diff`, or a backbone with "
                "attention='bidirectional'."
            )
        self._compiled_functions = CompiledFunctions()
        super().__init__(backbone, preprocessor, **kwargs)
        self.logit_shift = bool(logit_shift)

    def compile(self, optimizer="auto", *, objective="sundae", sampler="sundae", **kwargs):
        """Set the optimizer, the objective and the sampler.

        Args:
            optimizer: "auto" (AdamW, 1e-4), a name or a `keras.Optimizer`.
            objective: name, object or config, see `keras_textdiff.objectives`.
            sampler: name, object or config, see `keras_textdiff.samplers`.
            **kwargs: see `keras.Model.compile`; losses and metrics come from the objective.
        """
        sampler = samplers.get(sampler)
        super().compile(optimizer, objective=objective, **kwargs)
        self.sampler = sampler
        self._compiled_functions.clear()

    def generate(
        self,
        inputs,
        max_length=None,
        stop_token_ids="auto",
        strip_prompt=False,
        *,
        seed=None,
        batch_size=None,
        return_trajectory=False,
    ):
        """Write text behind prompts.

        A row's text depends on the prompt, `max_length` and `seed`, not on the other rows; equal
        prompts in one call give different texts.

        Args:
            inputs: a prompt, a list of prompts, or without a preprocessor a dict of
                "token_ids" int `(B, L)` and "padding_mask" bool `(B, L)`, True on the prompt at
                the start of each row; the rest of the row is written. With an encoder, the prompt
                is in "encoder_token_ids" and "encoder_padding_mask", both `(B, P)`, and
                "padding_mask" True on the start token.
            max_length: int, tokens of prompt and text together, or with an encoder, as in
                `keras_hub.models.Seq2SeqLM`, of the start token and the text; None means the
                preprocessor's `sequence_length`. Not used for tokenized inputs.
            stop_token_ids: "auto" (the tokenizer's end tokens), a tuple of ints, or None; text
                ends at the first of them.
            strip_prompt: bool, whether to return the new text alone; with an encoder, strings
                are never anything else.
            seed: int; the same seed gives the same text. None draws a new one.
            batch_size: int, prompts at a time; None means all.
            return_trajectory: bool, whether to return every canvas as well.

        Returns:
            A string or a list of strings as `inputs` were; for tokenized inputs a dict of
            "token_ids" and "padding_mask" arrays (True up to the stop token). With
            `return_trajectory`, a pair of this and a `Trajectory` (None where there is no prompt).

        Raises:
            ValueError: before any work for bad lengths, ids or seeds; during it for NaN logits.
        """
        if isinstance(inputs, (list, tuple)) and not inputs:
            return ([], None) if return_trajectory else []
        scalar = isinstance(inputs, (str, bytes))
        vocabulary_size = self.backbone.vocabulary_size
        stop_token_ids = stop_tokens(stop_token_ids, self.preprocessor, vocabulary_size)
        if isinstance(inputs, dict):
            rows = self.make_checker().prompt_rows(inputs)
        else:
            rows = self._prompt_rows(list_prompts(inputs), max_length)
        token_ids, trajectory = self._denoise(rows, seed, batch_size, return_trajectory)
        keep = cut_at_stop_tokens(token_ids, rows, stop_token_ids)
        if strip_prompt or (self.backbone.has_encoder and not isinstance(inputs, dict)):
            keep = keep & ~rows["prompt_mask"]
        if isinstance(inputs, dict):
            outputs = {"token_ids": token_ids, "padding_mask": keep}
        else:
            outputs = self.preprocessor.detokenize(
                [row[mask] for row, mask in zip(token_ids, keep, strict=True)]
            )
            outputs = outputs[0] if scalar else outputs
        return (outputs, trajectory) if return_trajectory else outputs

    def compile_generate(self, max_length=None, batch_size=1):
        """Compile what `generate` runs, before there are prompts; on torch, record it.

        Without, jax and tensorflow compile at the first call, and torch records the denoiser at
        its 17th; before, each of its calls runs Keras' Python. On torch, prompts of a quarter of
        the length and more still wait for that: they have a denoiser of fewer logits.

        Args:
            max_length: int, see `generate`; lengths between two multiples of 64 share what is
                compiled, and a multiple, whose rows need no mask, has its own. Without a
                preprocessor there is no default.
            batch_size: int, prompts at a time.

        Raises:
            ValueError: for bad lengths, before any work.

        Example:
        ```python
        lm.compile(sampler="sundae")
        lm.compile_generate(max_length=256)
        lm.generate("def fibonacci(n):", max_length=256)  # at once
        ```
        """
        check_integer("batch_size", batch_size, minimum=1)
        if self.preprocessor is not None or self.backbone.has_encoder:
            rows = self._prompt_rows([""] * batch_size, max_length)
        else:
            shape = (batch_size, check_integer("max_length", max_length, minimum=2))
            prompt = np.broadcast_to(np.arange(shape[1]) == 0, shape)
            inputs = {"token_ids": np.zeros(shape, "int32"), "padding_mask": prompt}
            rows = self.make_checker().prompt_rows(inputs)
        self._check_compiled("generate")
        self._check_length(rows["token_ids"].shape[1])
        self.sampler.compile(self, rows, compiled=self._compiled_functions)

    def infill(self, inputs, lengths, *, seed=None, batch_size=None, return_trajectory=False):
        """Write the gaps between given pieces of text.

        Args:
            inputs: the pieces around the gaps, one more than there are gaps ("" where a gap
                stands at an end), or a list of such lists.
            lengths: list of ints, tokens in each gap; for several inputs a list of lists, or
                one list for all.
            seed: int, see `generate`.
            batch_size: int, see `generate`.
            return_trajectory: bool, see `generate`.

        Returns:
            The whole text, or a list of texts; with `return_trajectory`, a pair of this and a
            `Trajectory`.

        Raises:
            ValueError: where pieces and gaps do not match.

        Example:
        ```python
        lm.infill(["The ", " sat on the mat."], lengths=[8])
        ```
        """
        for name, value in (("inputs", inputs), ("lengths", lengths)):
            if not isinstance(value, (list, tuple, np.ndarray)):
                raise ValueError(f"`{name}` must be a list. Got {value!r}.")
        if not len(inputs):
            return ([], None) if return_trajectory else []
        scalar = isinstance(inputs[0], str)
        inputs = [inputs] if scalar else list(inputs)
        if not len(lengths) or np.ndim(lengths[0]) == 0:
            lengths = [lengths] * len(inputs)
        if len(lengths) != len(inputs):
            raise ValueError(
                f"Got {len(inputs)} inputs and gap lengths for {len(lengths)}. Pass one list of "
                "lengths for each input, or one for all."
            )
        rows, prefixes, targets = self._gap_rows(inputs, lengths)
        token_ids, trajectory = self._denoise(rows, seed, batch_size, return_trajectory)
        # Texts end where their last piece does: the end token behind it is context only.
        outputs = self.preprocessor.detokenize(
            [
                [*prefix, *row[target][:-1]]
                for prefix, row, target in zip(prefixes, token_ids, targets, strict=True)
            ]
        )
        outputs = outputs[0] if scalar else outputs
        return (outputs, trajectory) if return_trajectory else outputs

    def score(self, inputs, *, batch_size=32):
        """Return the model score: how likely one denoiser call finds a response, given itself.

        Args:
            inputs: dict of "prompts" and "responses", lists of strings, or a tokenized dict with
                a "target_mask" (True on the scored positions).
            batch_size: int.

        Returns:
            Float array `(B,)`, mean log-probability in nats per token of the response and its
            end token (tokenized: of the target positions); higher is better. Not a likelihood:
            every token sees itself.

        Reference: Han et al. 2024, arXiv 2401.17181, section 3.2.
        """
        check_integer("batch_size", batch_size, minimum=1)
        if not isinstance(inputs, dict):
            raise ValueError(
                "`score` takes a dict of 'prompts' and 'responses', or a tokenized one with "
                f"'target_mask'. Got {type(inputs).__name__}."
            )
        if "token_ids" in inputs:
            rows = self.make_checker()(inputs)
        else:
            rows = self._require_preprocessor().call(inputs)
            # Padding is part of the canvas but not of the response.
            fill = (rows["token_ids"] == self.preprocessor.end_token_id) & rows["target_mask"]
            rows["target_mask"] = rows["target_mask"] & (np.cumsum(fill, axis=1) - fill == 0)
        if not len(rows["token_ids"]):
            return np.zeros(0, "float32")
        if not rows["target_mask"].any(axis=1).all():
            raise ValueError(
                "Every row needs a response to score. Row "
                f"{int(np.argmin(rows['target_mask'].any(axis=1)))} has none within "
                f"{rows['token_ids'].shape[1]} tokens."
            )
        function = self._compiled_functions.get("score", self, self._score_rows)
        scores = [
            function(take_examples(rows, np.arange(start, stop)))
            for start, stop in _slices(len(rows["token_ids"]), batch_size)
        ]
        scores = np.concatenate(scores)
        if not np.isfinite(scores).all():
            raise ValueError(
                f"The score of row {int(np.isfinite(scores).argmin())} is {scores.min()}: the "
                "model returned NaN or infinite logits. Check its weights."
            )
        return scores

    def _score_rows(self, rows):
        hidden_states = self.hidden_states(rows)
        shape = ops.shape(rows["token_ids"])
        result = cross_entropy(
            self.backbone.token_embedding,
            ops.reshape(hidden_states, (-1, hidden_states.shape[-1])),
            ops.reshape(rows["token_ids"], (-1,)),
            ops.zeros((shape[0] * shape[1],)),
            differentiate=False,
        )
        mask = ops.cast(rows["target_mask"], "bool")
        losses = ops.where(mask, ops.reshape(result.per_position, shape), 0.0)
        return -ops.sum(losses, axis=1) / ops.sum(ops.cast(mask, "float32"), axis=1)

    # === Rows ===

    def _prompt_rows(self, prompts, max_length):
        preprocessor = self._require_preprocessor()
        length = preprocessor.sequence_length if max_length is None else max_length
        check_integer("max_length", length, minimum=1)
        return preprocessor.pack_prompts(prompts, length, learn_padding=True)

    def _gap_rows(self, inputs, lengths):
        """Pack pieces and gaps; the end token behind the last piece says that the text ends.

        The first piece is the prefix, which an encoder reads; the rest is the target.

        Returns:
            `(rows, prefixes, target masks)`: gaps are the rows' "target_mask", and the last is
            True on all that stands behind the first piece.
        """
        preprocessor = self._require_preprocessor()
        prefixes, targets, gaps = [], [], []
        for index, (pieces, gap_lengths) in enumerate(zip(inputs, lengths, strict=True)):
            if len(pieces) != len(gap_lengths) + 1:
                raise ValueError(
                    f"Infilling {len(gap_lengths)} gaps needs {len(gap_lengths) + 1} pieces of "
                    f"text around them. Got {len(pieces)} pieces at position {index}."
                )
            first, *others = preprocessor.tokenize(pieces)
            target, gap = [], []
            for gap_length, piece in zip(gap_lengths, others, strict=True):
                check_integer("gap length", gap_length, minimum=1)
                target += [preprocessor.end_token_id] * gap_length + piece
                gap += [True] * gap_length + [False] * len(piece)
            prefixes.append(preprocessor.start_tokens() + first)
            targets.append([*target, preprocessor.end_token_id])
            gaps.append([*gap, False])
        longest = max(map(len, targets)) + 1  # behind an encoder's start token
        if not self.backbone.has_encoder:
            longest = max(len(p) + len(t) for p, t in zip(prefixes, targets, strict=True))
        preprocessor.check_prefixes(prefixes, longest)
        rows = preprocessor.pack(prefixes, targets, longest)
        target_masks = rows["target_mask"]
        rows["target_mask"] = np.zeros_like(target_masks)
        for row, gap in enumerate(gaps):
            rows["target_mask"][row, target_masks[row]] = gap
        rows["prompt_mask"] = rows["padding_mask"] & ~rows["target_mask"]
        return rows, prefixes, target_masks

    def _denoise(self, rows, seed, batch_size, return_trajectory):
        self._check_compiled("generate")
        self._check_length(rows["token_ids"].shape[1])
        seed = random.fresh_seed() if seed is None else check_integer("seed", seed, minimum=0)
        num_rows = len(rows["token_ids"])
        if batch_size is not None:
            check_integer("batch_size", batch_size, minimum=1)
        with weights_stay():
            return self.sampler.generate(
                self,
                rows,
                seed=seed,
                batch_size=batch_size or num_rows,
                compiled=self._compiled_functions,
                return_trajectory=return_trajectory,
            )

    def _require_preprocessor(self):
        if self.preprocessor is None:
            raise ValueError(
                "Text needs a preprocessor. Attach a `DiffusionLMPreprocessor`, or pass a dict "
                "with 'token_ids' and masks."
            )
        return self.preprocessor

    def _start_anew(self):
        super()._start_anew()
        self._compiled_functions.clear()

    def get_config(self):
        """Return the constructor's arguments."""
        return {**super().get_config(), "logit_shift": self.logit_shift}

    def get_compile_config(self):
        """Return the arguments of `compile` as a serializable dict."""
        config = super().get_compile_config()
        return {**config, "sampler": registration.serialize(self.sampler)}


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


def _slices(total, size):
    return [(start, min(start + size, total)) for start in range(0, total, size)]
