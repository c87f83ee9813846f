import numpy as np
import pytest

from keras_textdiff.utils import checks

pytestmark = pytest.mark.backend_free


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", None, True])
def test_integers_out_of_range_or_of_another_type(value):
    with pytest.raises(ValueError, match="`num_layers` must be"):
        checks.check_integer("num_layers", value, minimum=1)
    assert checks.check_integer("num_layers", np.int64(3), minimum=1) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1, "x", None])
def test_numbers_out_of_range(value):
    with pytest.raises(ValueError, match="`top_p` must be"):
        checks.check_number("top_p", value, minimum=0, maximum=1)


@pytest.mark.parametrize("token_id", [-1, 10, 2**40])
def test_token_ids_outside_the_vocabulary_are_named_with_their_position(token_id):
    with pytest.raises(ValueError, match=rf"\[0, 10\).*{token_id}.*\[0, 2\]"):
        checks.check_token_ids("token_ids", [[0, 9, token_id]], 10)
    checks.check_token_ids("token_ids", [[0, 9]], 10)


def test_token_ids_must_be_integers():
    with pytest.raises(ValueError, match="integers"):
        checks.check_token_ids("token_ids", [[0.0, float("nan")]], 10)


@pytest.mark.parametrize(
    ("text", "message"), [(3, "Got int"), (None, "NoneType"), (b"\xff", "UTF-8")]
)
def test_texts_that_are_none_are_named_by_their_position(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        checks.check_texts(["a", b"b", text])
    assert " 2" in str(caught.value)
    checks.check_texts(np.array(["a", "b"]))
