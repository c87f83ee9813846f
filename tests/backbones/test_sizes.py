import pytest

from keras_textdiff.backbones import (
    EncoderDecoderBackbone,
    TransformerBackbone,
    encoder_decoder_config,
    transformer_config,
)

pytestmark = pytest.mark.backend_free

T5_VOCABULARY = 32_128  # as the released checkpoints of T5 v1.1 have it
# D, inner size, heads, layers of each stack, and the parameters that Transformers counts.
T5_V1_1 = {
    "small": (512, 1024, 6, 8, 76_961_152),
    "base": (768, 2048, 12, 12, 247_577_856),
    "large": (1024, 2816, 16, 24, 783_150_080),
    "xl": (2048, 5120, 32, 24, 2_849_757_184),
}


def count(cls, config):
    return cls.parameter_count_from_config(config)


@pytest.mark.parametrize(
    ("size", "decoder", "encoder_decoder"),
    [("base", 280, 590), ("large", 570, 1242), ("xl", 1682, 3767)],
)
def test_the_papers_sizes_in_millions(size, decoder, encoder_decoder):
    millions = count(TransformerBackbone, transformer_config(size)) / 1e6
    assert millions == pytest.approx(decoder, rel=0.01)
    millions = count(EncoderDecoderBackbone, encoder_decoder_config(size)) / 1e6
    assert millions == pytest.approx(encoder_decoder, rel=0.01)


@pytest.mark.parametrize("size", T5_V1_1)
def test_shapes_are_those_of_t5(size):
    hidden, inner, heads, layers, parameters = T5_V1_1[size]
    config = encoder_decoder_config(size, vocabulary_size=T5_VOCABULARY)
    assert (config["hidden_dim"], config["intermediate_dim"]) == (hidden, inner)
    assert (config["num_query_heads"], config["num_decoder_layers"]) == (heads, layers)
    ours = count(EncoderDecoderBackbone, config)
    assert ours == parameters + 32 * heads  # and the biases of what lies ahead


@pytest.mark.parametrize(("size", "millions"), [("tiny", 1.4), ("mini", 4.7), ("small", 23.0)])
def test_sizes_for_laptops(size, millions):
    config = transformer_config(size, vocabulary_size=8000)
    assert count(TransformerBackbone, config) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_configs_build_what_they_count(attention):
    config = transformer_config("tiny", vocabulary_size=50)
    backbone = TransformerBackbone(**config, attention=attention)
    assert backbone.count_params() == count(TransformerBackbone, config)
    config = encoder_decoder_config("tiny", vocabulary_size=50)
    backbone = EncoderDecoderBackbone(**config, attention=attention)
    assert backbone.count_params() == count(EncoderDecoderBackbone, config)


@pytest.mark.parametrize("function", [transformer_config, encoder_decoder_config])
def test_bad_arguments_are_named(function):
    with pytest.raises(ValueError, match=r"`size` must be one of \['tiny', .*Got 'huge'"):
        function("huge")
    with pytest.raises(ValueError, match="`vocabulary_size`"):
        function("tiny", vocabulary_size=0)
