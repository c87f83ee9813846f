"""How long writing takes: AR decoding with a cache against diffusion, with random weights.

Weights change what is written, not how long it takes: all tokens and all steps are run, and a text
ends nowhere.
"""

import statistics
import time

import keras
import numpy as np

from keras_textdiff import ar2diff
from keras_textdiff.models import CausalLM
from keras_textdiff.samplers import SundaeSampler
from reproduction.models import jit_compile

PROMPT_LENGTH = 8
REPEATS = 3


def measure(models, stage):
    """Return the seconds for one text, as a median, and the single measurements.

    Args:
        models: `Models`.
        stage: `plan.Timing`.
    """
    generate = _make_writer(models, stage)
    generate()  # compiles
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        generate()
        seconds.append(time.perf_counter() - start)
    return {"seconds_per_text": statistics.median(seconds), "measurements": seconds}


def _make_writer(models, stage):
    causal_lm = CausalLM(models.backbone("decoder", stage.size, "causal"))
    length = PROMPT_LENGTH + stage.length
    inputs = {
        "token_ids": np.ones((1, length), "int32"),
        "padding_mask": np.arange(length)[None] < PROMPT_LENGTH,
    }
    if not stage.steps:
        causal_lm.compile(sampler="greedy", jit_compile=jit_compile())
        return lambda: keras.ops.convert_to_numpy(
            causal_lm.generate(dict(inputs), stop_token_ids=None)["token_ids"]
        )
    lm = ar2diff(causal_lm)
    sampler = SundaeSampler(stage.steps, num_canvases=1, stop_when_unchanged=False)
    lm.compile(sampler=sampler, jit_compile=jit_compile())
    return lambda: lm.generate(dict(inputs), stop_token_ids=None, seed=0)["token_ids"]
