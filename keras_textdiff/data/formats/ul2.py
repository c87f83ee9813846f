"""UL2's mixture of denoisers."""

import numpy as np

from keras_textdiff.data.formats.format import Format
from keras_textdiff.data.formats.prefix_lm import PrefixLM
from keras_textdiff.data.formats.sentinels import check_sentinels, find_sentinels
from keras_textdiff.data.formats.span_corruption import SpanCorruption
from keras_textdiff.utils.checks import check_integer, check_number
from keras_textdiff.utils.registration import register

# (corruption rate, mean span length) of the regular and the extreme denoisers.
REGULAR = ((0.15, 3.0), (0.15, 8.0))
EXTREME = ((0.5, 3.0), (0.5, 8.0), (0.15, 64.0), (0.5, 64.0))


@register
class UL2(Format):
    """Each document is denoised in one of three modes, drawn at random.

    R, regular: `SpanCorruption` of 15% in spans of 3 or 8 tokens. S, sequential: `PrefixLM`.
    X, extreme: `SpanCorruption` of 50%, or in spans of 64 tokens. Inside a mode all denoisers are
    equally likely.

    Args:
        weights: three numbers, how often R, S and X are drawn; they need not sum to 1. The
            default makes all seven denoisers equally likely, as in the paper.
        mode_token_ids: three ints, tokens that begin the prefix and name the mode, in the order
            R, S, X; or () for none.
        sentinel_token_ids: see `SpanCorruption`.

    Raises:
        ValueError: for weights that are negative or all 0, or ids out of range.

    Example:
    ```python
    format = UL2(mode_token_ids=(8291, 8290, 8289), sentinel_token_ids=range(8288, 8191, -1))
    preprocessor = DiffusionLMPreprocessor(tokenizer, sequence_length=128, format=format)
    ```

    Reference: Tay et al. 2023, arXiv 2205.05131, section 3.1.2.
    """

    def __init__(self, weights=(2.0, 1.0, 4.0), mode_token_ids=(), sentinel_token_ids=()):
        self.weights = tuple(check_number("weights entry", weight, minimum=0) for weight in weights)
        if len(self.weights) != 3 or not sum(self.weights):
            raise ValueError(
                "`weights` must be three numbers, for R, S and X, not all 0. Got "
                f"{list(self.weights)}."
            )
        self.mode_token_ids = tuple(
            check_integer("mode_token_ids entry", token, minimum=0) for token in mode_token_ids
        )
        if len(set(self.mode_token_ids)) not in (0, 3):
            raise ValueError(
                "`mode_token_ids` must be three distinct ids, for R, S and X, or (). Got "
                f"{list(self.mode_token_ids)}."
            )
        self.sentinel_token_ids = check_sentinels(sentinel_token_ids)
        if set(self.mode_token_ids) & set(self.sentinel_token_ids):
            raise ValueError(
                "`mode_token_ids` and `sentinel_token_ids` must not share ids. Got "
                f"{sorted(set(self.mode_token_ids) & set(self.sentinel_token_ids))} in both."
            )
        self._modes = (
            [SpanCorruption(*options, self.sentinel_token_ids) for options in REGULAR],
            [PrefixLM()],
            [SpanCorruption(*options, self.sentinel_token_ids) for options in EXTREME],
        )
        self._shares = np.cumsum(self.weights) / np.cumsum(self.weights)[-1]

    def __call__(self, tokens, room, generator, end_token_id):
        """Make one example, see `Format`."""
        mode = int(np.searchsorted(self._shares, generator.random(), side="right"))
        denoisers = self._modes[mode]
        denoiser = denoisers[int(generator.integers(len(denoisers)))]
        mode_tokens = list(self.mode_token_ids[mode : mode + 1])
        prefix, target, num_used = denoiser(
            tokens, room.without(len(mode_tokens)), generator, end_token_id
        )
        return mode_tokens + prefix, target, num_used

    def bind(self, tokenizer):
        """Return this format with the tokenizer's sentinels, where none were given."""
        if self.sentinel_token_ids:
            return self
        taken = set(self.mode_token_ids)
        sentinels = [token for token in find_sentinels(tokenizer) if token not in taken]
        return UL2(self.weights, self.mode_token_ids, sentinels)

    @property
    def special_token_ids(self):
        """The sentinels and the modes' tokens."""
        return self.sentinel_token_ids + self.mode_token_ids

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            "weights": list(self.weights),
            "mode_token_ids": list(self.mode_token_ids),
            "sentinel_token_ids": list(self.sentinel_token_ids),
        }
