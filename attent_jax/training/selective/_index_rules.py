"""How gather and scatter move the rows of a batch; rules as in `_row_rules`.

Indices may be the same for all rows, or each row has its own. These address their own
row in one of two ways: the rows are a batch axis of the operation, or the indices hold
the row's place.
"""

from collections.abc import Sequence

from attent_jax.training.selective._row_values import Operation, Origin, Rows, Value


def gather(op: Operation, ins: Sequence[Value]) -> Rows | None:
    """Entries of each row are read, by indices that belong to it."""
    numbers, (operand, indices) = op.params["dimension_numbers"], ins
    rows = operand.rows
    dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    out_ndim = len(op.out_shapes[0])
    if indices.rows is None:  # the same entries of every row
        if rows is None or rows.axis in {*dropped, *numbers.start_index_map}:
            return None
        kept = sum(other not in dropped for other in range(rows.axis))
        return rows._replace(axis=int(numbers.offset_dims[kept]))
    if not _reads_own_row(
        op,
        operand,
        indices,
        numbers.start_index_map,
        numbers.collapsed_slice_dims,
        numbers.operand_batching_dims,
        numbers.start_indices_batching_dims,
    ):
        return None
    of_indices = [axis for axis in range(out_ndim) if axis not in numbers.offset_dims]
    if indices.rows.axis >= len(of_indices):
        return None
    return indices.rows._replace(axis=of_indices[indices.rows.axis])


def _reads_own_row(
    op, operand, indices, index_map, collapsed, batching, indices_batching
):
    """Whether indices with rows address, in an operand with rows, their own row."""
    places = _place_columns(op, indices)
    if operand.rows is None:
        return not places
    if places:
        (column, *others) = places
        return (
            not others
            and index_map[column] == operand.rows.axis
            and operand.rows.axis in collapsed
            and operand.rows._replace(axis=0) == Rows(0)
            and indices.rows._replace(axis=0) == Rows(0)
        )
    pairs = zip(batching, indices_batching, strict=True)
    return (operand.rows.axis, indices.rows.axis) in pairs and (
        operand.rows._replace(axis=0) == indices.rows._replace(axis=0)
    )


def _place_columns(op, indices):
    if indices.origin != Origin.PLACE:
        return ()
    if indices.columns is None:
        return range(op.in_shapes[1][-1])
    return sorted(indices.columns)


def scatter(op: Operation, ins: Sequence[Value]) -> Rows | None:
    """Entries of each row are set, or added to, by updates that belong to it."""
    operand, indices, updates = ins
    numbers = op.params["dimension_numbers"]
    if operand.rows is None or updates.rows is None:
        return None
    axis = operand.rows.axis
    if indices.rows is None:  # the same entries of every row
        dropped = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
        if axis in dropped or axis in numbers.scatter_dims_to_operand_dims:
            return None
        kept = sum(other not in dropped for other in range(axis))
        own = operand.rows._replace(axis=int(numbers.update_window_dims[kept]))
        return operand.rows if updates.rows == own else None
    reads_own = _reads_own_row(
        op,
        operand,
        indices,
        numbers.scatter_dims_to_operand_dims,
        numbers.inserted_window_dims,
        numbers.operand_batching_dims,
        numbers.scatter_indices_batching_dims,
    )
    return operand.rows if reads_own and updates_follow(op, ins) else None


def updates_follow(op: Operation, ins: Sequence[Value]) -> bool:
    """Whether each row of a scatter's updates is put where its row of indices says."""
    _, indices, updates = ins
    window = op.params["dimension_numbers"].update_window_dims
    scattered = [a for a in range(len(op.in_shapes[2])) if a not in window]
    if indices.rows is None or updates.rows is None:
        return False
    axis = indices.rows.axis
    return axis < len(scattered) and (
        updates.rows == indices.rows._replace(axis=scattered[axis])
    )
