import pytest

from keras_textdiff.utils.steady_weights import remembered, weights_stay

pytestmark = pytest.mark.backend_free


def test_it_looks_once_while_weights_stay():
    looks = []

    def look(owner):
        return remembered(owner, lambda: looks.append(owner) or len(looks))

    assert [look("a"), look("a")] == [1, 2]
    with weights_stay():
        assert [look("a"), look("a"), look("b"), look("a")] == [3, 3, 4, 3]
        with weights_stay():  # as a sampler's loop in a user's
            assert look("a") == 3
        assert look("a") == 3
    assert look("a") == 5
    with weights_stay():
        assert look("a") == 6
