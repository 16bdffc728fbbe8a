"""The small transformer whose kernel is recorded, its problem and its descent."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attent_jax.teachers import full
from attent_jax.typing import Params, Teacher, TeacherState
from theory.attention_ntk import AttentionParams, attention
from theory.empirical_ntk import KernelFn, empirical_ntk
from theory.spectrum import max_learning_rate

OutputsFn = Callable[[Params, Float[Array, "n s D"]], Float[Array, "n"]]


class Problem(NamedTuple):
    """Sequences with targets: the noiseless outputs of another random transformer."""

    x: Float[Array, "pool s D"]
    y: Float[Array, "pool"]
    probe: Float[Array, "probe s D"]
    """Held-out sequences, on which kernels are recorded."""

    @property
    def points(self) -> Float[Array, "points s D"]:
        """The pool, then the probe set."""
        return jnp.concatenate([self.x, self.probe])


def make_problem(
    seed: Any, num_pool: int, num_probe: int, num_tokens: int, num_features: int = 8
) -> Problem:
    """Gaussian tokens; targets of variance 1 over the pool."""
    keys = jax.random.split(jax.random.key(seed), 2)
    shape = (num_pool + num_probe, num_tokens, num_features)
    x = jax.random.normal(keys[0], shape, float)
    target = init_params(keys[1], num_features, width=8, num_layers=1, num_heads=2)
    y = outputs(target, x[:num_pool])
    y = (y - y.mean()) / y.std()
    return Problem(x[:num_pool], y, x[num_pool:])


def make_problems(
    num_problems: int, num_pool: int, num_probe: int, num_tokens: int
) -> Problem:
    """The problems of seeds 0, 1, …, stacked: to map over."""

    @jax.jit
    def problems() -> Problem:
        return jax.lax.map(
            lambda seed: make_problem(seed, num_pool, num_probe, num_tokens),
            jnp.arange(num_problems),
        )

    return problems()


def init_params(
    rng: jax.Array, num_features: int, *, width: int, num_layers: int, num_heads: int
) -> Params:
    """Standard normal weights; `outputs` scales them (NTK parameterisation)."""
    keys = iter(jax.random.split(rng, 2 + 6 * num_layers))
    size = width // num_heads

    def draw(*shape: int) -> Array:
        return jax.random.normal(next(keys), shape, float)

    return {
        "embedding": draw(num_features, width),
        "blocks": [
            {
                "attention": AttentionParams(
                    w_q=draw(num_heads, width, size),
                    w_k=draw(num_heads, width, size),
                    w_v=draw(num_heads, width, size),
                    w_o=draw(num_heads, size, width),
                ),
                "mlp_in": draw(width, width),
                "mlp_out": draw(width, width),
            }
            for _ in range(num_layers)
        ],
        "readout": draw(width),
    }


def outputs(params: Params, x: Float[Array, "n s D"]) -> Float[Array, "n"]:
    """A transformer without norms or biases; one output, the mean over tokens.

    NTK parameterisation: each weight is divided by √fan_in when it is used.
    """
    width = len(params["readout"])
    h = x @ params["embedding"] / x.shape[-1] ** 0.5
    for block in params["blocks"]:
        scaled = jax.tree.map(lambda w: w / width**0.5, block)
        h = h + attention(scaled["attention"], h)
        h = h + jnp.tanh(h @ scaled["mlp_in"]) @ scaled["mlp_out"]
    return (h @ params["readout"]).mean(axis=1) / width**0.5


class Learner(NamedTuple):
    """A network that starts from f = 0 (its initial outputs are subtracted)."""

    params: Params
    """θ_0"""
    outputs_fn: OutputsFn
    """`(params, x) -> [n]`"""
    kernel_fn: KernelFn
    """Its ANTK, `[n, m]`."""


def make_learner(
    seed: Any,
    *,
    num_features: int = 8,
    width: int = 32,
    num_layers: int = 1,
    num_heads: int = 1,
    output_scale: Any = 1.0,
) -> Learner:
    """A fresh learner; f = α (f_θ − f_θ0), α being the output scale."""
    rng = jax.random.key(seed)
    shape = {"width": width, "num_layers": num_layers, "num_heads": num_heads}
    return _centred(outputs, init_params(rng, num_features, **shape), output_scale)


def make_layer(
    seed: Any, *, num_features: int = 8, width: int, num_heads: int
) -> Learner:
    """A learner that is one attention layer: one output, the mean over tokens."""
    size = width // num_heads
    w_q, w_k, w_v, w_o = (
        jax.random.normal(key, shape, float)
        for key, shape in zip(
            jax.random.split(jax.random.key(seed), 4),
            [(num_heads, num_features, size)] * 3 + [(num_heads, size, 1)],
            strict=True,
        )
    )
    params = AttentionParams(w_q, w_k, w_v, w_o)

    def layer_outputs(params_now: Params, x: Array) -> Array:
        q, k, v = (w / num_features**0.5 for w in params_now[:3])
        layer = AttentionParams(q, k, v, params_now.w_o / width**0.5)
        return attention(layer, x)[..., 0].mean(axis=1)

    return _centred(layer_outputs, params)


def _centred(outputs_fn: OutputsFn, params: Params, output_scale: Any = 1.0) -> Learner:
    def centred(params_now: Params, x: Array) -> Array:
        return output_scale * (outputs_fn(params_now, x) - outputs_fn(params, x))

    return Learner(params, centred, empirical_ntk(centred, trace_axes=()))


class Training(NamedTuple):
    """The state of a descent."""

    step: Array
    params: Params
    teaching: TeacherState


class Descent(NamedTuple):
    """Gradient descent on half the mean squared error of what a teacher selects."""

    init: Callable[[Params], Training]
    """`(params) -> training`"""
    step: Callable[[Training, Any], Training]
    """`(training, learning_rate) -> training`"""
    run: Callable[[Training, Any, Any], Training]
    """`(training, learning_rate, num_steps) -> training`, jitted."""


def descend(
    learner: Learner,
    problem: Problem,
    teacher: Teacher | None = None,
    *,
    seed: Any = 0,
    score_fn: Callable[[Params, Array], Array] | None = None,
) -> Descent:
    """Each step is an epoch of the teacher: one step on its whole selection.

    Scores are the paper's, |f − y|, or `score_fn(params, residuals)`.
    """
    teacher = teacher or full()
    num_examples = len(problem.y)
    rng = jax.random.key(seed)

    def init(params: Params) -> Training:
        return Training(jnp.zeros((), int), params, teacher.init(num_examples))

    def step(training: Training, learning_rate: Any) -> Training:
        f, pull_back = jax.vjp(
            lambda params: learner.outputs_fn(params, problem.x), training.params
        )
        residual = f - problem.y
        scores = (
            jnp.abs(residual)
            if score_fn is None
            else score_fn(training.params, residual)
        )
        teaching, _ = teacher.update(
            jax.random.fold_in(rng, training.step), training.teaching, scores
        )
        selection = teaching.selection
        weights = jnp.zeros(num_examples, f.dtype)
        weights = weights.at[selection.indices].set(selection.weights.astype(f.dtype))
        num_selected = selection.num_selected.astype(f.dtype)
        (gradient,) = pull_back(residual * weights / num_selected)
        params = jax.tree.map(
            lambda leaf, slope: leaf - learning_rate * slope, training.params, gradient
        )
        return Training(training.step + 1, params, teaching)

    @jax.jit
    def run(training: Training, learning_rate: Any, num_steps: Any) -> Training:
        return jax.lax.fori_loop(
            0, num_steps, lambda _, state: step(state, learning_rate), training
        )

    return Descent(init, step, run)


def stable_learning_rate(learner: Learner, problem: Problem) -> Float[Array, ""]:
    """N/λ_max of the initial kernel: half the rate at which a constant one diverges."""
    return max_learning_rate(learner.kernel_fn(learner.params, problem.x)) / 2


def log_spaced(num_steps: int, per_decade: int = 6) -> list[int]:
    """0, then logarithmically spaced steps up to the last."""
    num = max(2, round(per_decade * math.log10(num_steps)) + 1)
    steps = np.geomspace(1, num_steps, num)
    return sorted({0, num_steps, *np.round(steps).astype(int).tolist()})
