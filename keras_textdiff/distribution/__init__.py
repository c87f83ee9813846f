"""Models on many devices and in several processes.

On jax, on one machine or, with the first line, on each host of a TPU pod or GPU cluster:

```python
keras_textdiff.distribution.initialize()  # several hosts only: before anything else
mesh = keras.distribution.DeviceMesh(
    (num_devices, 1), ("batch", "model"), keras.distribution.list_devices()
)
layouts = keras_textdiff.distribution.layout_map("my_preset", mesh, fully_sharded=True)
keras.distribution.set_distribution(
    keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
    )
)
lm = keras_textdiff.models.DiffusionLM.from_preset("my_preset")
lm.compile(optimizer=keras.optimizers.AdamW(1e-4))
lm.fit(texts, batch_size=256)
```

- From scratch, pass the configuration to `layout_map`, a dict such as `transformer_config("base")`,
  and make the backbone and the `DiffusionLM` behind `set_distribution`.
- With `ar2diff`, convert once without a distribution, `lm.save_to_preset("my_preset")`, and go on
  as above. Where the source fits beside the model, `layout_map(ar2diff(source).backbone, mesh)`
  and `ar2diff(source)` again, behind `set_distribution`, will do as well.
- With several processes, examples in memory are the same in each, which trains on its part of every
  batch. Of a source of batches, each yields its own part: `keras_textdiff.data.mixture` and
  `pipeline` give a process its own rows. `predict`, `generate` and `score` return everything in
  every process; `save_to_preset` is called in all of them, and the first one writes.
- On torch, `initialize` is all there is: `fit` averages the gradients of the processes. On
  tensorflow, make and compile the model in the scope of a `tf.distribute.MirroredStrategy`, one for
  the whole script.
- Losses, generated tokens and scores are those of one device up to rounding. Batches that do not
  divide evenly are filled up with rows that do not count.
- Under data parallel, gradients are all that devices exchange, once for each denoiser call of the
  objective (SUNDAE with one unroll: twice), where XLA does not add them first; on CPU it does not.
- `enable_lora` and `quantize("int8")` keep the layout; other quantization does not.

Tested on 8 virtual CPU devices of one process, and in two processes with two each. TPUs, GPUs and
several hosts could not be tried. Commands for them: examples/distributed_training/README.md.
"""

from keras_textdiff.distribution.layout_map import layout_map
from keras_textdiff.distribution.plan_run import RunPlan, plan_run
from keras_textdiff.utils.initialize import initialize

__all__ = ["RunPlan", "initialize", "layout_map", "plan_run"]
