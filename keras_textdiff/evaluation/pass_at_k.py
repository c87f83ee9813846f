"""The chance that one of k samples solves a problem."""

import math

from keras_textdiff.utils.checks import check_integer


def pass_at_k(num_samples, *, num_correct, k):
    """Estimate, without bias, the chance that at least one of `k` samples is correct.

    1 - C(n - c, k) / C(n, k) for n samples of which c are correct: the share of all subsets of
    k samples that hold a correct one. Computed in integers, so exact to the last bit.

    Args:
        num_samples: int n, samples drawn for the problem.
        num_correct: int c, how many of them are correct.
        k: int, from 1 to `num_samples`.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: for more correct samples than samples, or a `k` outside [1, `num_samples`].

    Example:
    ```python
    keras_textdiff.evaluation.pass_at_k(num_samples=4, num_correct=1, k=2)  # 0.5
    ```

    Reference: Chen et al. 2021, arXiv 2107.03374, equation 1.
    """
    num_samples = check_integer("num_samples", num_samples, minimum=1)
    num_correct = check_integer("num_correct", num_correct, minimum=0, maximum=num_samples)
    k = check_integer("k", k, minimum=1, maximum=num_samples)
    subsets = math.comb(num_samples, k)
    return (subsets - math.comb(num_samples - num_correct, k)) / subsets
