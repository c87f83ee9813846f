"""The whole way from a Hugging Face folder, against Transformers itself."""

import json

import keras_hub
import numpy as np
import pytest

from keras_textdiff.transfer import ar2diff, convert_backbone
from tests.transfer.source_backbones import make_inputs, own_logits

transformers = pytest.importorskip("transformers", reason="the reference is Transformers itself")
torch = pytest.importorskip("torch", reason="Transformers runs on torch")
pytest.importorskip("safetensors", reason="the folder holds safetensors")

SIZES = {"vocab_size": 50, "tie_word_embeddings": False}
GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 32}
LLAMA = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "rms_norm_eps": 1e-6,  # KerasHub's Llama converter reads no other value, it assumes this one
}


def make_twin(name, folder):
    """Save a random Transformers model with a tokenizer to `folder`, and return it."""
    torch.manual_seed(0)
    if name == "gpt2":
        config = transformers.GPT2Config(vocab_size=50, **GPT2)
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(**SIZES, **LLAMA)
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.eval().save_pretrained(folder)
    tokens = ["<|endoftext|>", *"abcdefgh", "Ġ", "Ġa"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nĠ a\n", encoding="utf-8")
    return model


def twin_logits(model, inputs):
    with torch.no_grad():
        outputs = model(
            input_ids=torch.tensor(inputs["token_ids"], dtype=torch.int64, device="cpu"),
            attention_mask=torch.tensor(inputs["padding_mask"], dtype=torch.int64, device="cpu"),
        )
    return outputs.logits.numpy()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_backbone_of_a_hugging_face_folder(name, tmp_path):
    model = make_twin(name, tmp_path)
    source = keras_hub.models.Backbone.from_preset(str(tmp_path))
    backbone = convert_backbone(source, attention="causal")
    inputs = make_inputs()
    real = inputs["padding_mask"]
    expected = twin_logits(model, inputs)[real]
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(own_logits(backbone, inputs)[real], expected, atol=tolerance)


def test_ar2diff_of_a_hugging_face_folder(tmp_path):
    model = make_twin("gpt2", tmp_path)
    lm = ar2diff(tmp_path)
    assert lm.preprocessor.tokenizer.end_token_id == 0
    backbone = convert_backbone(lm.backbone, attention="causal")
    inputs = make_inputs()
    real = inputs["padding_mask"]
    expected = twin_logits(model, inputs)[real]
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(own_logits(backbone, inputs)[real], expected, atol=tolerance)
