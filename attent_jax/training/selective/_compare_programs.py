"""Whether two traces of a function, at two batch sizes, are the same program."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from attent_jax.training.selective._row_values import (
    SHARED,
    ZERO,
    Operation,
    Origin,
    Value,
    mixed,
    names,
    rows_created,
    shape_of,
)

Program = Any
"""A `ClosedJaxpr` or `Jaxpr`; the newest line of jax has one class for both."""

CALLS = names(
    "jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call "
    "custom_vjp_call custom_vjp_call_jaxpr custom_vmap_call composite"
)
"""Operations that run one program on their operands."""
_PARAMS = {
    **dict.fromkeys(CALLS, ()),
    "scan": ("length", "reverse"),
    "while": ("cond_nconsts", "body_nconsts"),
    "cond": (),
    "custom_linear_solve": ("const_lengths",),
}
"""Parameters that matter, of operations whose programs are compared by themselves."""
_SIZES = names("shape new_sizes slice_sizes sizes reps operand_shape")
"""Parameters that say how large something is, on the axis of the rows too."""


_SHOWN = names("computation jvp_jaxpr_fun")
"""Functions whose program is a parameter too."""


class RowsNotIndependent(ValueError):
    """Rows meet, or may meet; the message says where."""


class Variables:
    """The variables of two programs, paired in the order of their definition."""

    def __init__(self, one: Jaxpr, two: Jaxpr):
        self._twins: dict[Any, Any] = {}
        for pair in ((one.constvars, two.constvars), (one.invars, two.invars)):
            self.define(*pair)

    def define(self, ones: Any, twos: Any) -> None:
        if len(ones) != len(twos):
            raise RowsNotIndependent(
                f"it computes {len(ones)} values where it computes {len(twos)} for "
                f"another number of rows"
            )
        self._twins.update(zip(ones, twos, strict=True))

    def are_twins(self, one: Any, two: Any) -> bool:
        """Whether two operands are literals, or the same variable of both programs."""
        if isinstance(one, Literal) or isinstance(two, Literal):
            return isinstance(one, Literal) and isinstance(two, Literal)
        return self._twins.get(one) is two


def paired_operations(
    one: Jaxpr, two: Jaxpr, sizes: tuple[int, int]
) -> Iterator[Operation]:
    """The operations of both programs in turn.

    Raises:
      RowsNotIndependent: if they differ in kind or number.
    """
    if len(one.eqns) != len(two.eqns):
        raise RowsNotIndependent(
            f"it runs {len(one.eqns)} operations for {sizes[0]} rows and "
            f"{len(two.eqns)} for {sizes[1]} (a branch or a loop in Python depends on "
            f"the size of the batch, or on something that changes from trace to trace)"
        )
    for eqn, twin in zip(one.eqns, two.eqns, strict=True):
        operation = Operation(eqn, twin, sizes)
        if eqn.primitive is not twin.primitive or len(eqn.invars) != len(twin.invars):
            raise RowsNotIndependent(
                f"{operation} is `{twin.primitive.name}` for {sizes[1]} rows"
            )
        yield operation


def have_same_params(operation: Operation) -> bool:
    """Whether the two operations differ in nothing but how many rows they work on."""
    eqn, twin, sizes = operation
    if operation.name == "slice":
        return _is_same_slice(operation)
    return all(
        _is_same_param(name, eqn.params.get(name), twin.params.get(name), sizes)
        for name in _PARAMS.get(operation.name, eqn.params)
        if name not in _SHOWN
    )


def _is_same_slice(operation: Operation) -> bool:
    """Whether axes without rows are cut alike; the rule looks at the other one."""
    eqn, twin, sizes = operation
    shapes = shape_of(eqn.invars[0]), shape_of(twin.invars[0])
    pairs = enumerate(zip(*shapes, strict=True))
    fixed = [axis for axis, (one, two) in pairs if one == two]
    return all(
        _is_same_param(
            name, _at(eqn.params[name], fixed), _at(twin.params[name], fixed), sizes
        )
        for name in ("start_indices", "limit_indices", "strides")
    )


def _at(entries: Any, positions: list[int]) -> Any:
    return None if entries is None else tuple(entries[index] for index in positions)


def _is_same_param(name: str, one: Any, two: Any, sizes: tuple[int, int]) -> bool:
    if one is two:
        return True
    programs = programs_in(one), programs_in(two)
    if any(programs):
        pairs = list(zip(*programs, strict=False))
        return len(programs[0]) == len(programs[1]) and all(
            str(a) == str(b) and _has_same_constants(a, b) for a, b in pairs
        )
    if isinstance(one, tuple) and isinstance(two, tuple) and name in _SIZES:
        return len(one) == len(two) and all(
            a == b or a * sizes[1] == b * sizes[0]
            for a, b in zip(one, two, strict=True)
        )
    if type(one) is not type(two):
        return False
    return bool(np.all(one == two)) or bool(np.all(one != one) and np.all(two != two))


def _has_same_constants(one: Program, two: Program) -> bool:
    constants = [getattr(program, "consts", ()) for program in (one, two)]
    return len(constants[0]) == len(constants[1]) and all(
        a is b or np.array_equal(a, b) for a, b in zip(*constants, strict=True)
    )


def programs_in(value: Any) -> list[Program]:
    """The programs in one parameter of an operation."""
    items = value if isinstance(value, tuple | list) else [value]
    return [item for item in items if isinstance(item, ClosedJaxpr | Jaxpr)]


class ScanParts(NamedTuple):
    """The positions of a scan's operands and results, by their role."""

    consts: list[int]
    carry: list[int]
    steps: list[int]
    carry_out: list[int]
    stacked: list[int]


def scan_parts(eqn: JaxprEqn) -> ScanParts:
    """Which operand and result of a scan is what; each line of jax stores it."""
    num_in, num_out = len(eqn.invars), len(eqn.outvars)
    if "num_consts" in eqn.params:
        start = eqn.params["num_consts"]
        end = start + eqn.params["num_carry"]
        consts, carry, steps = range(start), range(start, end), range(end, num_in)
        carry_out = range(end - start)
        stacked = range(end - start, num_out)
    else:
        consts, carry, steps = eqn.params["ft_in"].update(range(num_in)).unpack()
        carry_out, stacked = eqn.params["ft_out"].update(range(num_out)).unpack()
    return ScanParts(*map(list, (consts, carry, steps, carry_out, stacked)))


def open_program(program: Program) -> Jaxpr:
    """Without its constants."""
    return getattr(program, "jaxpr", program)


def is_closed(program: Program) -> bool:
    return open_program(program) is not program


_NUMBERS = (bool, int, float, complex, np.ndarray, np.generic, jax.Array)


def constant_value(one: Any, two: Any, sizes: tuple[int, int], user: Any) -> Value:
    """What is known of a constant of `user`, by its values in both programs."""
    if one is not two:
        if isinstance(one, Tracer) or isinstance(two, Tracer):
            return mixed(f"{user} has a value from outside that differs between traces")
        a, b = (
            np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in (one, two)
        )
        if a.shape != b.shape or a.dtype != b.dtype:
            return _constant_with_rows(a, b, sizes, user)
        if a.tobytes() != b.tobytes():  # NaN is not equal to itself
            return mixed(
                f"{user} has a constant that depends on the number of rows or changes "
                f"from trace to trace"
            )
    if isinstance(one, Tracer) or _is_key(one):
        return SHARED
    if not isinstance(one, _NUMBERS):
        return mixed(f"{user} uses a {type(one).__name__} from outside")
    if np.size(one) != 1:
        return SHARED
    number = np.asarray(one).item()
    if not number:
        return ZERO
    return SHARED._replace(constant=number) if type(number) is int else SHARED


def _is_key(constant: Any) -> bool:
    dtype = getattr(constant, "dtype", np.dtype(float))
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _constant_with_rows(
    a: np.ndarray, b: np.ndarray, sizes: tuple[int, int], user: Any
) -> Value:
    """A NumPy array of the batch's size: alike in all rows, or numbering them."""
    rows = rows_created(a.shape, b.shape, sizes) if a.dtype == b.dtype else None
    if rows is not None:
        first, *others = (np.moveaxis(array, rows.axis, 0) for array in (a, b))
        alike = all((array == first[:1]).all() for array in (first, *others))
        if alike:
            origin = Origin.SHARED if first.any() else Origin.ZERO
            return Value(origin, rows, uniform=True)
        is_wide = np.issubdtype(a.dtype, np.integer) and a.itemsize >= 4
        if (
            is_wide
            and rows.block == a.ndim == 1
            and all((v == np.arange(len(v))).all() for v in (a, b))
        ):
            return Value(Origin.PLACE, rows)
    return mixed(
        f"{user} has a constant {a.dtype}{list(a.shape)} for {sizes[0]} rows and "
        f"{b.dtype}{list(b.shape)} for {sizes[1]} (pass what belongs to the examples "
        f"with the batch)"
    )
