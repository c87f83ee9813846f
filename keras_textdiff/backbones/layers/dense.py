"""Keras' dense layers, with the product of `utils.dense`, which knows each backend's fastest.

Names, weights, LoRA and quantization are those of the Keras layers.
"""

import math

import keras
from keras import ops

from keras_textdiff.utils.dense import activate, dense
from keras_textdiff.utils.int8_dense import EPSILON, LARGEST, int8_dense
from keras_textdiff.utils.registration import register
from keras_textdiff.utils.weights_follow import start_from


class OwnLayer:
    """What subclasses of Keras' layers need here; a mixin that stands before such a layer."""

    def add_weight(self, *, initializer=None, **kwargs):
        """Add a weight, without random values where others follow."""
        return super().add_weight(initializer=start_from(initializer), **kwargs)

    def quantize(self, mode=None, type_check=True, **kwargs):
        """Quantize the weights; Keras refuses subclasses, because their calls could differ."""
        super().quantize(mode, type_check=False, **kwargs)

    def rounds_inputs(self):
        """Return whether int8 inputs meet int8 weights, as `quantize("int8")` sets it up."""
        quantizer = self.inputs_quantizer
        return (
            type(quantizer) is keras.quantizers.AbsMaxQuantizer
            and tuple(quantizer.value_range) == (-LARGEST, LARGEST)
            and quantizer.axis in (None, (-1,))
            and quantizer.epsilon == EPSILON
            and quantizer.output_dtype == "int8"
        )

    def is_quantized_by_mode(self):
        """Return whether the mode alone says how inputs are quantized, as a preset stores it."""
        if self.quantization_mode == "int8":
            return self.rounds_inputs()
        if self.quantization_mode == "int4":
            return self.inputs_quantizer is None
        return self.quantization_mode in (None, "float8")


@register
class Dense(OwnLayer, keras.layers.Dense):
    """A dense layer on rows, whose activation may be part of the product.

    Args:
        units: int M, size of the outputs.
        activation: "silu", "gelu", "gelu_tanh", "relu" or None.
        **kwargs: see `keras.layers.Dense`.

    Call arguments:
        inputs: float tensor `(N, K)`.

    Example:
    ```python
    Dense(16, activation="gelu_tanh")(np.ones((8, 4)))  # (8, 16)
    ```
    """

    def __init__(self, units, activation=None, **kwargs):
        super().__init__(units, **kwargs)
        self.activation_name = activation

    def call(self, inputs, training=None):
        """Return the float outputs."""
        return dense(inputs, self.kernel, self.bias, self.activation_name, training)

    def quantized_call(self, *args, **kwargs):
        """Return the outputs with quantized weights."""
        if self.quantization_mode == "int8" and self.rounds_inputs():
            return self._own_int8_call(*args, **kwargs)
        return activate(super().quantized_call(*args, **kwargs), self.activation_name)

    def _own_int8_call(self, inputs, training=None):
        bias = self.bias
        if self.lora_enabled:
            lora = ops.matmul(ops.matmul(inputs, self.lora_kernel_a), self.lora_kernel_b)
            lora = self.lora_alpha / self.lora_rank * lora
            bias = lora if bias is None else bias + lora
        return int8_dense(inputs, self._kernel, self.kernel_scale, bias, self.activation_name)

    def get_config(self):
        """Return the constructor's arguments."""
        return {**super().get_config(), "activation": self.activation_name}


@register
class Projection(OwnLayer, keras.layers.EinsumDense):
    """An `EinsumDense` over the last axes of its inputs, computed as a product of two matrices.

    Args:
        equation: str, whose summed axes are the inputs' last and the kernel's first, as in
            "bld,dnh->blnh".
        **kwargs: see `keras.layers.EinsumDense`.

    Example:
    ```python
    Projection("bld,dnh->blnh", output_shape=(None, 4, 16))(np.ones((2, 8, 64)))
    ```
    """

    def call(self, inputs, training=None):
        """Return the float outputs."""
        return self._as_product(inputs, self.kernel, self.bias, dense)

    def _int8_call(self, inputs, training=None):
        if not self.rounds_inputs():
            return super()._int8_call(inputs, training=training)

        def product(rows, kernel, bias):
            scale = ops.reshape(self.kernel_scale, (-1,))
            return int8_dense(rows, kernel, scale, bias)

        outputs = self._as_product(inputs, self._kernel, self.bias, product)
        if self.lora_enabled:
            lora = ops.einsum(self.equation, inputs, self.lora_kernel_a)
            lora = ops.matmul(lora, self.lora_kernel_b)
            outputs = outputs + self.lora_alpha / self.lora_rank * lora
        return outputs

    def _as_product(self, inputs, kernel, bias, product):
        kernel = ops.convert_to_tensor(kernel)
        of_inputs, of_kernel = self.equation.split("->")[0].split(",")
        num_summed = len(set(of_inputs) & set(of_kernel))
        summed, new = kernel.shape[:num_summed], kernel.shape[num_summed:]
        rows = ops.reshape(inputs, (-1, math.prod(summed)))
        bias = None if bias is None else ops.reshape(bias, (-1,))
        outputs = product(rows, ops.reshape(kernel, (math.prod(summed), math.prod(new))), bias)
        return ops.reshape(outputs, (*ops.shape(inputs)[:-num_summed], *new))


@register
class ReversibleEmbedding(OwnLayer, keras.layers.ReversibleEmbedding):
    """Keras' embedding whose reverse call turns hidden states `(..., D)` into logits `(..., V)`.

    Its name is that of the Keras layer because weights files name layers by their classes.

    Example:
    ```python
    embedding = ReversibleEmbedding(1000, 64)
    logits = embedding(embedding(np.ones((2, 8), "int32")), reverse=True)  # (2, 8, 1000)
    ```
    """

    def call(self, inputs, reverse=False):
        """Embed token ids, or project hidden states."""
        if not reverse or self.reverse_dtype is not None:
            return super().call(inputs, reverse=reverse)
        matrix = ops.transpose(self.embeddings) if self.tie_weights else self.reverse_embeddings
        return self._logits(inputs, matrix, dense)

    def _int8_call(self, inputs, reverse=False):
        if not reverse or not self.rounds_inputs():
            return super()._int8_call(inputs, reverse=reverse)
        if self.tie_weights:
            matrix, scale = ops.transpose(self._embeddings), self.embeddings_scale
        else:
            matrix, scale = self.reverse_embeddings, self.reverse_embeddings_scale
        scale = ops.reshape(scale, (-1,))
        return self._logits(inputs, matrix, lambda rows, matrix: int8_dense(rows, matrix, scale))

    def _int4_build(self, embeddings_shape, config=None):
        super()._int4_build(embeddings_shape, config)
        if config is None:  # Keras rounds inputs then, which it does not behind `quantize("int4")`
            self.inputs_quantizer = None

    def _logits(self, inputs, matrix, product):
        logits = product(ops.reshape(inputs, (-1, self.output_dim)), matrix)
        if self.logit_soft_cap is not None:
            logits = ops.tanh(logits / self.logit_soft_cap) * self.logit_soft_cap
        return ops.reshape(logits, (*ops.shape(inputs)[:-1], self.input_dim))
