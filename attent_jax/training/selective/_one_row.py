"""Whether a batch of one row runs the operations that a larger batch runs.

The program of one row cannot be compared operation by operation with that of several:
axes of size 1 need no broadcasting. So each result is described by the operations that
it comes from, without those that only change shapes, and the descriptions are compared.
This finds a loss that treats a batch of one row as a special case.
"""

from typing import Any

from jax.extend.core import JaxprEqn, Literal

from attent_jax.training.selective._compare_programs import (
    CALLS,
    Program,
    RowsNotIndependent,
    open_program,
    programs_in,
)
from attent_jax.training.selective._row_values import names

_RESHAPES = names(
    "broadcast_in_dim convert_element_type copy expand_dims reshape squeeze tile"
)


def check_one_row(one: Program, several: Program) -> None:
    """Refuse a loss that is computed in another way for a batch of one row.

    Raises:
      RowsNotIndependent: if its results come from other operations or values.
    """
    descriptions = [
        _of_outputs(program, list(range(len(open_program(program).invars))))
        for program in (one, several)
    ]
    if descriptions[0] != descriptions[1]:
        raise RowsNotIndependent(
            "a batch of one row is treated in another way than a larger batch, so the "
            "gradient of one selected row is not that of the row in its batch"
        )


def _of_outputs(program: Program, inputs: list[int]) -> list[int]:
    """A hash of each output's operations."""
    inner = open_program(program)
    hashes: dict[Any, int] = dict.fromkeys(inner.constvars, 0)
    hashes.update(zip(inner.invars, inputs, strict=True))

    def read(atom):
        return hash(str(atom.val)) if isinstance(atom, Literal) else hashes[atom]

    for eqn in inner.eqns:
        ins = [read(atom) for atom in eqn.invars]
        hashes.update(zip(eqn.outvars, _of_results(eqn, ins), strict=True))
    return [read(atom) for atom in inner.outvars]


def _of_results(eqn: JaxprEqn, ins: list[int]) -> list[int]:
    if eqn.primitive.name in _RESHAPES:
        return ins[:1]
    programs = [found for value in eqn.params.values() for found in programs_in(value)]
    if eqn.primitive.name in CALLS:
        return _of_outputs(programs[0], ins)
    if _wraps_an_index(eqn):
        ins = [
            0 if isinstance(atom, Literal) else value
            for atom, value in zip(eqn.invars, ins, strict=True)
        ]
    bodies = [
        value
        for program in programs
        for value in _of_outputs(
            program, list(range(len(open_program(program).invars)))
        )
    ]
    steps = eqn.params.get("length"), eqn.params.get("reverse")
    operation = hash((eqn.primitive.name, *steps, *ins, *bodies))
    return [hash((operation, number)) for number in range(len(eqn.outvars))]


def _wraps_an_index(eqn: JaxprEqn) -> bool:
    """jax adds an axis' size to negative indices; that of the rows differs."""
    dtype = getattr(eqn.outvars[0].aval, "dtype", None) if eqn.outvars else None
    return eqn.primitive.name == "add" and getattr(dtype, "kind", "") in "iu"
