"""LoRA and quantization: a trained model goes on with other weights."""

import warnings

import keras

from keras_textdiff.utils.checks import check_integer

LORA_LAYERS = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding)


class ChangedWeights:
    """Exchanges weights of a model's backbone; a plain mixin that stands before a `keras.Model`."""

    def enable_lora(self, rank, target_layer_names=None):
        """Freeze the model and train low-rank updates of its query and value layers.

        The optimizer starts anew: what it has learned belongs to other weights.

        Args:
            rank: int, rank of the updates.
            target_layer_names: list of layer names, or None for query and value.

        Raises:
            ValueError: for a rank below 1, or a name that no dense or embedding layer has.

        Reference: Hu et al. 2021, arXiv 2106.09685.
        """
        check_integer("rank", rank, minimum=1)
        layers = self.backbone._flatten_layers(include_self=False)
        allowed = sorted({layer.name for layer in layers if isinstance(layer, LORA_LAYERS)})
        names = target_layer_names
        if names is not None and (not names or not set(names) <= set(allowed)):
            raise ValueError(f"`target_layer_names` must be among {allowed}. Got {names!r}.")
        self.backbone.enable_lora(rank, target_layer_names=names)
        self._start_anew()

    def quantize(self, mode, **kwargs):
        """Quantize the backbone's weights.

        The optimizer starts anew: what it has learned belongs to other weights.

        Args:
            mode: "int8" for one byte each, or another mode of `keras.Model.quantize`.
            **kwargs: see `keras.Model.quantize`.
        """
        with warnings.catch_warnings():  # layers without weights have nothing to quantize
            warnings.filterwarnings("ignore", message=r"Layer .* does not have a `quantize`")
            self.backbone.quantize(mode, **kwargs)
        self._start_anew()

    def _start_anew(self):
        """Forget what was compiled for, or learned about, weights that are others now."""
        self.train_function = self.test_function = self.predict_function = None
        if self.compiled:
            self.optimizer = self.optimizer.from_config(self.optimizer.get_config())
