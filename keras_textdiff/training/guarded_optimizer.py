"""An optimizer that does not take the steps that ruin a run."""

import keras
from keras import ops

from keras_textdiff.utils.checks import check_integer, check_number
from keras_textdiff.utils.registration import register
from keras_textdiff.utils.replicas import num_replicas


@register
class GuardedOptimizer(keras.optimizers.Optimizer):
    """Skips updates whose gradient is not finite, or far larger than usual.

    A skipped step changes neither weights nor the inner optimizer's state. Clip, average,
    accumulate and schedule with the inner optimizer's own arguments (`global_clipnorm`, `use_ema`,
    `gradient_accumulation_steps`, `learning_rate`).

    Args:
        optimizer: `keras.Optimizer`, its name or config.
        spike_factor: float above 1, or None. A gradient whose global norm is more than this many
            times the running mean of those before is a spike; None skips only what is not finite.
        warm_up_steps: int, accepted steps before spikes are looked for.
        momentum: float in [0, 1), of the running mean.
        name: str or None.

    Attributes:
        num_skipped: int variable, steps skipped so far.
        num_skipped_in_a_row: int variable, steps skipped since the last one that was taken.

    Raises:
        ValueError: for a factor, a number of steps or a momentum outside its range, or an
            optimizer that is guarded already.

    Example:
    ```python
    optimizer = GuardedOptimizer(keras.optimizers.AdamW(1e-4, global_clipnorm=1.0))
    lm.compile(objective="sundae", optimizer=optimizer)
    ```

    Reference: Chowdhery et al. 2022, arXiv 2204.02311, section 5.1 (steps around a loss spike are
    skipped).
    """

    def __init__(
        self, optimizer, spike_factor=10.0, warm_up_steps=100, momentum=0.98, name=None, **kwargs
    ):
        if kwargs:
            raise ValueError(
                f"GuardedOptimizer does not take {sorted(kwargs)}. Pass them to the one inside."
            )
        optimizer = keras.optimizers.get(optimizer)
        if isinstance(optimizer, GuardedOptimizer):
            raise ValueError("The optimizer is guarded already. Pass the optimizer inside.")
        super().__init__(learning_rate=0.0, name=name)
        if spike_factor is not None:
            check_number("spike_factor", spike_factor, minimum=1)
        self.inner_optimizer = optimizer
        self.spike_factor = spike_factor
        self.warm_up_steps = check_integer("warm_up_steps", warm_up_steps, minimum=1)
        self.momentum = check_number("momentum", momentum, minimum=0, maximum=0.9999)

    def build(self, variables):
        """Make the variables of both optimizers."""
        if keras.config.backend() == "tensorflow" and num_replicas() > 1:
            raise ValueError(
                "GuardedOptimizer cannot skip steps of a tf.distribute strategy: its replicas "
                "would have to agree. Compile with the optimizer inside, or train on one device."
            )

        def add(name, dtype):
            return self.add_variable(
                shape=(), dtype=dtype, initializer="zeros", aggregation="none", name=name
            )

        self.mean_norm = add("mean_norm", "float32")
        self.num_accepted = add("num_accepted", "int32")
        self.num_skipped = add("num_skipped", "int32")
        self.num_skipped_in_a_row = add("num_skipped_in_a_row", "int32")
        self.inner_optimizer.build(variables)
        super().build(variables)

    @property
    def variables(self):
        """The variables of both optimizers."""
        return [*self._variables, *self.inner_optimizer.variables]

    def apply(self, grads, trainable_variables=None):
        """Update the variables, unless the gradients are bad."""
        if not self.built:
            self.build(trainable_variables)
        norm = _global_norm(grads)
        ops.cond(
            self._is_good(norm),
            lambda: self._accept(
                norm, lambda: self.inner_optimizer.apply(grads, trainable_variables)
            ),
            self._skip,
        )

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """Return updated `(trainable_variables, optimizer_variables)`; see `keras.Optimizer`."""
        self._check_built()
        count = len(self._variables)
        own, inner = optimizer_variables[:count], optimizer_variables[count:]
        mapping = list(zip(self._variables, own, strict=True))

        def values(scope):
            return [scope.get_current_value(variable) for variable in self._variables]

        def accept():
            with keras.StatelessScope(state_mapping=mapping) as scope:
                self._accept(norm, lambda: None)
            updated, new_inner = self.inner_optimizer.stateless_apply(
                inner, grads, trainable_variables
            )
            return list(updated), [*values(scope), *new_inner]

        def skip():
            with keras.StatelessScope(state_mapping=mapping) as scope:
                self._skip()
            return list(trainable_variables), [*values(scope), *inner]

        norm = _global_norm(grads)
        with keras.StatelessScope(state_mapping=mapping):
            is_good = self._is_good(norm)
        return ops.cond(is_good, accept, skip)

    def _is_good(self, norm):
        finite = ops.isfinite(norm)
        if self.spike_factor is None:
            return finite
        usual = norm <= self.spike_factor * ops.convert_to_tensor(self.mean_norm)
        early = ops.convert_to_tensor(self.num_accepted) < self.warm_up_steps
        return ops.logical_and(finite, ops.logical_or(early, usual))

    def _accept(self, norm, apply):
        apply()
        # A plain mean at first, so that the zero it starts from does not count.
        count = ops.cast(self.num_accepted, "float32")
        momentum = ops.minimum(self.momentum, count / (count + 1.0))
        self.mean_norm.assign(momentum * self.mean_norm + (1.0 - momentum) * norm)
        self.num_accepted.assign(self.num_accepted + 1)
        self.num_skipped_in_a_row.assign(0)

    def _skip(self):
        self.num_skipped.assign(self.num_skipped + 1)
        self.num_skipped_in_a_row.assign(self.num_skipped_in_a_row + 1)

    def _check_built(self):
        if not self.built:
            raise ValueError("Call `build` with the trainable variables before `stateless_apply`.")

    @property
    def learning_rate(self):
        """The inner optimizer's."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        """The steps that the inner optimizer took."""
        return self.inner_optimizer.iterations

    def scale_loss(self, loss):
        """Return the loss as the inner optimizer scales it."""
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        """Set the final values of the inner optimizer, of averaged weights for example."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            "optimizer": keras.optimizers.serialize(self.inner_optimizer),
            "spike_factor": self.spike_factor,
            "warm_up_steps": self.warm_up_steps,
            "momentum": self.momentum,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Return the optimizer that `get_config` describes."""
        config = dict(config)
        inner = keras.optimizers.deserialize(config.pop("optimizer"), custom_objects)
        return cls(inner, **config)


def _global_norm(gradients):
    """Return the norm of all gradients together in float32; not finite where one of them is not."""
    squares = [
        ops.sum(ops.square(ops.cast(gradient, "float32")))
        for gradient in gradients
        if gradient is not None
    ]
    return ops.sqrt(sum(squares))
