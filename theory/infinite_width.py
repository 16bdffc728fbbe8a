"""The analytic kernel of infinitely wide attention, and its finite approximations.

Hron et al., *Infinite attention: NNGP and NTK for deep attention networks* (2020): with
1/k logits and W_Q = W_K, the ANTK at initialisation has a limit as heads and sizes
grow, which neural-tangents computes. With 1/√k logits no closed form is known.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from theory._checks import check_count, warn_unless_float64
from theory._neural_tangents import known_warnings
from theory._neural_tangents import neural_tangents as nt
from theory.empirical_ntk import empirical_ntk


class WidthConvergence(NamedTuple):
    """Distances of finite networks' kernels from the limit."""

    widths: tuple[int, ...]
    """Widths w: w heads, with keys and values of size w."""
    errors: Float[np.ndarray, "seeds widths"]
    """`[seeds, widths]` relative Frobenius distance of one network's kernel."""
    error_of_mean: Float[np.ndarray, "widths"]
    """`[widths]` distance of the mean kernel over seeds."""
    slope: float
    """Slope of log mean error against log w; −1 means 1/√(heads × size)."""


def analytic_attention_ntk(
    x1: Float[Array, "n s D"], x2: Float[Array, "m t D"] | None = None
) -> Float[Array, "n m"]:
    """The limit kernel of one attention layer, averaged over tokens.

    One softmax layer with 1/k logits and W_Q = W_K, in NTK parameterisation, with mean
    pooling. The kernel is the same for each output.

    Args:
      x1: `[n, s, D]` sequences.
      x2: `[m, t, D]` sequences. None: x1.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.infinite_width import analytic_attention_ntk
      >>> analytic_attention_ntk(jnp.ones((3, 4, 2))).shape
      (3, 3)
    """
    _check_sequences("x1", x1)
    if x2 is not None:
        _check_sequences("x2", x2, num_features=x1.shape[2])
    with known_warnings():
        return _network(width=1)[2](x1, x2, "ntk")


def finite_width_convergence(
    x: Float[Array, "n s D"],
    *,
    widths: tuple[int, ...],
    num_seeds: int,
    rng: jax.Array,
) -> WidthConvergence:
    """Monte-Carlo distance of finite networks' kernels from the analytic one.

    Args:
      x: `[n, s, D]` sequences.
      widths: at least two; each is the number of heads and the size of each.
      num_seeds: number of networks per width.
      rng: a typed key.

    Raises:
      ValueError: if there are fewer than two widths or no seed.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from theory.infinite_width import finite_width_convergence
      >>> x = jax.random.normal(jax.random.key(0), (3, 4, 5))
      >>> found = finite_width_convergence(
      ...     x, widths=(2, 8), num_seeds=4, rng=jax.random.key(1))
      >>> bool(found.errors.mean(axis=0)[1] < found.errors.mean(axis=0)[0])
      True
    """
    if len(set(widths)) < 2:
        raise ValueError(f"widths={widths} must be two or more, for a slope.")
    for width in widths:
        check_count("widths", width)
    check_count("num_seeds", num_seeds)
    warn_unless_float64("the distance between kernels", x)
    limit = np.asarray(analytic_attention_ntk(x))
    keys = jax.random.split(rng, num_seeds)
    kernels = np.stack([_finite_ntks(x, width, keys) for width in widths], axis=1)
    scale = np.linalg.norm(limit)
    errors = np.linalg.norm(kernels - limit, axis=(-2, -1)) / scale
    error_of_mean = np.linalg.norm(kernels.mean(axis=0) - limit, axis=(-2, -1)) / scale
    slope, _ = np.polyfit(np.log(widths), np.log(errors.mean(axis=0)), 1)
    return WidthConvergence(tuple(widths), errors, error_of_mean, float(slope))


def _finite_ntks(x: Array, width: int, keys: jax.Array) -> np.ndarray:
    """`[seeds, n, n]` kernels of networks with `width` heads of that size."""
    init_fn, apply_fn, _ = _network(width)
    kernel_fn = empirical_ntk(apply_fn)

    @jax.jit
    def kernels() -> Array:
        with known_warnings():
            return jax.lax.map(lambda key: kernel_fn(init_fn(key, x.shape)[1], x), keys)

    return np.asarray(kernels())


def _check_sequences(name: str, x: Array, num_features: int | None = None) -> None:
    shape = np.shape(x)
    if len(shape) != 3 or 0 in shape or shape[2] != (num_features or shape[2]):
        raise ValueError(
            f"{name} has shape {shape}: pass sequences [n, s, D], none empty, of "
            f"{num_features or 'any number of'} features."
        )


def _network(width: int):
    return nt.stax.serial(
        nt.stax.GlobalSelfAttention(
            n_chan_out=1, n_chan_key=width, n_chan_val=width, n_heads=width
        ),
        nt.stax.GlobalAvgPool(),
    )
