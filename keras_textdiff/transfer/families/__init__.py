"""One file per family of pretrained models: its arguments and where its weights go.

Layers are reached by the attributes under which KerasHub saves them, so that the names here are
those that its presets depend on.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras_hub

from keras_textdiff.backbones import EncoderDecoderBackbone, TransformerBackbone
from keras_textdiff.transfer.families.gemma import (
    gemma3_config,
    gemma3_weights,
    gemma_config,
    gemma_weights,
)
from keras_textdiff.transfer.families.gpt2 import gpt2_config, gpt2_weights
from keras_textdiff.transfer.families.gpt_oss import gpt_oss_config, gpt_oss_weights
from keras_textdiff.transfer.families.llama import llama_config, llama_weights
from keras_textdiff.transfer.families.mistral import mistral_config
from keras_textdiff.transfer.families.mixtral import mixtral_config, mixtral_weights
from keras_textdiff.transfer.families.phi3 import phi3_config, phi3_weights
from keras_textdiff.transfer.families.qwen import qwen3_config, qwen3_weights, qwen_config
from keras_textdiff.transfer.families.qwen3_moe import qwen3_moe_config, qwen3_moe_weights
from keras_textdiff.transfer.families.smollm3 import smollm3_config, smollm3_weights
from keras_textdiff.transfer.families.t5 import t5_config, t5_weights


class Family(NamedTuple):
    """How one KerasHub backbone class becomes a backbone of ours.

    Args:
        config: callable, backbone to arguments of `backbone_class`.
        weights: callable, backbone to a list of `Weight` and `Unused`.
        backbone_class: `TransformerBackbone` or `EncoderDecoderBackbone`.
    """

    config: Callable
    weights: Callable
    backbone_class: type = TransformerBackbone


FAMILIES = {
    keras_hub.models.GPT2Backbone: Family(gpt2_config, gpt2_weights),
    keras_hub.models.LlamaBackbone: Family(llama_config, llama_weights),
    keras_hub.models.Llama3Backbone: Family(llama_config, llama_weights),
    keras_hub.models.MistralBackbone: Family(mistral_config, llama_weights),
    keras_hub.models.QwenBackbone: Family(qwen_config, llama_weights),
    keras_hub.models.Qwen3Backbone: Family(qwen3_config, qwen3_weights),
    keras_hub.models.GemmaBackbone: Family(gemma_config, gemma_weights),
    keras_hub.models.Gemma3Backbone: Family(gemma3_config, gemma3_weights),
    keras_hub.models.Phi3Backbone: Family(phi3_config, phi3_weights),
    keras_hub.models.SmolLM3Backbone: Family(smollm3_config, smollm3_weights),
    keras_hub.models.MixtralBackbone: Family(mixtral_config, mixtral_weights),
    keras_hub.models.Qwen3MoeBackbone: Family(qwen3_moe_config, qwen3_moe_weights),
    keras_hub.models.GptOssBackbone: Family(gpt_oss_config, gpt_oss_weights),
    keras_hub.models.T5Backbone: Family(t5_config, t5_weights, EncoderDecoderBackbone),
}

__all__ = ["FAMILIES", "Family"]
