"""The reverse step of uniform-state diffusion, compared with what a denoiser makes of it.

Shapes: N positions, V vocabulary. Symbols, per position: s before t, two neighbouring times
(step i and num_steps T give s = (i - 1)/T and t = i/T); alpha_s = 1 - s and alpha_t = 1 - t,
probabilities that a token survives until then; x0 clean token, xt token of the canvas.
"""

from keras import ops

from keras_textdiff.utils.categorical import most_likely


def posterior_divergence(logits, targets, canvas, steps, num_steps):
    """Return the divergence of the model's reverse step from the true one.

    KL(q(xs | xt, x0) || sum over x0' of p(x0' | xt) q(xs | xt, x0')) for
    q(xt | x0) = alpha_t [xt = x0] + (1 - alpha_t)/V. Both sides share the factor q(xt | xs),
    so that their ratio needs only p(x0' = xs | xt), and one sum over the vocabulary gives the
    divergence exactly. At step 1 it is the cross-entropy of x0.

    Args:
        logits: float tensor `(N, V)`, of p(x0 | xt).
        targets: int tensor `(N,)`, x0.
        canvas: int tensor `(N,)`, xt.
        steps: float32 tensor `(N,)`, i in [1, T].
        num_steps: float32 tensor `(N,)`, T.

    Returns:
        Float32 tensor `(N,)`, nats.

    Reference: Austin et al. 2021, arXiv 2107.03006, equations 3 and 4, appendix A.2.
    """
    size = float(logits.shape[-1])
    # All of these are ratios of whole numbers, so that none loses digits.
    s, t = (steps - 1.0) / num_steps, steps / num_steps
    alpha_s, alpha_t = (num_steps - steps + 1.0) / num_steps, (num_steps - steps) / num_steps
    stay = (num_steps - steps) / (num_steps - steps + 1.0)  # alpha_t / alpha_s
    leave = 1.0 / (num_steps - steps + 1.0)  # 1 - stay
    last = steps < 1.5
    s = ops.where(last, 0.5, s)  # any number but 0: the result at the last step is another

    log_p = ops.cast(logits, "float32")
    log_p = log_p - ops.logsumexp(log_p, axis=-1, keepdims=True)  # (N, V)
    p = ops.exp(log_p)
    # One minus a probability near 1 would keep no digit of what is left: sum up the others.
    best = most_likely(log_p)
    ids = ops.arange(logits.shape[-1], dtype="int32")
    not_best = ops.sum(ops.where(ids[None] == best[:, None], 0.0, p), axis=-1)
    same = targets == canvas
    log_p_target = _at(log_p, targets)
    p_target, p_canvas = ops.exp(log_p_target), ops.exp(_at(log_p, canvas))
    not_target = ops.where(targets == best, not_best, 1.0 - p_target)
    not_canvas = ops.where(canvas == best, not_best, 1.0 - p_canvas)

    # V q(xt | x0), where x0 is xt and where it is another token.
    marginal_same, marginal_other = size * alpha_t + t, t
    # Sum over x0' of p(x0' | xt) / (V q(xt | x0')).
    evidence = p_canvas / marginal_same + not_canvas / marginal_other
    marginal = ops.where(same, marginal_same, marginal_other)

    # The true posterior at x0, at xt where that is another token, and at all other tokens.
    scale = 1.0 / (size * marginal)
    mass_other = leave * s * scale
    mass_canvas = (size * stay + leave) * s * scale
    mass_target = (ops.where(same, size * stay, 0.0) + leave) * (size * alpha_s + s) * scale
    rest = ops.where(same, 0.0, mass_canvas) + mass_other * (size - ops.where(same, 1.0, 2.0))

    # log q/p is log(1/(marginal * evidence)) - gain(x) at all x but x0.
    gain_scale = size * alpha_s / (s * evidence)
    over_other = gain_scale / marginal_other
    gain_others = (
        ops.sum(ops.log1p(p * over_other[:, None]), axis=-1)
        - ops.log1p(p_target * over_other)
        - ops.where(same, 0.0, ops.log1p(p_canvas * over_other))
    )
    gain_canvas = ops.log1p(p_canvas * gain_scale / marginal_same)
    gained = mass_other * gain_others + ops.where(same, 0.0, mass_canvas * gain_canvas)

    # marginal * evidence = 1 + excess, and p/q at x0 = 1 - shortfall, both 0 for a perfect p.
    excess = ops.where(
        same,
        not_canvas * size * alpha_t / marginal_other,
        -p_canvas * size * alpha_t / marginal_same,
    )
    total = size * alpha_s + s
    shortfall = (size * alpha_s * not_target - s * excess) / total
    ratio = (size * alpha_s * p_target + s * marginal * evidence) / total
    log_ratio_target = -_log(ratio, shortfall)
    log_ratio_base = -_log(marginal * evidence, -excess)
    divergence = mass_target * log_ratio_target + rest * log_ratio_base - gained
    return ops.where(last, -log_p_target, divergence)


def _log(value, shortfall):
    """Return the logarithm of `value` = 1 - `shortfall`, exact near 1 and far from it."""
    near = ops.abs(shortfall) < 0.5
    return ops.where(
        near, ops.log1p(-ops.where(near, shortfall, 0.0)), ops.log(ops.where(near, 1.0, value))
    )


def _at(values, ids):
    return ops.take_along_axis(values, ids[:, None], axis=1)[:, 0]
