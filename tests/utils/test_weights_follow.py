import keras
import pytest

from keras_textdiff.backbones import TransformerBackbone
from keras_textdiff.utils.weights_follow import start_from, weights_follow

CONFIG = {
    "vocabulary_size": 11,
    "num_layers": 1,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}


def watched(function, drawn):
    """Return a function of a shape that notes which shapes it is called with."""

    def watch(shape, *args, **kwargs):
        drawn.append(tuple(shape))
        return function(shape, *args, **kwargs)

    return watch


@pytest.mark.parametrize(
    ("experts", "still"),
    [({}, []), ({"num_experts": 2, "expert_layers": [0]}, [(8, 2)])],
    ids=["dense", "experts, whose router is small"],
)
def test_no_random_values_are_drawn_where_weights_follow(monkeypatch, experts, still):
    drawn = []
    module = keras.initializers.RandomNormal.__call__.__globals__["random"]
    for name in ("normal", "uniform", "truncated_normal"):
        monkeypatch.setattr(module, name, watched(getattr(module, name), drawn))
    plain = TransformerBackbone(**CONFIG, **experts)
    shapes = [tuple(weight.shape) for weight in plain.weights]
    assert {shape for shape in shapes if len(shape) > 1} <= set(drawn)  # the watch sees them
    drawn.clear()
    with weights_follow():
        backbone = TransformerBackbone(**CONFIG, **experts)
    assert [tuple(weight.shape) for weight in backbone.weights] == shapes
    assert drawn == still


def test_it_ends_with_its_context():
    with pytest.raises(RuntimeError), weights_follow():
        assert start_from("ones") != "ones"
        raise RuntimeError
    assert start_from("ones") == "ones"
