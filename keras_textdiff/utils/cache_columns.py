"""Writing columns into a key-value cache.

Shapes: B batch, K cache, L columns, N heads, H head size.
"""

import keras
from keras import ops


def write_columns(cache, index, columns):
    """Return the cache with `columns` from position `index` on.

    Args:
        cache: float tensor `(B, K, N, H)`.
        index: int or int tensor.
        columns: float tensor `(B, L, N, H)`.
    """
    columns = ops.cast(columns, cache.dtype)
    if keras.config.backend() == "torch" and not isinstance(index, int):
        import torch  # whose indices by position, unlike slices, can be recorded

        positions = index + torch.arange(columns.shape[1], device=cache.device)
        return torch.index_copy(cache, 1, positions, columns)
    return ops.slice_update(cache, (0, index, 0, 0), columns)
