"""What every format of documents has in common."""

import abc
import dataclasses


@dataclasses.dataclass(frozen=True)
class Room:
    """How many tokens an example may have.

    Attributes:
        prefix: int, most tokens of the prefix.
        target: int, most tokens of the target.
        total: int, most tokens of both together.

    Example:
    ```python
    Room.shared(128)  # a row that holds both
    Room(prefix=512, target=114, total=626)  # an encoder's row and a decoder's
    ```
    """

    prefix: int
    target: int
    total: int

    @classmethod
    def shared(cls, length):
        """Return the room of a row of `length` tokens, which prefix and target share."""
        return cls(length, length, length)

    def without(self, count):
        """Return the room that is left when `count` tokens of the prefix are taken."""
        return Room(self.prefix - count, self.target, self.total - count)


class Format(abc.ABC):
    """How a document's tokens become a prefix, which is given, and a target, which is learned.

    Subclasses define `__call__` and `get_config`. Formats hold options only; what they draw comes
    from the generator they are called with.

    Attributes:
        special_token_ids: tuple of ints, the ids that stand for no text.
    """

    special_token_ids = ()

    @abc.abstractmethod
    def __call__(self, tokens, room, generator, end_token_id):
        """Make one example from the start of a document.

        Args:
            tokens: list of ints, a document or what is left of it, without an end token; beyond
                `room.total` + 1 of them the rest makes no difference.
            room: `Room` of the example.
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
