"""Does the ANTK converge? Distances between kernels, and a tracker.

Paper, Theorem 3: K_θt converges as training does. Measure it on a fixed held-out probe
set. The distance to the last kernel alone is not enough, because it ends at 0 by
construction. The distance from the first kernel shows whether the kernel moved at all.
The velocity per residual shows whether the kernel has stopped, or only training.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attent_jax.typing import Params
from theory._checks import check_count, warn_unless_float64
from theory.spectrum import spectrum, square_matrix


def relative_distance(
    kernel: Float[Array, "..."], reference: Float[Array, "..."]
) -> Float[Array, ""]:
    """‖K − K'‖ / ‖K'‖, Frobenius norms: the drift of a kernel from a reference.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.convergence import relative_distance
      >>> float(relative_distance(3 * jnp.eye(4), 2 * jnp.eye(4)))
      0.5
    """
    _check_same(kernel, reference)
    return jnp.linalg.norm((kernel - reference).ravel()) / jnp.linalg.norm(
        reference.ravel()
    )


def cosine(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, ""]:
    """⟨A, B⟩ / (‖A‖ ‖B‖): 1 for kernels that are equal up to a factor."""
    _check_same(a, b)
    norms = jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel())
    return jnp.vdot(a, b) / norms


def cka(a: Float[Array, "n n ..."], b: Float[Array, "n n ..."]) -> Float[Array, ""]:
    """Centred kernel alignment: the cosine of HAH and HBH, H = 1 − 11ᵀ/n.

    (Cortes et al., 2012; Kornblith et al., 2019.) The mean is over all outputs, with
    tokens and channels. A constant added to every entry does not change it.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.convergence import cka
      >>> kernel = jnp.diag(jnp.arange(1.0, 5.0))
      >>> print(f"{cka(kernel, 7 * kernel + 3):.3f}")
      1.000
    """
    _check_same(a, b)
    return cosine(_centred(a), _centred(b))


def target_alignment(
    kernel: Float[Array, "n n ..."], targets: Float[Array, "n ..."]
) -> Float[Array, ""]:
    """Kernel-target alignment: the cosine of K and yyᵀ (Cristianini et al., 2001).

    If targets have more axes than the kernel (traced channels), it uses Σ_c y_c y_cᵀ.

    Raises:
      ValueError: if there is no target for each of the kernel's rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.convergence import target_alignment
      >>> print(f"{target_alignment(jnp.eye(4), jnp.ones(4)):.2f}")
      0.50
    """
    rows = kernel.shape[::2]
    if jnp.shape(targets)[: len(rows)] != rows:
        raise ValueError(
            f"targets has shape {jnp.shape(targets)}, but the kernel is between "
            f"outputs of shape {rows}: pass one target per output."
        )
    matrix = square_matrix(kernel)
    columns = jnp.asarray(targets).reshape(len(matrix), -1)
    return cosine(matrix, columns @ columns.T)


class KernelRecord(NamedTuple):
    """A kernel at one step of training. NaN: unavailable."""

    step: int
    distance_from_first: float
    """Relative Frobenius distance from the first kernel recorded."""
    velocity: float
    """Relative distance from the previous record, per step; NaN for the first."""
    distance_to_last: float
    """Relative distance to the last kernel; NaN if this one was discarded."""
    cosine_to_last: float
    """Cosine with the last kernel; NaN if this one was discarded."""
    cka_to_last: float
    """CKA with the last kernel; NaN if this one was discarded."""
    target_alignment: float
    """Alignment with the targets; NaN without them."""
    eigenvalues: np.ndarray
    """`[outputs]` in descending order."""
    effective_rank: float
    participation_ratio: float
    condition_number: float
    residual_norm: float
    """What `residual_fn` measures, such as ‖∂L/∂f‖; NaN without it."""


class KernelTracker:
    """Follows a kernel through any training loop, in bounded memory.

    Call it at every step. It computes the kernel at the chosen steps. For the distances
    to the last kernel it keeps at most `max_kernels` kernels. When there are more it
    discards every second one, and keeps half as many from then on. All other numbers
    are kept for every chosen step.

    Args:
      kernel_fn: `(params) -> [n, n, ...]`, on a fixed probe set: close over it.
      steps: the chosen steps. None: every step that it is called with.
      residual_fn: `(params) -> []`, such as the norm of ∂L/∂f. It distinguishes a
        kernel that has stopped from a training that has.
      targets: `[n, ...]` targets of the probe set, for `target_alignment`.
      max_kernels: number of kernels to keep, at least 2.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.convergence import KernelTracker
      >>> from theory.empirical_ntk import empirical_ntk
      >>> probe = jnp.eye(3)
      >>> kernel_fn = empirical_ntk(lambda w, x: (x @ w) ** 2, trace_axes=())
      >>> tracker = KernelTracker(lambda w: kernel_fn(w, probe), steps=[0, 2])
      >>> for step in range(3):
      ...     tracker(step, jnp.ones(3) * (1 + step))
      >>> [record.step for record in tracker.records()]
      [0, 2]
    """

    def __init__(
        self,
        kernel_fn: Callable[[Params], Float[Array, "n n ..."]],
        *,
        steps: Iterable[int] | None = None,
        residual_fn: Callable[[Params], Float[Array, ""]] | None = None,
        targets: Float[Array, "n ..."] | None = None,
        max_kernels: int = 64,
    ):
        check_count("max_kernels", max_kernels)
        if max_kernels < 2:
            raise ValueError(
                f"max_kernels must be at least 2, got {max_kernels}: the first kernel "
                f"and the last are needed."
            )
        self._kernel_fn = kernel_fn
        self._steps = None if steps is None else frozenset(steps)
        self._residual_fn = residual_fn
        self._targets = targets
        self._max_kernels = max_kernels
        self._records: list[KernelRecord] = []
        self._kept: dict[int, np.ndarray] = {}
        self._stride = 1

    def __call__(self, step: int, params: Params) -> None:
        """Record the kernel of these parameters if the step is a chosen one.

        Raises:
          ValueError: if a chosen step does not come after the previous one.
        """
        step = int(step)
        if self._steps is not None and step not in self._steps:
            return
        if self._records and step <= self._records[-1].step:
            raise ValueError(
                f"step={step} comes after step {self._records[-1].step}: call the "
                f"tracker with rising steps, and make a new one for each training."
            )
        kernel = self._kernel_fn(params)
        warn_unless_float64("the drift of a kernel", kernel)
        self._records.append(self._record(step, kernel, params))
        self._keep(np.asarray(kernel))

    def records(self) -> list[KernelRecord]:
        """The records in order; the last kernel so far counts as the limit."""
        if not self._records:
            return []
        kept = {step: jnp.asarray(kernel) for step, kernel in self._kept.items()}
        last = kept[self._records[-1].step]
        return [
            record._replace(
                distance_to_last=float(relative_distance(kept[record.step], last)),
                cosine_to_last=float(cosine(kept[record.step], last)),
                cka_to_last=float(cka(kept[record.step], last)),
            )
            if record.step in kept
            else record
            for record in self._records
        ]

    def kernels(self) -> dict[int, np.ndarray]:
        """The kernels kept, by step, with the first and the last."""
        return dict(self._kept)

    def _keep(self, kernel: np.ndarray) -> None:
        """Keep the newest kernel, and others evenly spaced over all of training."""
        if (len(self._records) - 2) % self._stride:
            self._kept.popitem()  # the previous newest
        self._kept[self._records[-1].step] = kernel
        while len(self._kept) > self._max_kernels:
            self._stride *= 2
            lasting = {record.step for record in self._records[:: self._stride]}
            lasting.add(self._records[-1].step)
            self._kept = {s: k for s, k in self._kept.items() if s in lasting}

    def _record(self, step: int, kernel: Array, params: Params) -> KernelRecord:
        from_first, velocity = 0.0, np.nan
        if self._records:
            kept = list(self._kept.values())
            first, before = jnp.asarray(kept[0]), jnp.asarray(kept[-1])
            from_first = float(relative_distance(kernel, first))
            num_steps = step - self._records[-1].step
            velocity = float(relative_distance(kernel, before)) / num_steps
        found = spectrum(kernel)
        return KernelRecord(
            step=step,
            distance_from_first=from_first,
            velocity=velocity,
            distance_to_last=np.nan,
            cosine_to_last=np.nan,
            cka_to_last=np.nan,
            target_alignment=np.nan
            if self._targets is None
            else float(target_alignment(kernel, self._targets)),
            eigenvalues=np.asarray(found.eigenvalues),
            effective_rank=float(found.effective_rank),
            participation_ratio=float(found.participation_ratio),
            condition_number=float(found.condition_number),
            residual_norm=np.nan
            if self._residual_fn is None
            else float(self._residual_fn(params)),
        )


def _centred(kernel: Float[Array, "n n ..."]) -> Float[Array, "outputs outputs"]:
    matrix = square_matrix(kernel)
    rows = matrix - matrix.mean(axis=0, keepdims=True)
    return rows - rows.mean(axis=1, keepdims=True)


def _check_same(a: Array, b: Array) -> None:
    if jnp.shape(a) != jnp.shape(b):
        raise ValueError(
            f"the kernels have shapes {jnp.shape(a)} and {jnp.shape(b)}: compare "
            f"kernels of the same examples."
        )
