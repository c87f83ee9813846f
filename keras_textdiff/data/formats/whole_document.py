"""Documents without a prefix."""

from keras_textdiff.data.formats.format import Format
from keras_textdiff.utils.registration import register


@register
class WholeDocument(Format):
    """The whole document is the target, as in plain language modelling.

    A document longer than a row fills it without an end token, and goes on in the next example.

    Example:
    ```python
    prefix, target, _ = WholeDocument()([5, 6, 7], Room.shared(8), generator, end_token_id=1)
    # [] [5, 6, 7, 1]
    ```
    """

    def __call__(self, tokens, room, generator, end_token_id):
        """Make one example, see `Format`."""
        length = min(room.target, room.total)
        return [], [*tokens[:length], end_token_id][:length], min(len(tokens), length)

    def get_config(self):
        """Return the constructor's arguments."""
        return {}
