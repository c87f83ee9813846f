"""Token lists to rows of fixed length, with the masks that say what each position is.

Shapes: B rows, L length, P length of the encoder's rows.
"""

import bisect

import numpy as np


def pack_rows(prefixes, targets, length, fill_token_id, learn_padding):
    """Put each prefix and its target into one row.

    Args:
        prefixes: list of B lists of token ids.
        targets: list of B lists of token ids; cut where a row is full.
        length: int L.
        fill_token_id: int, token of the positions behind the target.
        learn_padding: bool; True makes the fill part of the canvas (a diffusion model learns
            length by predicting it), False makes it padding.

    Returns:
        Dict of int32 "token_ids" and bool "padding_mask" (True where real), "prompt_mask" (True
        on prefix positions) and "target_mask" (True where the loss counts), each `(B, L)`.

    Example:
    ```python
    pack_rows([[5, 6]], [[7]], 4, fill_token_id=0, learn_padding=True)["token_ids"]
    # [[5, 6, 7, 0]]
    ```
    """
    token_ids = np.full((len(prefixes), length), fill_token_id, dtype="int32")
    columns = np.arange(length)
    starts, ends = [], []
    for row, (prefix, target) in enumerate(zip(prefixes, targets, strict=True)):
        tokens = [*prefix, *target][:length]
        token_ids[row, : len(tokens)] = tokens
        starts.append(min(len(prefix), length))
        ends.append(length if learn_padding else len(tokens))
    starts, ends = np.array(starts, int)[:, None], np.array(ends, int)[:, None]
    prompt_mask = columns < starts
    padding_mask = columns < ends
    return {
        "token_ids": token_ids,
        "padding_mask": np.broadcast_to(padding_mask, token_ids.shape),
        "prompt_mask": prompt_mask,
        "target_mask": padding_mask & ~prompt_mask,
    }


def pack_encoder_decoder_rows(
    prefixes,
    targets,
    prefix_length,
    length,
    *,
    start_token_id,
    end_token_id,
    fill_token_id,
    learn_padding,
):
    """Put each prefix into a row for an encoder, and its target into one for a decoder.

    The encoder's row is the prefix and an end token; a prefix that does not fit is cut before it.
    The decoder's row begins with a start token, its prefix: a causal decoder predicts the first
    token of the target there, and positions of a denoiser are relative to it.

    Args:
        prefixes: list of B lists of token ids.
        targets: list of B lists of token ids; cut where a row is full.
        prefix_length: int P.
        length: int L, the start token included.
        start_token_id: int, token of the decoder's first position.
        end_token_id: int, token behind a prefix; it fills the rest of the encoder's row, too.
        fill_token_id: int, token of the positions behind the target.
        learn_padding: bool, see `pack_rows`.

    Returns:
        Dict of what `pack_rows` returns for the decoder's rows, and int32 "encoder_token_ids" and
        bool "encoder_padding_mask" (True where real), each `(B, P)`.
    """
    prefixes = [[*prefix[: prefix_length - 1], end_token_id] for prefix in prefixes]
    encoder = pack_rows(prefixes, [[]] * len(prefixes), prefix_length, end_token_id, False)
    starts = [[start_token_id]] * len(targets)
    return {
        "encoder_token_ids": encoder["token_ids"],
        "encoder_padding_mask": encoder["padding_mask"],
        **pack_rows(starts, targets, length, fill_token_id, learn_padding),
    }


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
        Dict as from `pack_rows`, of as many rows as were needed, with int32 "segment_ids" `(B, L)`:
        1, 2, ... for the examples of a row, 0 for padding.

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
