"""Objectives of users: what `fit` makes of the least that one may return."""

import numpy as np

from keras_textdiff.objectives import Objective
from keras_textdiff.objectives.cross_entropy import masked_mean_weights
from tests import tiny


class Plain(Objective):
    """The cross-entropy of clean tokens times a number, without a metric."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, denoiser, batch):
        token_ids = batch["token_ids"]
        weights, _ = masked_mean_weights(batch["target_mask"])
        loss, _, _ = denoiser.cross_entropy(denoiser.hidden_states(token_ids), token_ids, weights)
        return loss * self.scale, {}

    def get_config(self):
        return {"scale": self.scale}


def test_no_metrics_and_losses_that_are_not_finite():
    lm = tiny.diffusion_lm()
    losses = {}
    for scale in (1.0, 2.0, np.inf):
        lm.compile(objective=Plain(scale), jit_compile=tiny.JIT)
        results = lm.evaluate(tiny.inputs(4, 12), verbose=0, return_dict=True)
        assert set(results) == {"loss"}
        losses[scale] = results["loss"]
    np.testing.assert_allclose(losses[2.0], 2 * losses[1.0], rtol=1e-5)
    assert losses[np.inf] == np.inf  # not NaN
