"""What holds of the results of an operation that runs no other program.

A rule of `_row_rules` says how rows move. A primitive without a rule may mix rows.
"""

from collections.abc import Sequence

from attent_jax.training.selective._places import (
    PLACE_REMEDY,
    from_labels,
    from_places,
    numbering,
)
from attent_jax.training.selective._row_rules import POINTWISE, RANDOM, RULES
from attent_jax.training.selective._row_values import (
    SHARED,
    SUM,
    ZERO,
    Operation,
    Origin,
    Rows,
    Value,
    mixed,
    names,
    rows_created,
    shape_of,
)
from attent_jax.training.selective._sum_rules import (
    is_linear_in_sums,
    is_sum_over_rows,
)

_KEEPS_ZERO = names(
    "add add_any broadcast_in_dim concatenate convert_element_type copy copy_p "
    "expand_dims name neg pad pcast pvary reduce_sum reshape sharding_constraint slice "
    "squeeze stop_gradient sub tile transpose"
)
_KEEPS_UNIFORM = POINTWISE | names("broadcast_in_dim dot_general transpose")
_KEEPS_CONSTANT = names("broadcast_in_dim convert_element_type reshape squeeze")


def values_of(op: Operation, ins: Sequence[Value], is_backward: bool) -> list[Value]:
    """What is known of an operation's results, by what is known of its inputs.

    In a backward pass sums over rows are allowed, and random draws refused.
    """
    if op.name == "optimization_barrier":
        return list(ins)
    if _has_side_effects(op):
        return op.all_results(mixed(f"{op} may mix rows: it has side effects"))
    if op.name == "select_n" and ins[0].origin is Origin.ZERO:
        return [ins[1]]
    broken = next((value for value in ins if value.origin is Origin.MIXED), None)
    if broken is not None:
        return op.all_results(broken)
    ins = _laid_out_alike(ins)
    origins = {value.origin for value in ins}
    if Origin.LABEL in origins:
        return from_labels(op, ins, _kept(op, ins, is_backward))
    if Origin.PLACE in origins:
        return from_places(op, ins, _kept(op, ins, is_backward), is_backward)
    if not any(value.rows for value in ins):
        return _without_rows(op, ins, is_backward)
    if all(op.has_rows_at(None, number) for number in range(len(op.eqn.outvars))):
        return op.all_results(_reduced(op, ins, is_backward))
    if Origin.SUM in origins:
        return op.all_results(mixed(f"{op} puts a sum over rows back into rows"))
    return _kept(op, ins, is_backward)


def _laid_out_alike(ins):
    """Uniform values have their rows wherever the others have them."""
    with_rows = [value for value in ins if value.rows]
    fixed = [value for value in with_rows if not value.is_uniform] or with_rows[:1]
    layouts = {value.rows[1:] for value in fixed}
    if len(layouts) != 1:
        return ins
    ((block, outer),) = layouts
    return [
        value._replace(rows=Rows(value.rows.axis, block, outer))
        if value.rows
        and value.is_uniform
        and value.rows.block * value.rows.outer == block * outer
        else value
        for value in ins
    ]


def _without_rows(op, ins, is_backward):
    """Nothing that comes in has rows; what goes out may have."""
    is_sum = any(value.origin is Origin.SUM for value in ins)
    if is_sum and not is_linear_in_sums(op, ins):
        return op.all_results(mixed(f"{op} is not linear in a sum over rows"))
    is_zero = op.name in _KEEPS_ZERO and all(v.origin is Origin.ZERO for v in ins)
    without = SUM if is_sum else ZERO if is_zero else SHARED
    if op.name in _KEEPS_CONSTANT:
        without = ins[0]._replace(rows=None)
    outs = []
    for number, (one, two) in enumerate(
        zip(op.eqn.outvars, op.twin.outvars, strict=True)
    ):
        if op.has_rows_at(None, number):
            outs.append(without)
            continue
        rows = rows_created(shape_of(one), shape_of(two), op.sizes)
        if is_sum:
            outs.append(mixed(f"{op} puts a sum over rows back into rows"))
        elif rows is None:
            outs.append(mixed(f"{op} mixes rows"))
        else:
            outs.append(_created(op, without._replace(rows=rows), is_backward))
    return outs


def _created(op, value, is_backward):
    """Rows made of what has none."""
    if op.name == "iota" and op.params["dimension"] == value.rows.axis:
        return numbering(op, value.rows)
    if op.name in ("broadcast_in_dim", "iota"):
        return value._replace(uniform=True)
    if op.name == "tile":
        return value._replace(uniform=op.in_shapes[0][value.rows.axis] == 1)
    if op.name in RANDOM and is_backward:
        return _drawn_again(op)
    if op.name in RANDOM:
        return Value(Origin.ROW, value.rows)
    return mixed(f"{op} {PLACE_REMEDY}")


def _kept(op, ins, is_backward):
    """Row by row."""
    rule = RULES.get(op.name)
    if rule is None:
        return op.all_results(mixed(f"{op} may mix rows: there is no rule for it"))
    if op.name in RANDOM and is_backward and not _has_own_keys(op, ins):
        return op.all_results(_drawn_again(op))
    rows = rule(op, ins)
    with_rows = [value for value in ins if value.rows]
    if op.name in _KEEPS_ZERO and all(v.origin is Origin.ZERO for v in ins):
        origin = Origin.ZERO
    elif all(value.origin in (Origin.SHARED, Origin.ZERO) for value in with_rows):
        origin = Origin.SHARED
    else:
        origin = Origin.ROW
    found = rows if isinstance(rows, list) else [rows] * len(op.eqn.outvars)
    is_uniform = op.name in _KEEPS_UNIFORM and all(v.is_uniform for v in with_rows)
    return [
        mixed(f"{op} mixes rows")
        if one is None
        else Value(origin, one, uniform=is_uniform)
        for one in found
    ]


def _reduced(op, ins, is_backward):
    """What has rows becomes what has none."""
    if is_backward and is_sum_over_rows(op, ins):
        return SUM
    if op.name not in RULES:
        return mixed(f"{op} may mix rows: there is no rule for it")
    if is_backward:
        return mixed(f"{op} of the backward pass mixes rows")
    return mixed(f"{op} mixes rows (as batch norm does; use layer norm)")


def _has_side_effects(op):
    """Whether results depend on more than operands: references, callbacks."""
    if not op.eqn.outvars:
        return False
    has_references = any("Ref" in type(atom.aval).__name__ for atom in op.eqn.invars)
    is_foreign = "callback" in op.name or op.name in ("ffi_call", "pallas_call")
    is_effect = any(type(e).__name__ != "NamedAxisEffect" for e in op.eqn.effects)
    return is_effect or has_references or is_foreign


def _has_own_keys(op, ins):
    """Whether each row draws by its own key, which other kinds of keys do not keep."""
    return ins[0].rows is not None and "fry" in str(op.eqn.invars[0].aval.dtype)


def _drawn_again(op):
    return mixed(
        f"{op} of the backward pass draws again, by a row's place (draw outside of the "
        f"function with its own derivative)"
    )
