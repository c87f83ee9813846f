"""Several examples to a row, as segments that do not see each other.

Shapes: B rows, L length.
"""

import bisect

import numpy as np


def pack_segments(examples, length, fill_token_id, generator):
    """Put several examples into each row, marked as segments that do not see each other.

    Longest first, each example goes to the fullest row that has room for it (best fit). The rows
    then come in random order.

    Args:
        examples: list of pairs of lists of token ids, prefix and target; cut at `length` tokens.
        length: int L.
        fill_token_id: int, token of the positions behind the last example; they are padding.
        generator: `numpy.random.Generator` of the rows' order.

    Returns:
        Dict of int32 "token_ids", bool "padding_mask", "prompt_mask" and "target_mask", and int32
        "segment_ids" (1, 2, ... for the examples of a row, 0 for padding), each `(B, L)`, of as
        many rows as were needed.

    Example:
    ```python
    rows = pack_segments([([5, 6], [7]), ([], [8])], 6, 0, np.random.default_rng(0))
    rows["token_ids"], rows["segment_ids"]  # [[5, 6, 7, 8, 0, 0]], [[1, 1, 1, 2, 0, 0]]
    ```
    """
    sizes = [min(len(prefix) + len(target), length) for prefix, target in examples]
    rows = best_fit(sizes, length)
    rows = [rows[row] for row in generator.permutation(len(rows))]
    token_ids = np.full((len(rows), length), fill_token_id, dtype="int32")
    segment_ids = np.zeros(token_ids.shape, dtype="int32")
    prompt_mask = np.zeros(token_ids.shape, dtype=bool)
    for row, members in enumerate(rows):
        start = 0
        for segment, index in enumerate(members, start=1):
            prefix, target = examples[index]
            end = start + sizes[index]
            token_ids[row, start:end] = [*prefix, *target][:length]
            segment_ids[row, start:end] = segment
            prompt_mask[row, start : min(start + len(prefix), end)] = True
            start = end
    padding_mask = segment_ids > 0
    return {
        "token_ids": token_ids,
        "padding_mask": padding_mask,
        "prompt_mask": prompt_mask,
        "target_mask": padding_mask & ~prompt_mask,
        "segment_ids": segment_ids,
    }


def best_fit(sizes, length):
    """Distribute items over rows: longest first, each into the fullest row with room.

    Args:
        sizes: list of ints, at most `length` each.
        length: int, room of a row.

    Returns:
        List of rows, each a list of indices into `sizes`.
    """
    rows, open_rows = [], []  # (room left, row), sorted
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        place = bisect.bisect_left(open_rows, (sizes[index], 0))
        if place == len(open_rows):
            room, row = length, len(rows)
            rows.append([])
        else:
            room, row = open_rows.pop(place)
        rows[row].append(index)
        bisect.insort(open_rows, (room - sizes[index], row))
    return rows
