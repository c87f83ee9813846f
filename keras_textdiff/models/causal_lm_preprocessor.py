"""Text to rows for autoregressive models."""

import numpy as np

from keras_textdiff.backbones.transformer_backbone import TransformerBackbone
from keras_textdiff.data.packing import pack_rows
from keras_textdiff.models.prompts import check_prompt_lengths, list_prompts
from keras_textdiff.models.text_preprocessor import TextPreprocessor
from keras_textdiff.utils.checks import check_integer
from keras_textdiff.utils.registration import register


@register
class CausalLMPreprocessor(TextPreprocessor):
    """Packs texts for next-token prediction; padding is masked and has no loss.

    Args:
        tokenizer: any `keras_hub.tokenizers.Tokenizer` with an end token.
        sequence_length: int, length L of a row.
        add_start_token: bool, whether a row begins with the start token, where there is one.
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
            sequence_length: int or None, prompt and continuation together.

        Returns:
            Dict of "token_ids" int32 and "padding_mask" bool (True on the prompt), `(B, L)`.
        """
        length = self.sequence_length if sequence_length is None else sequence_length
        check_integer("max_length", length, minimum=1)
        prefixes = self.tokenize_prompts(list_prompts(x))
        if not all(prefixes):
            raise ValueError(
                f"Prompt {prefixes.index([])} has no tokens, and there is no start token to "
                "begin with. Pass some text."
            )
        check_prompt_lengths(prefixes, length)
        # KerasHub's samplers stop at a stop token anywhere behind the prompt, so fill with another.
        fill = next(token for token in range(3) if token not in self.stop_token_ids)
        rows = pack_rows(prefixes, [[]] * len(prefixes), length, fill, False)
        return {"token_ids": rows["token_ids"], "padding_mask": np.array(rows["padding_mask"])}

    def generate_postprocess(self, x):
        """Turn generated rows into strings; positions outside "padding_mask" are left out."""
        masks = np.asarray(x["padding_mask"], dtype=bool)
        return self.detokenize(
            [row[mask] for row, mask in zip(np.asarray(x["token_ids"]), masks, strict=True)]
        )
