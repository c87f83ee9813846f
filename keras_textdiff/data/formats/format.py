"""What every format of documents has in common."""

import abc


class Format(abc.ABC):
    """How a document's tokens become a prefix, which is given, and a target, which is learned.

    Subclasses define `__call__` and `get_config`. Formats hold options only; what they draw comes
    from the generator they are called with.
    """

    @abc.abstractmethod
    def __call__(self, tokens, length, generator, end_token_id):
        """Make one example from the start of a document.

        Args:
            tokens: list of ints, a document or what is left of it, without an end token; beyond
                `length` + 1 of them the rest makes no difference.
            length: int, most tokens of prefix and target together.
            generator: `numpy.random.Generator` for all that is drawn.
            end_token_id: int, the token that ends a text.

        Returns:
            `(prefix, target, num_used)`: two lists of ints, and how many of `tokens` they hold.
        """

    @abc.abstractmethod
    def get_config(self):
        """Return the constructor's arguments."""

    def bind(self, tokenizer):
        """Return this format with the special tokens that it needs from a tokenizer."""
        return self

    @property
    def special_token_ids(self):
        """The ids that stand for no text, a tuple of ints."""
        return ()
