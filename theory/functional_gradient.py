"""Descent and teaching in function space, under any kernel.

Paper, Sec. 3-4: functional gradient descent changes the learner's function itself,
f ← f − (η/N) Σᵢ K(·, Sᵢ) ∂L/∂f(Sᵢ). Gradient descent on the parameters does the same to
first order in η, with K = K_θ, the ANTK. A greedy teacher selects the examples on which
f is furthest from f*.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attent_jax.typing import Batch, Params, SelectFn
from theory._checks import check_count, warn_unless_float64
from theory.empirical_ntk import DeterministicApplyFn
from theory.layout import kernel_product
from theory.spectrum import rounding, square_matrix

FunctionalGradientFn = Callable[[Float[Array, "n ..."]], Float[Array, "n ..."]]
"""∂ℓᵢ/∂f(Sᵢ) of each example's loss, given the outputs on the pool. For half the
squared error it is `outputs - targets`."""


class DescentState(NamedTuple):
    """The function's values on the points."""

    step: Int[Array, ""]
    """`[]` steps taken."""
    outputs: Float[Array, "points ..."]
    """`[points, ...]` values on the pool of N examples, then on any others."""


class FunctionalDescent(NamedTuple):
    """Gradient descent in function space."""

    init: Callable[[Float[Array, "points ..."]], DescentState]
    """`(outputs) -> state`"""
    functional_gradient: Callable[[DescentState], Float[Array, "pool ..."]]
    """`(state) -> [N, ...]` ∂ℓᵢ/∂f(Sᵢ) on the pool."""
    step: Callable[[DescentState, Float[Array, "pool"]], DescentState]
    """`(state, weights[N]) -> state`: descends on Σᵢ weightsᵢ ℓᵢ. Weights of 1/N are
    the full batch; weights of 1/m on m selected examples are a teacher's step."""


def functional_gradient_descent(
    kernel: Float[Array, "points pool ..."],
    functional_gradient_fn: FunctionalGradientFn,
    learning_rate: float | Float[Array, ""],
) -> FunctionalDescent:
    """Gradient descent on a function along a fixed kernel.

    Args:
      kernel: `[points, N, ...]`, in the layout of `theory.layout`, between all points
        (the pool first) and the pool.
      functional_gradient_fn: ∂ℓ/∂f on the pool.
      learning_rate: η.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.functional_gradient import functional_gradient_descent
      >>> targets = jnp.array([1.0, -1.0])
      >>> descent = functional_gradient_descent(
      ...     jnp.eye(2), lambda outputs: outputs - targets, learning_rate=1.0)
      >>> descent.step(descent.init(jnp.zeros(2)), jnp.ones(2) / 2).outputs.tolist()
      [0.5, -0.5]
    """
    num_pool = kernel.shape[1]

    def init(outputs: Array) -> DescentState:
        if outputs.shape[:1] != kernel.shape[:1]:
            raise ValueError(
                f"outputs has shape {outputs.shape}, but kernel, of shape "
                f"{kernel.shape}, is on {kernel.shape[0]} points: pass one row for "
                f"each, the pool's first."
            )
        return DescentState(jnp.zeros((), int), jnp.asarray(outputs, kernel.dtype))

    def functional_gradient(state: DescentState) -> Array:
        return functional_gradient_fn(state.outputs[:num_pool])

    def step(state: DescentState, weights: Array) -> DescentState:
        if jnp.shape(weights) != (num_pool,):
            raise ValueError(
                f"weights has shape {jnp.shape(weights)}, but the pool has {num_pool} "
                f"examples: pass one weight for each, such as 1/{num_pool}."
            )
        gradient = functional_gradient(state)
        weighted = gradient * weights.reshape(-1, *[1] * (gradient.ndim - 1))
        move = learning_rate * kernel_product(kernel, weighted)
        return DescentState(state.step + 1, state.outputs - move)

    return FunctionalDescent(init, functional_gradient, step)


def teach_function(
    descent: FunctionalDescent,
    outputs: Float[Array, "points ..."],
    select_fn: SelectFn,
    *,
    num_selected: int,
    num_steps: int,
    rng: jax.Array,
    score_fn: Callable[[Float[Array, "pool ..."]], Float[Array, "pool"]] | None = None,
) -> tuple[DescentState, Float[Array, "num_steps pool ..."]]:
    """Teach in function space: descend on a new selection at every step.

    `selectors.top_k()` is the paper's greedy teacher, `gumbel_top_k` the soft one, and
    `uniform` the random control. The steps are a scan: jit the call if you repeat it.

    Args:
      descent: from `functional_gradient_descent`.
      outputs: the function's initial values.
      select_fn: selects examples by their scores.
      num_selected: m, the number of examples per step; the loss is their mean.
      num_steps: number of steps.
      rng: a typed key; step t uses `fold_in(rng, t)`.
      score_fn: `(functional_gradient[N, ...]) -> [N]`. None: its norm, for half the
        squared error ‖f(Sᵢ) − f*(Sᵢ)‖ (paper, Alg. 1).

    Returns:
      The last state, and the functional gradient before each step,
      `[num_steps, N, ...]`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attent_jax import selectors
      >>> from theory.functional_gradient import (
      ...     functional_gradient_descent, teach_function)
      >>> targets = jnp.array([3.0, 1.0])
      >>> descent = functional_gradient_descent(
      ...     jnp.eye(2), lambda outputs: outputs - targets, learning_rate=1.0)
      >>> state, _ = teach_function(descent, jnp.zeros(2), selectors.top_k(),
      ...     num_selected=1, num_steps=1, rng=jax.random.key(0))
      >>> state.outputs.tolist()  # the example with the largest error
      [3.0, 0.0]
    """
    check_count("num_selected", num_selected)
    check_count("num_steps", num_steps)
    score = score_fn or _norms

    def step(state: DescentState, _) -> tuple[DescentState, Array]:
        gradient = descent.functional_gradient(state)
        selection = select_fn(
            jax.random.fold_in(rng, state.step), score(gradient), num_selected
        )
        weights = jnp.zeros(len(gradient), gradient.dtype)
        selected = selection.weights.astype(weights.dtype)
        weights = weights.at[selection.indices].set(selected)
        return descent.step(state, weights / weights.sum()), gradient

    return jax.lax.scan(step, descent.init(outputs), length=num_steps)


def predict_mse(
    kernel: Float[Array, "pool pool ..."],
    outputs: Float[Array, "pool ..."],
    targets: Float[Array, "pool ..."],
    *,
    learning_rate: float | Float[Array, ""] = 1.0,
    num_steps: float = math.inf,
    kernel_to_points: Float[Array, "points pool ..."] | None = None,
    outputs_on_points: Float[Array, "points ..."] | None = None,
) -> Float[Array, "points ..."]:
    """The function after full-batch descent on half the mean squared error.

    f_T(z) = f_0(z) + K(z, X) K⁻¹ (1 − (1 − ηK/N)^T) (y − f_0(X)); directions
    with eigenvalue 0 do not change.

    Args:
      kernel: `[N, N, ...]` on the pool.
      outputs: f_0 on the pool.
      targets: y.
      learning_rate: η; any η below 2N/λ_max has the same limit.
      num_steps: T, a whole Python number; inf for the limit (ridgeless kernel
        regression).
      kernel_to_points: `[points, N, ...]` from the pool to where f is predicted, with
        `outputs_on_points` f_0 there. None: on the pool.

    Raises:
      ValueError: if only one of the last two is given, shapes do not match, the kernel
        is not square, or `num_steps` is negative or not whole.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.functional_gradient import predict_mse
      >>> predict_mse(jnp.eye(2), jnp.zeros(2), jnp.array([3.0, 1.0])).tolist()
      [3.0, 1.0]
    """
    if (kernel_to_points is None) != (outputs_on_points is None):
        raise ValueError(
            "kernel_to_points and outputs_on_points go together: pass both or neither."
        )
    if jnp.shape(targets) != jnp.shape(outputs):
        raise ValueError(
            f"targets has shape {jnp.shape(targets)} and outputs {jnp.shape(outputs)}: "
            f"pass one target per output."
        )
    if not (num_steps >= 0 and (num_steps == math.inf or num_steps % 1 == 0)):
        # An error with ηλ/N > 1 changes its sign at every step: none lies between.
        raise ValueError(
            f"num_steps must be 0 or more and whole, or inf, got {num_steps}: descent "
            f"takes whole steps."
        )
    matrix = square_matrix(kernel)
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    num_examples = kernel.shape[0]
    is_learned = eigenvalues > rounding(eigenvalues)
    safe = jnp.where(is_learned, eigenvalues, 1)
    if num_steps == math.inf:
        learned = 1 / safe
    else:
        learned = (1 - (1 - learning_rate * safe / num_examples) ** num_steps) / safe
    errors = (targets - outputs).reshape(len(matrix), -1)
    moved = vectors @ (
        jnp.where(is_learned, learned, 0)[:, None] * (vectors.T @ errors)
    )
    moved = moved.reshape(targets.shape)
    if kernel_to_points is None or outputs_on_points is None:
        return outputs + kernel_product(kernel, moved)
    if kernel_to_points.shape[0] != outputs_on_points.shape[0]:
        raise ValueError(
            f"kernel_to_points is to {kernel_to_points.shape[0]} points, "
            f"outputs_on_points has {outputs_on_points.shape[0]}: pass the same points."
        )
    return outputs_on_points + kernel_product(kernel_to_points, moved)


def consistency_residual(
    apply_fn: DeterministicApplyFn,
    functional_gradient_fn: FunctionalGradientFn,
    params: Params,
    x: Batch,
    learning_rate: float | Float[Array, ""],
    points: Batch | None = None,
) -> Float[Array, ""]:
    """Relative difference between a step of the parameters and one of the function.

    ‖Δf + (η/N) K_θ g‖ / ‖(η/N) K_θ g‖, where Δf is the change of the outputs by a
    gradient step on the mean loss. It is O(η): functional and parameter descent agree
    in the limit (paper, Sec. 3).

    Args:
      apply_fn: `(params, x) -> [n, ...]`.
      functional_gradient_fn: g = ∂ℓ/∂f on the pool.
      params: θ.
      x: the pool, N examples.
      learning_rate: η.
      points: the points to compare f on. None: the pool.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.functional_gradient import consistency_residual
      >>> def apply_fn(params, x):  # linear in its parameters: both are the same
      ...     return x @ params
      >>> residual = consistency_residual(
      ...     apply_fn, lambda f: f - 1, jnp.zeros(3), jnp.eye(3), learning_rate=0.5)
      >>> bool(residual < 1e-12)
      True
    """
    warn_unless_float64("the consistency residual", params)
    points = x if points is None else points
    outputs, pull_back = jax.vjp(lambda params: apply_fn(params, x), params)
    gradient = functional_gradient_fn(outputs) / outputs.shape[0]
    (direction,) = pull_back(gradient)
    step = jax.tree.map(lambda leaf: -learning_rate * leaf, direction)

    def outputs_at(params: Params) -> Array:
        return apply_fn(params, points)

    before, expected = jax.jvp(outputs_at, (params,), (step,))
    after = outputs_at(jax.tree.map(jnp.add, params, step))
    return jnp.linalg.norm(after - before - expected) / jnp.linalg.norm(expected)


def _norms(gradient: Float[Array, "pool ..."]) -> Float[Array, "pool"]:
    return jnp.linalg.norm(gradient.reshape(len(gradient), -1), axis=1)
