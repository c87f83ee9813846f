"""Documents split in two."""

from keras_textdiff.data.formats.format import Format
from keras_textdiff.utils.registration import register


@register
class PrefixLM(Format):
    """A document split at a random point: its start is the prefix, the rest the target.

    Every split is equally likely, from an empty prefix to a target of one token. A document longer
    than a row fills it without an end token, and goes on in the next example.

    Example:
    ```python
    preprocessor = DiffusionLMPreprocessor(tokenizer, sequence_length=64, format="prefix_lm")
    ```

    Reference: Raffel et al. 2020, arXiv 1910.10683, section 3.2.3; Han et al. 2024, arXiv
    2401.17181, section 3.1.
    """

    def __call__(self, tokens, room, generator, end_token_id):
        """Make one example, see `Format`."""
        piece = [*tokens[: room.total], end_token_id][: room.total]
        split = int(generator.integers(min(len(piece), room.prefix + 1)))
        target = piece[split : split + room.target]  # `piece` has no more than the total
        return piece[:split], target, min(len(tokens), split + len(target))

    def get_config(self):
        """Return the constructor's arguments."""
        return {}
