import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.utils import one_pass
from keras_textdiff.utils.dense import ACTIVATIONS, dense
from keras_textdiff.utils.one_pass import in_one_pass, suits_one_pass
from keras_textdiff.utils.softmax_gradient import cross_entropies_and_gradient

X = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(5, 6)).astype("float32")


def product_of_tanh(x, y):
    return ops.tanh(x) * ops.tanh(y)


def rows_sum(x):
    return ops.sum(x, axis=-1)


def test_it_suits_nothing_that_runs_at_once():
    assert not suits_one_pass(ops.convert_to_tensor(X))


needs_tensorflow = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="Others compile a whole function or nothing."
)


@needs_tensorflow
@pytest.mark.parametrize("num_rows", [None, 5], ids=["any number of rows", "5 rows"])
def test_graph_has_one_compiled_operation_and_its_gradient_another(num_rows):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((num_rows, 6))] * 2)
    def run(x, y):
        with tf.GradientTape() as tape:
            tape.watch((x, y))
            result = in_one_pass(product_of_tanh, x, y)
            loss = tf.reduce_sum(result * x)
        return result, tape.gradient(loss, (x, y))

    result, (of_x, of_y) = run(X, Y)
    np.testing.assert_allclose(result, np.tanh(X) * np.tanh(Y), rtol=1e-5)
    slope_x, slope_y = 1 - np.tanh(X) ** 2, 1 - np.tanh(Y) ** 2
    expected = np.tanh(X) * np.tanh(Y) + X * slope_x * np.tanh(Y)
    np.testing.assert_allclose(of_x, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_y, X * np.tanh(X) * slope_y, rtol=1e-4, atol=1e-6)
    operations = run.get_concrete_function().graph.get_operations()
    calls = [operation for operation in operations if "PartitionedCall" in operation.type]
    assert [call.get_attr("_XlaMustCompile") for call in calls] == [True, True]
    assert "Tanh" not in {operation.type for operation in operations}


@needs_tensorflow
def test_inside_xla_and_on_accelerators_the_function_is_part_of_the_graph(monkeypatch):
    import tensorflow as tf

    signature = [tf.TensorSpec((5, 6))] * 2

    def run(x, y):
        def body(step, x):
            return step + 1, in_one_pass(product_of_tanh, x, y)

        return tf.while_loop(lambda step, x: step < 1, body, (0, x))[1]

    def has_tanh(jit_compile):
        function = tf.function(run, input_signature=signature, jit_compile=jit_compile)
        concrete = function.get_concrete_function()
        np.testing.assert_allclose(function(X, Y), np.tanh(X) * np.tanh(Y), rtol=1e-5)
        bodies = concrete.graph.as_graph_def().library.function
        return any(
            node.op == "Tanh"
            for body in bodies
            if not body.attr["_XlaMustCompile"].b
            for node in body.node_def
        )

    assert has_tanh(jit_compile=True)
    assert not has_tanh(jit_compile=False)
    monkeypatch.setattr(one_pass, "on_cpu", lambda tensor: False)
    assert has_tanh(jit_compile=False)


@needs_tensorflow
def test_calls_of_one_function_share_what_is_compiled():
    import tensorflow as tf

    num_traces = 0

    def counted(x):
        nonlocal num_traces
        num_traces += 1
        return ops.tanh(x)

    @tf.function
    def run(x):
        for _ in range(3):
            x = in_one_pass(counted, x)
        return x

    np.testing.assert_allclose(run(X), np.tanh(np.tanh(np.tanh(X))), rtol=1e-5)
    assert num_traces == 1


@needs_tensorflow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_xla_leaves_nothing_to_its_library(dtype, monkeypatch):
    """What the library makes of a reduction is not safe to call from several threads at once."""
    import tensorflow as tf

    programs = []

    def recorded(compiled):
        def call(*tensors):
            specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
            make = compiled.experimental_get_compiler_ir(*specs)
            programs.append(make(stage="optimized_hlo"))
            return compiled(*tensors)

        return call

    compiled = one_pass._compiled
    monkeypatch.setattr(one_pass, "_compiled", lambda f: tuple(map(recorded, compiled(f))))
    x = tf.zeros((512, 512), dtype)

    @tf.function
    def run(x):
        cross_entropies_and_gradient(x, tf.zeros((512,), "int32"), tf.zeros((512,)))
        results = [dense(x, x, activation=name, training=True) for name in ACTIVATIONS]
        return tf.gradients(results, x)

    run(x)
    assert len(programs) == 2 + 2 * len(ACTIVATIONS)
    assert not any("kind=kCustom" in program for program in programs)
    tf.function(lambda x: in_one_pass(rows_sum, x))(tf.zeros((512, 512)))
    assert "kind=kCustom" in programs[-1]
