"""T5: from KerasHub and, weight by weight, from Transformers."""

import io
from collections import Counter

import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_textdiff.backbones import EncoderDecoderBackbone
from keras_textdiff.models import CausalLM, DiffusionLM
from keras_textdiff.transfer import ar2diff, convert_backbone
from keras_textdiff.transfer.convert import copy_weights
from keras_textdiff.transfer.families.t5 import t5_weights
from tests import tiny
from tests.transfer.source_backbones import assert_close, own_logits, sorted_values

# KerasHub's own: it hands its masks to layers as Keras' propagated masks.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*was passed an input with a mask attached", "ignore:.*looks like it has unbuilt state"
)

LENGTH, PREFIX_LENGTH = 14, 9
SIZES = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 32,
    "intermediate_dim": 48,
    "key_value_dim": 16,
}
VARIANTS = {
    "v1.1": {"activation": "gelu", "tie_embedding_weights": False},
    "v1.0": {"activation": "relu", "use_gated_activation": False},
    "gated relu, tied": {},
}


def make_inputs():
    rng = np.random.default_rng(1)
    masks = [np.ones((2, length), bool) for length in (PREFIX_LENGTH, LENGTH)]
    masks[0][0, 6:] = masks[1][1, 10:] = False
    return {
        "encoder_token_ids": rng.integers(0, 50, masks[0].shape).astype("int32"),
        "encoder_padding_mask": masks[0],
        "token_ids": rng.integers(0, 50, masks[1].shape).astype("int32"),
        "padding_mask": masks[1],
    }


def make_source(name):
    source = keras_hub.models.T5Backbone(**SIZES, **VARIANTS[name])
    rng = np.random.default_rng(0)
    for variable in source.weights:
        variable.assign(ops.convert_to_numpy(variable) + rng.normal(0, 0.2, variable.shape))
    return source


def source_logits(source, inputs):
    ids = {name.replace("token_ids", "decoder_token_ids", 1) if name == "token_ids" else name: x
           for name, x in inputs.items()}  # fmt: skip
    ids["decoder_padding_mask"] = ids.pop("padding_mask").astype("int32")
    ids["encoder_padding_mask"] = ids["encoder_padding_mask"].astype("int32")
    return ops.convert_to_numpy(keras_hub.models.T5Seq2SeqLM(source)(ids))


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request):
    source = make_source(request.param)
    return source, convert_backbone(source, attention="causal")


def test_logits_equal_those_of_keras_hub(pair):
    source, backbone = pair
    assert type(backbone) is EncoderDecoderBackbone
    inputs = make_inputs()
    assert_close(own_logits(backbone, inputs), source_logits(source, inputs), inputs)


def test_every_number_is_accounted_for(pair):
    source, backbone = pair
    ahead = backbone.decoder_position_bias.ahead
    assert backbone.count_params() == source.count_params() + ahead.shape[0] * ahead.shape[1]
    assert not ops.convert_to_numpy(ahead).any()
    scale = 32**-0.5 if source.tie_embedding_weights else 1.0
    norm = source.decoder_layer_norm.weight
    norm.assign(norm * scale)
    expected = np.concatenate([sorted_values(source), np.zeros(ahead.shape).reshape(-1)])
    norm.assign(norm / scale)
    np.testing.assert_allclose(sorted_values(backbone), np.sort(expected), rtol=1e-6)


def test_a_weight_that_is_left_over_is_named():
    source = make_source("v1.0")
    backbone, weights = convert_backbone(source), t5_weights(source)
    path = "decoder_layer_1/cross_attention/key/kernel"
    index = [weight.destination for weight in weights].index(path)
    with pytest.raises(ValueError, match=rf"'{path}' of Enc.*missing from T5Backbone"):
        copy_weights(weights[:index] + weights[index + 1 :], source, backbone)
    assert max(Counter(weight.destination for weight in weights).values()) == 1


def test_an_activation_of_another_kind_is_refused():
    source = keras_hub.models.T5Backbone(**SIZES, activation="tanh")
    with pytest.raises(ValueError, match=r"one of \['gelu', 'relu', 'silu'\]. Got 'tanh'"):
        ar2diff(source)


def make_tokenizer():
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat in the hat", "a dog on a log"] * 10),
        model_writer=model, vocab_size=24, model_type="BPE", minloglevel=2,
        bos_id=-1, pad_id=0, eos_id=1, unk_id=2, pad_piece="<pad>",
    )  # fmt: skip
    return keras_hub.models.T5Tokenizer(proto=model.getvalue())


def test_a_keras_hub_task_brings_its_tokenizer_and_packs_as_it_did():
    tokenizer = make_tokenizer()
    preprocessor = keras_hub.models.T5Seq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=12, decoder_sequence_length=10
    )
    lm = ar2diff(keras_hub.models.T5Seq2SeqLM(make_source("v1.1"), preprocessor))
    assert type(lm) is DiffusionLM
    assert lm.backbone.attention == "bidirectional"
    assert (lm.preprocessor.prefix_length, lm.preprocessor.sequence_length) == (12, 10)
    texts = {"prompts": ["the cat", "a dog"], "responses": ["in", "on a log"]}
    rows = lm.preprocessor(texts)
    x, *_ = preprocessor({"encoder_text": texts["prompts"], "decoder_text": texts["responses"]})
    for theirs, ours, mask in (
        ("encoder_token_ids", "encoder_token_ids", "encoder_padding_mask"),
        ("decoder_token_ids", "token_ids", "decoder_padding_mask"),
    ):
        mask = np.array(x[mask], bool)
        np.testing.assert_array_equal(rows[ours][mask], np.array(x[theirs])[mask])
    np.testing.assert_array_equal(rows["encoder_padding_mask"], np.array(x["encoder_padding_mask"]))
    lm.compile(objective="sundae", sampler="sundae", jit_compile=tiny.JIT)
    assert np.isfinite(lm.fit(texts, verbose=0).history["loss"]).all()


def test_own_causal_model_becomes_a_diffusion_model():
    causal_lm = tiny.encoder_decoder_lm("causal")
    lm = ar2diff(causal_lm)
    assert lm.backbone.get_config() == {
        **causal_lm.backbone.get_config(), "name": lm.backbone.name, "attention": "bidirectional",
    }  # fmt: skip
    assert lm.preprocessor.get_config()["prefix_length"] == 12
    inputs = tiny.encoder_inputs()
    inputs = {name: inputs[name] for name in lm.backbone.input}
    expected = own_logits(causal_lm.backbone, inputs)
    assert np.abs(own_logits(lm.backbone, inputs) - expected).max() > 1e-3
    back = convert_backbone(lm.backbone, attention="causal")
    np.testing.assert_array_equal(own_logits(back, inputs), expected)


def test_other_attention_is_refused():
    causal_lm = CausalLM(tiny.encoder_decoder(attention="causal"))
    with pytest.raises(ValueError, match=r"must be one of \['bidirectional', 'causal'\].*'prefix'"):
        ar2diff(causal_lm, attention="prefix")
    with pytest.raises(ValueError, match="EncoderDecoderBackbone does not have"):
        ar2diff(causal_lm, block_length=4)


# === Transformers ===


def make_twin():
    """Return a random T5 v1.1 of Transformers, its weights drawn by NumPy."""
    transformers = pytest.importorskip(
        "transformers", reason="the reference is Transformers itself"
    )
    torch = pytest.importorskip("torch", reason="Transformers runs on torch")
    config = transformers.T5Config(
        vocab_size=50, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_decoder_layers=3,
        num_heads=4, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        relative_attention_num_buckets=8, relative_attention_max_distance=20,
        decoder_start_token_id=0,
    )  # fmt: skip
    with torch.device("cpu"):
        model = transformers.T5ForConditionalGeneration(config).eval()
        # Transformers 5 ties a fresh model's head whatever the config says.
        model.lm_head = torch.nn.Linear(32, 50, bias=False)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(0, 0.3, parameter.shape)))
    return model


def twin_weights(model):
    """Yield the path in an `EncoderDecoderBackbone` and the array of each weight."""
    weights = {name: x.detach().numpy() for name, x in model.named_parameters()}

    def attention(source, destination):
        for name, path in (("q", "query"), ("k", "key"), ("v", "value")):
            yield (
                f"{destination}/{path}/kernel",
                weights[f"{source}.{name}.weight"].T.reshape(32, 4, 16),
            )
        output = weights[f"{source}.o.weight"].T.reshape(4, 16, 32)
        yield f"{destination}/attention_output/kernel", output

    yield "token_embedding/embeddings", weights["shared.weight"]
    yield "token_embedding/reverse_embeddings", weights["lm_head.weight"].T
    yield "decoder_position_bias/ahead", np.zeros((8, 4))
    for stack, layers in (("encoder", 2), ("decoder", 3)):
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield f"{stack}_position_bias/bias", weights[bias]
        yield f"{stack}_norm/scale", weights[f"{stack}.final_layer_norm.weight"]
        for index in range(layers):
            block, path = f"{stack}.block.{index}.layer", f"{stack}_layer_{index}"
            names = ["attention", "feed_forward"]
            yield from attention(f"{block}.0.SelfAttention", f"{path}/self_attention")
            if stack == "decoder":
                names.insert(1, "cross_attention")
                yield from attention(f"{block}.1.EncDecAttention", f"{path}/cross_attention")
            for number, name in enumerate(names):
                norm = weights[f"{block}.{number}.layer_norm.weight"]
                yield f"{path}/{name}_norm/scale", norm
            for name, dense in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
                kernel = weights[f"{block}.{len(names) - 1}.DenseReluDense.{dense}.weight"]
                yield f"{path}/feed_forward/{name}/kernel", kernel.T


def test_logits_and_greedy_text_equal_those_of_transformers():
    import torch

    model = make_twin()
    backbone = EncoderDecoderBackbone(
        vocabulary_size=50, num_encoder_layers=2, num_decoder_layers=3, num_query_heads=4,
        num_key_value_heads=4, head_dim=16, hidden_dim=32, intermediate_dim=48,
        attention="causal", num_position_buckets=8, maximum_position_distance=20,
        attention_scale=1.0, tie_embeddings=False,
    )  # fmt: skip
    arrays = dict(twin_weights(model))
    assert set(arrays) == {variable.path for variable in backbone.weights}
    count = sum(parameter.numel() for parameter in model.parameters())
    assert backbone.count_params() == count + 8 * 4
    for variable in backbone.weights:
        variable.assign(arrays[variable.path])
    inputs = make_inputs()
    tensors = {name: torch.tensor(x, device="cpu") for name, x in inputs.items()}
    with torch.no_grad():
        expected = model(
            input_ids=tensors["encoder_token_ids"].long(),
            attention_mask=tensors["encoder_padding_mask"].long(),
            decoder_input_ids=tensors["token_ids"].long(),
            decoder_attention_mask=tensors["padding_mask"].long(),
        ).logits.numpy()
    assert_close(own_logits(backbone, inputs), expected, inputs)

    tokens = model.generate(
        input_ids=tensors["encoder_token_ids"].long(),
        attention_mask=tensors["encoder_padding_mask"].long(),
        max_length=LENGTH, do_sample=False, num_beams=1, eos_token_id=None, use_cache=False,
    ).numpy()  # fmt: skip
    causal_lm = CausalLM(backbone)
    causal_lm.compile(sampler="greedy", jit_compile=tiny.JIT)
    start = {"token_ids": np.zeros((2, LENGTH), "int32"),
             "padding_mask": np.arange(LENGTH)[None].repeat(2, axis=0) < 1}  # fmt: skip
    prompt = {name: inputs[name] for name in ("encoder_token_ids", "encoder_padding_mask")}
    ours = causal_lm.generate({**prompt, **start}, stop_token_ids=None)["token_ids"]
    np.testing.assert_array_equal(ours, tokens)
