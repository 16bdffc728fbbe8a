"""What is known of a value in a traced program: where its rows are, and their origin.

A program is traced at two batch sizes. An axis that differs between the two traces is
the axis of the rows.
"""

import enum
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn


class Rows(NamedTuple):
    """The place of the batch in a value's shape.

    `shape[axis]` is `outer * batch * block`: after a reshape of this axis to
    `(outer, batch, block)`, row i is entry i of the middle one.
    """

    axis: int
    block: int = 1
    outer: int = 1

    def size(self, num_rows: int) -> int:
        return self.outer * num_rows * self.block


class Origin(enum.Enum):
    """Where the entries of a value come from."""

    ZERO = "zeros"
    """Zeros, for any number of rows."""
    SHARED = "what all rows share"
    """Parameters and constants; each row, if it has rows, holds the same."""
    ROW = "its row"
    """Each row comes from this row of the batch and from what all rows share."""
    PLACE = "its row's place"
    """Each row holds its own number, 0 ... batch - 1, in `columns` of the last axis
    (all of it if None); the other columns are as for ROW."""
    LABEL = "labels by its row's place"
    """Each entry of a row holds a positive number of its own, which is compared with
    others of the same row only; those of one `label` were made together."""
    SUM = "a sum over rows"
    """Backward pass only: a sum of terms that come from one row each."""
    MIXED = "several rows"
    """None of these, or not known to be; `reason` says why."""


class Value(NamedTuple):
    """What is known of one variable."""

    origin: Origin
    rows: Rows | None = None
    columns: frozenset[int] | None = None
    constant: float | None = None
    """Its entries, if they are known to be this number; zero has an origin."""
    label: int | None = None
    uniform: bool = False
    """Whether all entries along the axis of its rows are the same; zeros are."""
    reason: str = ""

    @property
    def is_uniform(self) -> bool:
        return self.uniform or self.origin is Origin.ZERO


ZERO, SHARED = Value(Origin.ZERO), Value(Origin.SHARED)
SUM = Value(Origin.SUM)


def mixed(reason: str) -> Value:
    return Value(Origin.MIXED, reason=reason)


class Operation(NamedTuple):
    """One operation in both traces."""

    eqn: JaxprEqn
    twin: JaxprEqn
    sizes: tuple[int, int]
    """The number of rows in the trace of `eqn`, and of `twin`."""

    @property
    def name(self) -> str:
        return self.eqn.primitive.name

    @property
    def params(self) -> dict[str, Any]:
        return self.eqn.params

    @property
    def in_shapes(self) -> list[tuple[int, ...]]:
        return [shape_of(atom) for atom in self.eqn.invars]

    @property
    def out_shapes(self) -> list[tuple[int, ...]]:
        return [shape_of(atom) for atom in self.eqn.outvars]

    def all_results(self, value: Value) -> list[Value]:
        """The same of each result."""
        return [value] * len(self.eqn.outvars)

    def has_rows_at(self, rows: Rows | None, number: int) -> bool:
        """Whether a result's shapes are those of a value with its rows there."""
        one, two = self.eqn.outvars[number], self.twin.outvars[number]
        return has_rows_at(rows, shape_of(one), shape_of(two), self.sizes)

    def __str__(self) -> str:
        results = ", ".join(str(var.aval) for var in self.eqn.outvars)
        where = str(self.eqn.source_info.name_stack)
        return f"`{self.name}` -> {results}" + (f" in {where}" if where else "")


def shape_of(atom: Any) -> tuple[int, ...]:
    return tuple(getattr(atom.aval, "shape", ()))


def changed_axes(one: Any, two: Any) -> list[int] | None:
    """The axes whose size differs between two shapes; None if their ranks differ."""
    if len(one) != len(two):
        return None
    return [axis for axis, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]


def has_rows_at(rows: Rows | None, one: Any, two: Any, sizes: tuple[int, int]) -> bool:
    """Whether shapes in the two traces are those of a value with its rows there."""
    changed = changed_axes(one, two)
    if rows is None:
        return changed == []
    return changed == [rows.axis] and (one[rows.axis], two[rows.axis]) == tuple(
        rows.size(size) for size in sizes
    )


def rows_created(one: Any, two: Any, sizes: tuple[int, int]) -> Rows | None:
    """The rows of a value whose rows were not there before, by its shapes."""
    changed = changed_axes(one, two)
    if not changed or len(changed) > 1:
        return None
    (axis,) = changed
    rows = Rows(axis, one[axis] // sizes[0])
    return rows if has_rows_at(rows, one, two, sizes) else None


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())
