import numpy as np
import pytest

from keras_textdiff.backbones.layers.relative_position_bias import (
    RelativePositionBias,
    distance_buckets,
)
from tests.life import check_layer
from tests.tiny import to_numpy

SETTINGS = [(32, 128), (16, 64), (8, 20), (4, 4), (64, 1000)]


def reference_buckets(offsets, split, num_buckets, maximum_distance):
    """The buckets that Transformers' T5 gives to key minus query position."""
    torch = pytest.importorskip("torch", reason="Transformers runs on torch")
    t5 = pytest.importorskip(
        "transformers.models.t5.modeling_t5", reason="the reference is Transformers itself"
    )
    offsets = torch.tensor(offsets, device="cpu")
    return t5.T5Attention._relative_position_bucket(
        offsets, split, num_buckets, maximum_distance
    ).numpy()


@pytest.mark.parametrize(("num_buckets", "maximum_distance"), SETTINGS)
def test_buckets_are_those_of_transformers(num_buckets, maximum_distance):
    behind = -np.arange(maximum_distance + 1)
    expected = reference_buckets(behind, False, num_buckets, maximum_distance)
    np.testing.assert_array_equal(distance_buckets(num_buckets, maximum_distance), expected)
    assert expected.max() == num_buckets - 1


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("queries", [range(40), range(25, 27)])
def test_biases_are_those_of_transformers(split, queries):
    layer = RelativePositionBias(3, 8, 20, split=split)
    queries, keys = np.array(queries), np.arange(40)
    layer(queries, keys)
    table = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    layer.bias.assign(table)
    biases = to_numpy(layer(queries, keys))[0]  # (N, Q, K)
    offsets = keys[None] - queries[:, None]
    expected = table[reference_buckets(offsets, split, 8, 20)].transpose(2, 0, 1)
    seen = np.ones_like(offsets, bool) if split else offsets <= 0
    np.testing.assert_allclose(biases[:, seen], expected[:, seen])


def test_what_lies_ahead_mirrors_what_lies_behind_until_it_is_trained():
    layer = RelativePositionBias(2, 8, 20)
    positions = np.arange(30)
    layer(positions, positions)
    rng = np.random.default_rng(0)
    layer.bias.assign(rng.normal(size=(8, 2)))
    biases = to_numpy(layer(positions, positions))[0]
    np.testing.assert_array_equal(biases, biases.transpose(0, 2, 1))
    layer.ahead.assign(rng.normal(size=(8, 2)))
    moved = to_numpy(layer(positions, positions))[0]
    behind = np.tri(30, dtype=bool)
    np.testing.assert_array_equal(moved[:, behind], biases[:, behind])
    buckets = distance_buckets(8, 20)[np.minimum(np.abs(positions[:, None] - positions), 20)]
    ahead = to_numpy(layer.ahead)[buckets].transpose(2, 0, 1)
    np.testing.assert_allclose(moved[:, ~behind], (biases + ahead)[:, ~behind], rtol=1e-6)


@pytest.mark.parametrize("split", [False, True])
def test_life(split):
    check_layer(RelativePositionBias(4, 8, 20, split=split), np.arange(5), np.arange(3, 9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_buckets": 0}, "`num_position_buckets` must be at least 4"),
        ({"num_buckets": 6}, "multiple of 4"),
        ({"maximum_distance": 31}, "`maximum_position_distance` must be at least 32"),
        ({"num_buckets": 8.0}, "integer"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RelativePositionBias(4, **options)
