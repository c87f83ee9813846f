"""Text to rows for autoregressive models."""

import numpy as np

from keras_textdiff.backbones.transformer_backbone import TransformerBackbone
from keras_textdiff.models.text_preprocessor import TextPreprocessor, list_prompts
from keras_textdiff.utils.registration import register


@register
class CausalLMPreprocessor(TextPreprocessor):
    """Packs texts for next-token prediction; padding is masked and has no loss.

    Args:
        tokenizer: any `keras_hub.tokenizers.Tokenizer` with an end token.
        sequence_length: int, length L of a row.
        add_start_token: bool, whether a text begins with the start token, where there is one.
        prefix_length: int or None, length P of the encoder's rows for an
            `EncoderDecoderBackbone`, see `DiffusionLMPreprocessor`.
        decoder_start_token_id: int or None, see there.
        format: how plain strings become prefix and target, see `DiffusionLMPreprocessor`; the
            default is "whole_document", and "prefix_lm" with a `prefix_length`.
        **kwargs: see `keras_hub.models.Preprocessor`.

    Example:
    ```python
    batch = CausalLMPreprocessor(tokenizer, sequence_length=64)(["To be or not to be"])
    ```
    """

    backbone_cls = TransformerBackbone

    def generate_preprocess(self, x, sequence_length=None):
        """Turn prompts into rows for `CausalLM.generate`.

        Args:
            x: a string or a list of strings.
            sequence_length: int or None, prompt and continuation together; with an encoder, the
                start token and the text.

        Returns:
            Dict of "token_ids" int32 and "padding_mask" bool (True on the prompt, or with an
            encoder on the start token), `(B, L)`; and the encoder's arrays, `(B, P)`.
        """
        length = self.sequence_length if sequence_length is None else sequence_length
        prompts = list_prompts(x)
        # KerasHub's samplers stop at a stop token anywhere behind the prompt, so fill with another.
        fill = next(token for token in range(3) if token not in self.stop_token_ids)
        rows = self.pack_prompts(prompts, length, fill)
        empty = ~rows["prompt_mask"].any(axis=1)
        if empty.any():
            raise ValueError(
                f"Prompt {int(empty.argmax())} has no tokens, and there is no start token to begin "
                "with. Pass some text."
            )
        rows["padding_mask"] = rows["prompt_mask"]
        return {k: np.array(v) for k, v in rows.items() if k not in ("prompt_mask", "target_mask")}

    def generate_postprocess(self, x):
        """Turn generated rows into strings; positions outside "padding_mask" are left out."""
        masks = np.asarray(x["padding_mask"], dtype=bool)
        return self.detokenize(
            [row[mask] for row, mask in zip(np.asarray(x["token_ids"]), masks, strict=True)]
        )
