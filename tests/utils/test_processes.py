import keras

from keras_textdiff.utils.processes import process_index_and_count


def test_a_process_of_its_own():
    assert process_index_and_count() == (0, 1)
    assert keras.config.backend() in ("jax", "tensorflow", "torch")
