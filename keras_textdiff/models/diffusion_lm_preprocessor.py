"""Text to rows for diffusion models."""

from keras_textdiff.backbones.transformer_backbone import TransformerBackbone
from keras_textdiff.models.text_preprocessor import TextPreprocessor
from keras_textdiff.utils.registration import register


@register
class DiffusionLMPreprocessor(TextPreprocessor):
    """Packs a prefix and a canvas that fills the rest of the row.

    The target is the response, its end token, and end tokens up to the row's end: the model
    learns how long a text is by predicting where it ends. `format` says how plain strings become
    prefix and target: split at a random point by default (prefix LM). A string longer than a row is
    cut; `keras_textdiff.data.pipeline` makes several examples of it instead.

    Args:
        tokenizer: any `keras_hub.tokenizers.Tokenizer` with an end token.
        sequence_length: int, length L of a row, prefix and canvas together.
        add_start_token: bool, whether a text begins with the start token, where there is one.
        prefix_length: int or None. For an `EncoderDecoderBackbone`, the length P of the encoder's
            rows: the prefix goes there, behind it an end token, and a row of length L is a start
            token and the canvas. None for prefix and canvas in one row.
        decoder_start_token_id: int or None, token at the start of such a row; None means the
            tokenizer's start token, or its end token where it has none. T5 has its padding token.
        format: "prefix_lm", "span_corruption", "ul2", "whole_document", or an object of
            `keras_textdiff.data`.
        **kwargs: see `keras_hub.models.Preprocessor`.

    Example:
    ```python
    preprocessor = DiffusionLMPreprocessor(tokenizer, sequence_length=64)
    batch = preprocessor({"prompts": ["2 + 2 ="], "responses": [" 4"]})
    ```

    Reference: Han et al. 2024, arXiv 2401.17181, section 3.1.
    """

    backbone_cls = TransformerBackbone
    learn_padding = True
    default_format = "prefix_lm"
