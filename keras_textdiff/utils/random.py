"""Random numbers from named streams, made on the host and keyed by row.

The same (name, seed, row key) gives the same numbers on every backend and machine, wherever
the row stands in a batch. The generator is Philox, so a stream can be entered at any step.
"""

import hashlib
import random as python_random
import sys

import keras
import numpy as np
from keras.src.backend.common import global_state  # Keras shows its global generator nowhere else
from keras.src.random import seed_generator

from keras_textdiff.utils.replicas import replica_index


def generator(name, seed, *keys, step=0):
    """Return a NumPy generator for the stream `name`.

    Args:
        name: str, what the numbers are for ("canvas", "tokens").
        seed: int, the user's seed.
        *keys: ints, strings or bytes that single out a row.
        step: int, position along the stream; different steps never overlap.

    Returns:
        `numpy.random.Generator`.
    """
    text = repr((name, int(seed), *keys)).encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step]))


def uniform(generator, size):
    """Draw float32 numbers strictly inside (0, 1), multiples of 2**-24."""
    integers = generator.integers(0, 2**23, size=size, dtype=np.int64)
    return ((integers + 0.5) * 2.0**-23).astype("float32")


def fresh_seed():
    """Return a new seed, reproducible through `keras.utils.set_random_seed`."""
    return python_random.randrange(2**31)


class SeedGenerator(keras.random.SeedGenerator):
    """Keras' random seeds, other ones for each replica of a model that several train together."""

    def next(self, ordered=True):
        """Return the next seed, an int tensor `(2,)`."""
        state = super().next(ordered=ordered)
        index = replica_index()
        if isinstance(index, int) and index == 0:
            return state
        offset = keras.ops.cast(index, state.dtype) * 0x9E37
        return state + keras.ops.stack([offset, keras.ops.zeros_like(offset)])


def row_keys(rows):
    """Return one key per row: its content and how often that content came before.

    A row keeps its key whatever stands beside it; equal rows of one call get different keys.

    Args:
        rows: list of 1-D integer arrays (the prompts' token ids).

    Returns:
        List of `(digest, occurrence)`.
    """
    seen = {}
    keys = []
    for row in rows:
        digest = hashlib.blake2b(np.asarray(row, dtype="<i8").tobytes(), digest_size=16).hexdigest()
        occurrence = seen.get(digest, 0)
        seen[digest] = occurrence + 1
        keys.append((digest, occurrence))
    return keys


def get_states():
    """Return where the process's random streams stand, as a JSON value.

    These are Python's, NumPy's, Keras' global one, and torch's where torch is loaded.
    """
    version, words, gauss = python_random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    states = {
        "python": [version, list(words), gauss],
        "numpy": {**numpy_state, "state": {**numpy_state["state"]}},
        "keras": None,
        "torch": None,
    }
    states["numpy"]["state"]["key"] = numpy_state["state"]["key"].tolist()
    generator = global_state.get_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR)
    if generator is not None:
        states["keras"] = keras.ops.convert_to_numpy(generator.state).tolist()
    if "torch" in sys.modules:
        states["torch"] = sys.modules["torch"].get_rng_state().numpy().tobytes().hex()
    return states


def set_states(states):
    """Set the process's random streams to what `get_states` returned."""
    if states["keras"] is not None:
        seed_generator.global_seed_generator().state.assign(states["keras"])
    if states["torch"] is not None and "torch" in sys.modules:
        torch = sys.modules["torch"]
        state = np.frombuffer(bytearray.fromhex(states["torch"]), dtype="uint8")
        torch.set_rng_state(torch.from_numpy(state))
    np.random.set_state(states["numpy"])
    version, words, gauss = states["python"]
    python_random.setstate((version, tuple(words), gauss))
