import itertools
from fractions import Fraction

import numpy as np
import pytest

from keras_textdiff.evaluation import pass_at_k

pytestmark = pytest.mark.backend_free


@pytest.mark.parametrize("num_samples", range(1, 9))
def test_is_the_share_of_subsets_with_a_correct_sample(num_samples):
    for num_correct, k in itertools.product(range(num_samples + 1), range(1, num_samples + 1)):
        subsets = list(itertools.combinations(range(num_samples), k))
        hits = sum(min(subset) < num_correct for subset in subsets)
        result = pass_at_k(num_samples=num_samples, num_correct=num_correct, k=k)
        assert result == float(Fraction(hits, len(subsets)))


def test_equals_the_product_form():
    product = 1 - np.prod(1 - 10 / np.arange(80 - 3 + 1, 80 + 1))
    assert pass_at_k(num_samples=80, num_correct=3, k=10) == pytest.approx(product, rel=1e-14)


def test_large_and_small_values_are_exact():
    assert pass_at_k(num_samples=10**6, num_correct=1, k=1) == 1e-6
    assert pass_at_k(num_samples=5000, num_correct=2500, k=2501) == 1.0
    assert pass_at_k(num_samples=np.int64(4), num_correct=np.int64(1), k=2) == 0.5


@pytest.mark.parametrize(
    ("num_samples", "num_correct", "k", "name"),
    [
        (4, 5, 1, "num_correct"),
        (4, -1, 1, "num_correct"),
        (4, 1, 5, "k"),
        (4, 1, 0, "k"),
        (0, 0, 1, "num_samples"),
        (4.0, 1, 1, "num_samples"),
        (4, True, 1, "num_correct"),
    ],
)
def test_bad_arguments(num_samples, num_correct, k, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        pass_at_k(num_samples=num_samples, num_correct=num_correct, k=k)
