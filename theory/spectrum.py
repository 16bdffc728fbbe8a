"""The spectrum of a kernel: how fast it learns, and in how many directions."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from theory._checks import warn_unless_float64
from theory.layout import as_matrix


class Spectrum(NamedTuple):
    """Eigenvalues of a kernel matrix, and summaries of them."""

    eigenvalues: Float[Array, "outputs"]
    """`[outputs]` in descending order. Under gradient descent an error along the i-th
    eigenvector shrinks by 1 − ηλᵢ/N per step."""
    effective_rank: Float[Array, ""]
    """exp of the entropy of λ/Σλ (Roy & Vetterli, 2007): from 1 to the number of
    outputs."""
    participation_ratio: Float[Array, ""]
    """(Σλ)²/Σλ²: like effective_rank, but less sensitive to small eigenvalues."""
    condition_number: Float[Array, ""]
    """Largest / smallest eigenvalue; inf if the kernel is singular up to rounding."""


def spectrum(kernel: Float[Array, "n n ..."]) -> Spectrum:
    """The spectrum of a symmetric kernel, in any layout of `theory.layout`.

    Eigenvalues below rounding (outputs × machine epsilon × the largest) count as 0. The
    ranks of the zero kernel are NaN.

    Args:
      kernel: the kernel of examples with themselves.

    Raises:
      ValueError: if the kernel is not square.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.spectrum import spectrum
      >>> found = spectrum(jnp.diag(jnp.array([3.0, 3.0, 0.0])))
      >>> print(f"{found.effective_rank:.1f} of 3 directions")
      2.0 of 3 directions
    """
    warn_unless_float64("the spectrum", kernel)
    matrix = square_matrix(kernel)
    eigenvalues = jnp.linalg.eigvalsh(matrix)[::-1]
    # NaN (from a network that diverged) stays NaN.
    eigenvalues = jnp.where(eigenvalues <= rounding(eigenvalues), 0, eigenvalues)
    shares = eigenvalues / eigenvalues.sum()
    entropy = -jnp.sum(shares * jnp.log(jnp.where(shares > 0, shares, 1)))
    return Spectrum(
        eigenvalues=eigenvalues,
        effective_rank=jnp.exp(entropy),
        participation_ratio=1 / jnp.sum(shares**2),
        condition_number=eigenvalues[0] / eigenvalues[-1],
    )


def rounding(eigenvalues: Float[Array, "outputs"]) -> Float[Array, ""]:
    """Eigenvalues of the matrix below this are 0 up to rounding."""
    eps = jnp.finfo(eigenvalues.dtype).eps
    return len(eigenvalues) * eps * jnp.abs(eigenvalues).max()


def max_learning_rate(kernel: Float[Array, "n n ..."]) -> Float[Array, ""]:
    """The step size 2N/λ_max above which full-batch descent on ½·MSE diverges.

    The loss is the mean over N examples of half the squared error, the kernel constant.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.spectrum import max_learning_rate
      >>> float(max_learning_rate(4 * jnp.eye(3)))
      1.5
    """
    matrix = square_matrix(kernel)
    return 2 * kernel.shape[0] / jnp.linalg.eigvalsh(matrix)[-1]


def square_matrix(kernel: Float[Array, "n n ..."]) -> Float[Array, "outputs outputs"]:
    """The kernel of examples with themselves as a symmetric matrix.

    Raises:
      ValueError: if the kernel is not square.
    """
    matrix = as_matrix(kernel)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"kernel has shape {kernel.shape}, between different outputs: pass that of "
            f"some examples with themselves."
        )
    return (matrix + matrix.T) / 2
