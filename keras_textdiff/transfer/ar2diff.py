"""AR2Diff: an autoregressive language model becomes a text diffusion model."""

import os

import keras_hub

from keras_textdiff.models import CausalLMPreprocessor, DiffusionLM, DiffusionLMPreprocessor
from keras_textdiff.transfer.convert import convert_backbone
from keras_textdiff.transfer.load_source import FORMS, load_source
from keras_textdiff.utils.checks import check_choice

DENOISING_MODES = ("bidirectional", "prefix", "block")  # in "causal", nothing can be denoised


def ar2diff(source, *, attention="bidirectional", block_length=None, logit_shift=False, dtype=None):
    """Turn an autoregressive language model into a diffusion model with the same weights.

    All weights are kept, the output projection included; attention becomes bidirectional (or
    one of the other modes). The result predicts badly until it has been trained: fine-tune it
    with a diffusion objective, or train it further on pretraining data first.

    Args:
        source: a `keras_hub.models.CausalLM`, a backbone of one of the families in
            `transfer.families`, a `keras_textdiff.models.CausalLM` or its backbone, or what
            `from_preset` takes: a KerasHub preset name, "hf://user/name",
            "kaggle://user/model/keras/variation" or a local folder (str or `pathlib.Path`).
        attention: "bidirectional", "prefix" or "block", see `TransformerBackbone`; an
            encoder-decoder has "bidirectional" alone.
        block_length: int, tokens per block; for attention "block" only.
        logit_shift: bool, whether position i is predicted at position i - 1, as the source was
            trained to (see `DiffusionLM`).
        dtype: dtype or `keras.DTypePolicy` of the result. None keeps that of a model, and
            loads a preset in Keras' default dtype.

    Returns:
        `keras_textdiff.models.DiffusionLM` with a copy of the weights and, where the source has
        a preprocessor, its tokenizer and lengths.

    Raises:
        ValueError: for anything that is not such a source, and see `convert_backbone`.

    Example:
    ```python
    causal_lm = keras_hub.models.CausalLM.from_preset("gpt2_base_en")
    lm = keras_textdiff.ar2diff(causal_lm)
    lm.compile(objective="sundae", sampler="sundae")
    lm.fit({"prompts": ["2 + 2 ="], "responses": [" 4"]}, batch_size=1)
    ```

    Reference: Han et al. 2024, arXiv 2401.17181, section 3.3 (AR2Diff).
    """
    check_choice("attention", attention, DENOISING_MODES)
    if isinstance(source, (str, os.PathLike)):
        source = load_source(source, dtype)
    if isinstance(source, keras_hub.models.CausalLM):
        backbone, preprocessor = source.backbone, source.preprocessor
    elif isinstance(source, keras_hub.models.Backbone):
        backbone, preprocessor = source, None
    else:
        hint = " It is a diffusion model already." if isinstance(source, DiffusionLM) else ""
        raise ValueError(
            "`source` must be a keras_hub.models.CausalLM, a keras_textdiff.models.CausalLM, a "
            f"backbone of theirs, or {FORMS}. Got {type(source).__name__}.{hint}"
        )
    backbone = convert_backbone(
        backbone, attention=attention, block_length=block_length, dtype=dtype
    )
    if preprocessor is not None:
        preprocessor = DiffusionLMPreprocessor(
            preprocessor.tokenizer, **_preprocessor_options(preprocessor)
        )
    return DiffusionLM(backbone, preprocessor=preprocessor, logit_shift=logit_shift)


def _preprocessor_options(source):
    """Return the options of a source's preprocessor that a `DiffusionLMPreprocessor` keeps."""
    names = ("sequence_length", "add_start_token")
    if isinstance(source, CausalLMPreprocessor):
        names += ("prefix_length", "decoder_start_token_id")
    elif isinstance(source, keras_hub.models.T5Seq2SeqLMPreprocessor):
        return {
            "sequence_length": source.decoder_sequence_length,
            "prefix_length": source.encoder_sequence_length,
            "add_start_token": False,  # T5's is another name for its end token
            "decoder_start_token_id": source.tokenizer.pad_token_id,
        }
    return {name: getattr(source, name) for name in names}
