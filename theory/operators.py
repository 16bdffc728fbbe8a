"""Kernels known only by their products: spectrum, trace, regression, step size.

A product function is `(values) -> values`, v -> K v for a symmetric kernel K that is
positive semidefinite, on arrays of any shape. `theory.empirical_ntk.ntk_vector_product`
makes one for the empirical ANTK without computing it:

    product_fn = ntk_vector_product(apply_fn)
    of_kernel = lambda values: product_fn(params, values, x)
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from theory._checks import check_count
from theory.spectrum import rounding

ProductFn = Callable[[Float[Array, "..."]], Float[Array, "..."]]
"""`(values) -> K values`, of the same shape."""


class LanczosSpectrum(NamedTuple):
    """The largest eigenvalues of an operator."""

    eigenvalues: Float[Array, "num_eigenvalues"]
    """`[num_eigenvalues]` in descending order."""
    error_bounds: Float[Array, "num_eigenvalues"]
    """`[num_eigenvalues]` ‖K u − λ u‖ of the approximate eigenvectors u: an eigenvalue
    of K is within this distance. The error is usually about its square."""


class TraceEstimate(NamedTuple):
    """A trace from random products."""

    trace: Float[Array, ""]
    standard_error: Float[Array, ""]
    """Falls as 1/√num_samples."""


class Regression(NamedTuple):
    """Coefficients of kernel regression: f(z) = K(z, X) coefficients."""

    coefficients: Float[Array, "..."]
    residual: Float[Array, ""]
    """‖(K + ridge) coefficients − targets‖ / ‖targets‖: 0 at the solution."""


def lanczos_spectrum(
    product_fn: ProductFn,
    shape: tuple[int, ...],
    *,
    num_eigenvalues: int,
    num_products: int,
    rng: jax.Array,
) -> LanczosSpectrum:
    """The largest eigenvalues of an operator, by Lanczos' method.

    Every new direction is made orthogonal to all before it, twice, so no eigenvalue is
    found more often than it occurs. One that occurs several times may be found once.
    Memory is that of `num_products` arrays of the shape.

    Args:
      product_fn: v -> K v, symmetric.
      shape: the shape of v, such as that of the outputs on the pool.
      num_eigenvalues: how many to return.
      num_products: number of products. Kernels whose spectrum decays fast need about
        four per eigenvalue; take more until `error_bounds` are small enough.
      rng: a typed key, for the first direction.

    Raises:
      ValueError: if there are fewer products than eigenvalues, or more than entries.

    Reference:
      Lanczos (1950); Golub & Van Loan, Matrix Computations, 10.1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from theory.operators import lanczos_spectrum
      >>> diagonal = jnp.array([5.0, 3.0, 0.1, 0.01])
      >>> found = lanczos_spectrum(lambda values: diagonal * values, (4,),
      ...     num_eigenvalues=2, num_products=4, rng=jax.random.key(0))
      >>> [round(float(value), 6) for value in found.eigenvalues]
      [5.0, 3.0]
    """
    check_count("num_eigenvalues", num_eigenvalues)
    check_count("num_products", num_products)
    size = math.prod(shape)
    if not num_eigenvalues <= num_products <= size:
        raise ValueError(
            f"num_products={num_products} must be between num_eigenvalues="
            f"{num_eigenvalues} and the {size} entries of shape {shape}."
        )
    first, *_, restarts = jax.random.split(rng, 3)
    draw = jax.random.normal(first, (size,), float)
    basis = jnp.zeros((num_products + 1, size)).at[0].set(draw / jnp.linalg.norm(draw))

    def without_basis(vector: Array, basis: Array) -> Array:
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        return vector

    def step(carry, number):
        basis, largest = carry
        product = product_fn(basis[number].reshape(shape)).ravel()
        alpha = jnp.vdot(basis[number], product)
        rest = without_basis(product, basis)
        beta = jnp.linalg.norm(rest)
        largest = jnp.maximum(largest, jnp.abs(alpha) + beta)
        # The basis spans all that K reaches from it: go on in a new direction.
        is_closed = beta <= size * jnp.finfo(beta.dtype).eps * largest
        new = jax.random.normal(jax.random.fold_in(restarts, number), (size,), float)
        new = without_basis(new / jnp.linalg.norm(new), basis)
        beta = jnp.where(is_closed, 0, beta)
        rest = jnp.where(is_closed, new, rest)
        basis = basis.at[number + 1].set(rest / jnp.linalg.norm(rest))
        return (basis, largest), (alpha, beta)

    start = (basis, jnp.zeros(()))
    _, (alphas, betas) = jax.lax.scan(step, start, jnp.arange(num_products))
    tridiagonal = jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1)
    eigenvalues, vectors = jnp.linalg.eigh(tridiagonal)
    bounds = jnp.abs(betas[-1] * vectors[-1])
    order = slice(None, -num_eigenvalues - 1, -1)
    return LanczosSpectrum(eigenvalues[order], bounds[order])


def max_learning_rate(
    product_fn: ProductFn,
    shape: tuple[int, ...],
    *,
    num_products: int = 20,
    rng: jax.Array,
) -> Float[Array, ""]:
    """The step size 2N/λ_max above which full-batch descent on ½·MSE diverges.

    As `theory.spectrum.max_learning_rate`, from products alone. It approaches the
    exact value from above.

    Args:
      product_fn: v -> K v on the pool's outputs.
      shape: `(N, ...)`, that of the outputs.
      num_products: number of products of Lanczos' method, at most the outputs'.
      rng: a typed key, for the first direction.

    Example:
      >>> import jax
      >>> from theory.operators import max_learning_rate
      >>> rate = max_learning_rate(lambda v: 4 * v, (3,), rng=jax.random.key(0))
      >>> round(float(rate), 6)
      1.5
    """
    found = lanczos_spectrum(
        product_fn,
        shape,
        num_eigenvalues=1,
        num_products=min(num_products, math.prod(shape)),
        rng=rng,
    )
    return 2 * shape[0] / found.eigenvalues[0]


def hutchinson_trace(
    product_fn: ProductFn, shape: tuple[int, ...], *, num_samples: int, rng: jax.Array
) -> TraceEstimate:
    """The trace of an operator as the mean of vᵀKv over random signs v.

    It is unbiased. The variance of one sample is twice the sum of the squared entries
    off the diagonal.

    Args:
      product_fn: v -> K v, symmetric.
      shape: the shape of v.
      num_samples: number of products, at least 2.
      rng: a typed key, for the signs.

    Raises:
      ValueError: if there are fewer than 2 samples.

    Reference:
      Hutchinson (1989), A stochastic estimator of the trace of the influence matrix.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from theory.operators import hutchinson_trace
      >>> diagonal = jnp.array([5.0, 3.0])  # nothing off the diagonal: no error
      >>> found = hutchinson_trace(lambda values: diagonal * values, (2,),
      ...     num_samples=2, rng=jax.random.key(0))
      >>> float(found.trace), float(found.standard_error)
      (8.0, 0.0)
    """
    check_count("num_samples", num_samples)
    if num_samples < 2:
        raise ValueError(
            "num_samples must be at least 2, got 1: the error comes from their spread."
        )

    def sample(key: jax.Array) -> Array:
        signs = jax.random.rademacher(key, shape, float)
        return jnp.vdot(signs, product_fn(signs))

    samples = jax.lax.map(sample, jax.random.split(rng, num_samples))
    return TraceEstimate(samples.mean(), samples.std(ddof=1) / num_samples**0.5)


def kernel_regression(
    product_fn: ProductFn,
    targets: Float[Array, "..."],
    *,
    ridge: float = 0.0,
    tolerance: float = 1e-8,
    max_products: int | None = None,
) -> Regression:
    """Kernel regression (K + ridge) c = targets by conjugate gradients.

    Args:
      product_fn: v -> K v on the pool.
      targets: of the shape of v, such as y − f_0(X).
      ridge: added to the diagonal. Without it a kernel with tiny eigenvalues takes many
        products.
      tolerance: stop when `residual` is below it.
      max_products: stop after so many. None: ten times the number of targets.

    Returns:
      The coefficients, and the residual that they have, computed from the start. Look
      at it: with too few products it is above the tolerance.

    Raises:
      ValueError: if ridge is negative.

    Reference:
      Hestenes & Stiefel (1952), Methods of conjugate gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.operators import kernel_regression
      >>> found = kernel_regression(lambda v: 2 * v, jnp.array([1.0, 3.0]), ridge=2.0)
      >>> found.coefficients.tolist()
      [0.25, 0.75]
    """
    if not ridge >= 0:
        raise ValueError(f"ridge must be 0 or more, got {ridge}.")

    def system(values: Array) -> Array:
        return product_fn(values) + ridge * values

    coefficients, _ = cg(system, targets, tol=tolerance, maxiter=max_products)
    error = jnp.linalg.norm((system(coefficients) - targets).ravel())
    return Regression(coefficients, error / jnp.linalg.norm(targets.ravel()))


def nystrom_coefficients(
    kernel_to_landmarks: Float[Array, "pool landmarks"],
    kernel_of_landmarks: Float[Array, "landmarks landmarks"],
    targets: Float[Array, "pool ..."],
    *,
    ridge: float = 0.0,
) -> Float[Array, "landmarks ..."]:
    """Kernel regression on functions Σⱼ cⱼ K(·, zⱼ) of some landmarks z.

    Minimises Σᵢ (f(Sᵢ) − yᵢ)² + ridge ‖f‖²_K over these functions. If the landmarks
    are the whole pool, it is kernel regression. Time is linear in the pool.

    Args:
      kernel_to_landmarks: `[N, m]` between the pool and the landmarks, such as some of
        its examples (`theory.layout.as_matrix` makes matrices of kernels).
      kernel_of_landmarks: `[m, m]`.
      targets: `[N, ...]`, such as y − f_0(X).
      ridge: weight of the squared norm.

    Returns:
      `[m, ...]` coefficients c: f(z) = K(z, landmarks) c.

    Raises:
      ValueError: if ridge is negative or the shapes do not match.

    Reference:
      Williams & Seeger (2001); Rudi et al. (2015), Less is more, equation 5.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.operators import nystrom_coefficients
      >>> features = jnp.array([1.0, 2.0, -1.0])  # a kernel of rank 1
      >>> kernel = jnp.outer(features, features)
      >>> c = nystrom_coefficients(kernel[:, :1], kernel[:1, :1], 3 * features)
      >>> [round(float(value), 6) for value in kernel[:, :1] @ c]
      [3.0, 6.0, -3.0]
    """
    if not ridge >= 0:
        raise ValueError(f"ridge must be 0 or more, got {ridge}.")
    num_landmarks = kernel_to_landmarks.shape[1]
    expected = (len(targets), num_landmarks), (num_landmarks, num_landmarks)
    if (kernel_to_landmarks.shape, kernel_of_landmarks.shape) != expected:
        raise ValueError(
            f"kernel_to_landmarks has shape {kernel_to_landmarks.shape}, "
            f"kernel_of_landmarks {kernel_of_landmarks.shape} and targets "
            f"{targets.shape}: pass [N, m], [m, m] and [N, ...]."
        )
    # In coordinates where the norm is the Euclidean one, without directions of norm 0.
    eigenvalues, vectors = jnp.linalg.eigh(kernel_of_landmarks)
    is_kept = eigenvalues > rounding(eigenvalues)
    scales = jnp.where(is_kept, jnp.where(is_kept, eigenvalues, 1) ** -0.5, 0)
    features = kernel_to_landmarks @ (vectors * scales[None])
    left, singular, right = jnp.linalg.svd(features, full_matrices=False)
    floor = max(features.shape) * jnp.finfo(features.dtype).eps * singular.max()
    is_kept = singular > floor
    safe = jnp.where(is_kept, singular, 1)
    shrunk = jnp.where(is_kept, safe / (safe**2 + ridge), 0)
    flat = targets.reshape(len(targets), -1)
    solution = right.T @ (shrunk[:, None] * (left.T @ flat))
    coefficients = (vectors * scales[None]) @ solution
    return coefficients.reshape(num_landmarks, *targets.shape[1:])
