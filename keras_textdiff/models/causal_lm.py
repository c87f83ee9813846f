"""The autoregressive twin: the paper's baseline and the first stage of AR2Diff."""

import keras_hub
import numpy as np
from keras import ops

from keras_textdiff.models.causal_lm_preprocessor import CausalLMPreprocessor
from keras_textdiff.models.text_preprocessor import list_prompts, stop_tokens
from keras_textdiff.models.text_task import TextTask
from keras_textdiff.utils.capture import capture
from keras_textdiff.utils.checks import check_integer, check_number
from keras_textdiff.utils.registration import register
from keras_textdiff.utils.steady_weights import weights_stay

CALLS_BEFORE_CAPTURE = 128  # a recording takes as long as that many steps are shortened by


@register
class CausalLM(TextTask, keras_hub.models.CausalLM):
    """An autoregressive language model: next-token training and cached generation.

    `generate` is `keras_hub.models.CausalLM.generate`: greedy, temperature, top-k, top-p and
    beam sampling by KerasHub's samplers.

    Args:
        backbone: `TransformerBackbone` or `EncoderDecoderBackbone` with attention "causal".
        preprocessor: `CausalLMPreprocessor`, or None for tokenized inputs.
        **kwargs: see `keras_hub.models.Task`.

    Raises:
        ValueError: for a backbone whose attention is not causal.

    Example:
    ```python
    causal_lm = keras_textdiff.models.CausalLM(backbone, preprocessor)
    causal_lm.compile(sampler="greedy", optimizer=keras.optimizers.AdamW(1e-3))
    causal_lm.fit(["some text", "some more"], batch_size=2)
    causal_lm.generate("some", max_length=16)
    ```
    """

    preprocessor_cls = CausalLMPreprocessor
    default_objective = "next_token"

    def __init__(self, backbone, preprocessor=None, **kwargs):
        if backbone.attention != "causal":
            raise ValueError(
                f"A CausalLM needs a backbone with attention='causal'. Got {backbone.attention!r}."
            )
        super().__init__(backbone, preprocessor, **kwargs)

    def compile(self, optimizer="auto", *, objective="next_token", sampler="greedy", **kwargs):
        """Set the optimizer, the objective and how `generate` samples.

        Args:
            optimizer: "auto" (AdamW, 1e-4), a name or a `keras.Optimizer`.
            objective: name or object, see `keras_textdiff.objectives`.
            sampler: name or `keras_hub.samplers.Sampler`.
            **kwargs: see `keras.Model.compile`; losses and metrics come from the objective.

        Raises:
            ValueError: for a sampler whose temperature, `k` or `p` cannot work.
        """
        sampler = keras_hub.samplers.get(sampler)
        _check_sampler(sampler)
        super().compile(optimizer, objective=objective, **kwargs)
        self.sampler = sampler
        self.generate_function = None

        self._step = capture(self, self._run_step, after=CALLS_BEFORE_CAPTURE)

    def generate(self, inputs, max_length=None, stop_token_ids="auto", strip_prompt=False):
        """Continue prompts, see `keras_hub.models.CausalLM.generate`; no prompts, no texts.

        With an encoder, as in `keras_hub.models.Seq2SeqLM`, the prompts go there, `max_length`
        counts the start token and the text, and the text alone is returned.
        """
        if isinstance(inputs, (list, tuple)) and not inputs:
            return []
        self._check_compiled("generate")
        vocabulary_size = self.backbone.vocabulary_size
        stop_token_ids = stop_tokens(stop_token_ids, self.preprocessor, vocabulary_size)
        if self.preprocessor is None:
            rows = self.make_checker().prompt_rows(inputs)
            inputs = {**{key: rows[key] for key in inputs}, "padding_mask": rows["prompt_mask"]}
        elif isinstance(inputs, dict):
            inputs = list_prompts(inputs)  # KerasHub would take its keys for prompts
        if self.backbone.has_encoder and self.preprocessor is not None:
            strip_prompt = True  # a start token is all there is of it
        return super().generate(inputs, max_length, stop_token_ids, strip_prompt)

    def generate_step(self, inputs, stop_token_ids=None):
        """Generate for one batch; compilable.

        Args:
            inputs: dict of "token_ids" `(B, L)` and "padding_mask" `(B, L)`, True on the prompt;
                with an encoder, that is the start token, and "encoder_token_ids" `(B, P)` and
                "encoder_padding_mask" `(B, P)` are the prompt.
            stop_token_ids: list of ints or None; generation ends when every row has one.

        Returns:
            Dict of "token_ids" `(B, L)`; "padding_mask" `(B, L)`, True up to the stop token; and
            "is_finite" `(B, L)`, False where the prompt gives NaN or infinite hidden states, and
            where a token of the text was to be drawn from NaN or infinite logits.
        """
        token_ids = ops.cast(inputs["token_ids"], "int32")
        prompt_mask = ops.cast(inputs["padding_mask"], "bool")
        self._check_length(token_ids.shape[1])
        everything = ops.ones_like(prompt_mask)
        cache = self.backbone.make_cache({**inputs, "token_ids": token_ids})
        # One pass over all columns fills the cache; those behind a prompt are written again.
        hidden_states, cache = self.backbone.call_with_cache(
            {"token_ids": token_ids, "padding_mask": everything}, cache, 0
        )
        finite = ops.all(ops.isfinite(hidden_states), axis=-1)  # (B, L)
        index = ops.min(ops.sum(ops.cast(prompt_mask, "int32"), axis=-1))
        no_token = self.backbone.vocabulary_size  # what is drawn from logits that are not finite

        def next(prompt, cache, index):
            column = ops.slice(prompt, (0, index - 1), (ops.shape(prompt)[0], 1))
            column = ops.minimum(column, no_token - 1)
            return self._step(column, ops.ones_like(prompt, dtype="bool"), cache, index - 1)

        token_ids = self.sampler(
            next=next,
            prompt=token_ids,
            cache=cache,
            index=index,
            mask=prompt_mask,
            stop_token_ids=stop_token_ids,
            hidden_states=hidden_states,
            model=self,
        )
        padding_mask = everything
        if stop_token_ids is not None:
            stops = ops.any(
                ops.stack([ops.equal(token_ids, token) for token in stop_token_ids]), axis=0
            )
            stops = ops.cast(ops.logical_and(stops, ops.logical_not(prompt_mask)), "int32")
            padding_mask = ops.equal(ops.cumsum(stops, axis=-1) - stops, 0)
        finite = ops.where(prompt_mask, finite, ops.less(token_ids, no_token))
        return {
            "token_ids": ops.minimum(token_ids, no_token - 1),
            "padding_mask": padding_mask,
            "is_finite": ops.logical_or(finite, ops.logical_not(padding_mask)),
        }

    def _run_step(self, column, mask, cache, index):
        """Return logits and hidden states of a column `(B, 1)` of token ids, and the cache."""
        hidden_states, cache = self.backbone.call_with_cache(
            {"token_ids": column, "padding_mask": mask}, cache, index
        )
        logits = _with_no_token(self.backbone.logits(hidden_states)[:, 0])
        return logits, hidden_states[:, 0], cache

    def make_generate_function(self):
        """Return the compiled `generate_step`, which raises a ValueError for NaN."""
        function = super().make_generate_function()

        def generate(inputs, stop_token_ids=None):
            with weights_stay():
                outputs = dict(function(inputs, stop_token_ids=stop_token_ids))
            is_finite = ops.convert_to_numpy(outputs.pop("is_finite"))
            if not is_finite.all():
                position, row = np.argwhere(~is_finite.T)[0]  # the first: others may follow from it
                in_prompt = ops.convert_to_numpy(inputs["padding_mask"])[row, position]
                where = "the first step" if in_prompt else f"position {position} of the row"
                raise ValueError(
                    f"The model returned NaN or infinite numbers for prompt {row}, at {where}. "
                    "Check the weights, or use float32 or bfloat16 instead of float16."
                )
            return outputs

        return generate

    def _start_anew(self):
        super()._start_anew()
        self.generate_function = None

    def get_compile_config(self):
        """Return the arguments of `compile` as a serializable dict."""
        sampler = keras_hub.samplers.serialize(self.sampler)
        return {**super().get_compile_config(), "sampler": sampler}


def _with_no_token(logits):
    """Append a token to logits `(B, V)` that is sure where they are not finite, else impossible.

    KerasHub's samplers return tokens alone, so that the failure of a step must be one of them.
    """
    logits = ops.cast(logits, "float32")  # as samplers do
    finite = ops.isfinite(ops.sum(logits, axis=-1, keepdims=True))
    return ops.concatenate([ops.where(finite, logits, -1e9), ops.where(finite, -1e9, 0.0)], axis=-1)


def _check_sampler(sampler):
    """Refuse options that KerasHub accepts and then fails on, or silently misreads."""
    options = sampler.get_config()
    checks = {
        "temperature": lambda name, value: check_number(name, value, minimum=1e-6),
        "k": lambda name, value: check_integer(name, value, minimum=1),
        "p": lambda name, value: check_number(name, value, minimum=1e-6, maximum=1),
        "num_beams": lambda name, value: check_integer(name, value, minimum=1),
    }
    for name, check in checks.items():
        if options.get(name) is not None:
            check(f"{type(sampler).__name__}.{name}", options[name])
