"""The empirical ANTK of any network, as a kernel and as an operator.

Paper, Sec. 3: K_θ(S, S') = ⟨∂f_θ(S)/∂θ, ∂f_θ(S')/∂θ⟩. Gradient descent on θ moves the
function along this kernel: df/dt = −(η/N) K_θ ∂L/∂f.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PyTree

from attent_jax.typing import Batch, Params, Trainable
from theory._checks import (
    check_count,
    check_fits,
    leading_size,
    memory_bytes,
)
from theory._jacobians import contraction, kernels_of_parts, parts_of
from theory._neural_tangents import known_warnings
from theory._neural_tangents import neural_tangents as nt
from theory._parameters import merge_params, split_params
from theory._precision import warn_if_narrowed
from theory.layout import blockwise

_NEURAL_TANGENTS = {
    "jacobian_contraction": nt.NtkImplementation.JACOBIAN_CONTRACTION,
    "ntk_vector_products": nt.NtkImplementation.NTK_VECTOR_PRODUCTS,
}


class DeterministicApplyFn(Protocol):
    """Your network's outputs, `[n, ...]`, a row per example.

    An example's output must not depend on other examples (no batch norm).
    """

    def __call__(self, params: Params, x: Batch, /) -> Float[Array, "n ..."]: ...


class KernelFn(Protocol):
    """A kernel between examples, in the layout of `theory.layout`."""

    def __call__(
        self, params: Params, x1: Batch, x2: Batch | None = None, /
    ) -> Float[Array, "n m ..."]: ...


class KernelProductFn(Protocol):
    """K v for the kernel K between examples, without computing K."""

    def __call__(
        self,
        params: Params,
        values: Float[Array, "m ..."],
        x1: Batch,
        x2: Batch | None = None,
        /,
    ) -> Float[Array, "n ..."]: ...


def empirical_ntk(
    apply_fn: DeterministicApplyFn,
    *,
    trace_axes: Sequence[int] = (-1,),
    implementation: Literal[
        "parameter_parts", "jacobian_contraction", "ntk_vector_products"
    ] = "parameter_parts",
    batch_size: int | None = None,
    jacobian_bytes: int | None = None,
    mesh: Mesh | None = None,
    trainable: Trainable = True,
) -> KernelFn:
    """The empirical ANTK, in the layout and scaling of neural-tangents.

    Args:
      apply_fn: `(params, x) -> [n, ...]`, deterministic.
      trace_axes: output axes over whose equal entries the kernel is averaged; `()` for
        the full kernel.
      implementation: "parameter_parts" sums J Jᵀ over parts of the parameters, so that
        every derivative is computed once. The others are neural-tangents', which
        compute them again for every pair of blocks: "jacobian_contraction" holds the
        Jacobian of a block's outputs, "ntk_vector_products" does not.
      batch_size: take the derivatives of `batch_size` examples at a time. In
        neural-tangents' implementations: compute blocks of `batch_size` × `batch_size`
        examples. None: all at once.
      jacobian_bytes: about the memory of one part's Jacobian, for "parameter_parts". It
        sets the number of parts. A part takes a forward pass, and as much of a backward
        pass as reaches its parameters. None: an eighth of the memory.
      mesh: divide the examples over its devices, and return the kernel with its rows
        divided, for "parameter_parts". A device still holds one part's Jacobian on all
        examples.
      trainable: which parameters count, such as a layer's or LoRA's: True for all, a
        pytree prefix of bools, or a function of a leaf's path, as in
        `attent_jax.training.partition_params`. Leaves that are not floating point never
        count.

    Returns:
      `(params, x1, x2=None) -> kernel`: for outputs `[n, s, p]` and `[m, t, p]` the
      traced kernel `[n, m, s, t]` (divided by p) or the full one `[n, m, s, t, p, p]`.
      `x2=None` means x1, which costs about half.

    Raises:
      ValueError: if an argument is unknown, the outputs of x1 and x2 do not match, or
        the kernel or the Jacobian does not fit into memory.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from theory.empirical_ntk import empirical_ntk
      >>> def apply_fn(params, x):
      ...     return x @ params["w"]  # [n, 3] -> [n, 2]
      >>> kernel_fn = empirical_ntk(apply_fn, trace_axes=())
      >>> kernel_fn({"w": jnp.zeros((3, 2))}, jnp.ones((5, 3))).shape
      (5, 5, 2, 2)
    """
    names = ("parameter_parts", *_NEURAL_TANGENTS)
    if implementation not in names:
        raise ValueError(
            f"implementation must be one of {', '.join(names)}, got "
            f"{implementation!r}: neural-tangents' other implementations do not run on "
            f"jax {jax.__version__}."
        )
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if implementation == "parameter_parts":
        contributions_fn = ntk_contributions(
            apply_fn,
            lambda path: "all",
            trace_axes=trace_axes,
            batch_size=batch_size,
            jacobian_bytes=jacobian_bytes,
            mesh=mesh,
            trainable=trainable,
        )
        return lambda params, x1, x2=None, /: contributions_fn(params, x1, x2)["all"]
    for name, value in {"jacobian_bytes": jacobian_bytes, "mesh": mesh}.items():
        if value is not None:
            raise ValueError(
                f"{name}={value} is for implementation='parameter_parts', got "
                f"{implementation!r}: leave one of them out."
            )

    @jax.jit
    def compute(params: Params, x1: Batch, x2: Batch | None) -> Array:
        warn_if_narrowed(apply_fn, params, x1)
        trained, frozen = split_params(params, trainable)
        kernel_fn = nt.empirical_ntk_fn(
            lambda trained, x: apply_fn(merge_params(trained, frozen), x),
            trace_axes=tuple(trace_axes),
            vmap_axes=0,
            implementation=_NEURAL_TANGENTS[implementation],
        )

        def block_fn(rows: Batch, columns: Batch | None) -> Array:
            with known_warnings():
                return kernel_fn(rows, columns, trained)

        if batch_size is None:
            return block_fn(x1, x2)
        return blockwise(block_fn, x1, x2, batch_size)

    def kernel_fn(params: Params, x1: Batch, x2: Batch | None = None, /) -> Array:
        outputs = _outputs(apply_fn, params, x1, x2)
        _check_kernel_fits(outputs, _traced(trace_axes, *outputs))
        trained, _ = split_params(params, trainable)
        if implementation == "jacobian_contraction":
            _check_jacobians_fit(outputs, batch_size, trained)
        return compute(params, x1, x2)

    return kernel_fn


def ntk_contributions(
    apply_fn: DeterministicApplyFn,
    group_fn: Callable[[str], str | None],
    *,
    trace_axes: Sequence[int] = (-1,),
    batch_size: int | None = None,
    jacobian_bytes: int | None = None,
    mesh: Mesh | None = None,
    trainable: Trainable = True,
) -> Callable[..., dict[str, Float[Array, "n m ..."]]]:
    """The empirical ANTK by groups of parameters, such as layers. They sum to it.

    Args:
      apply_fn: `(params, x) -> [n, ...]`, deterministic.
      group_fn: the name of a leaf's group, from its path, such as
        `"params/block_0/kernel"`. None: the leaf is in no group.
      trace_axes: as in `empirical_ntk`, like the arguments after it.
      batch_size: examples whose derivatives are taken at a time.
      jacobian_bytes: about the memory of one part's Jacobian.
      mesh: divide the examples over its devices.
      trainable: which parameters count.

    Returns:
      `(params, x1, x2=None) -> {group: kernel}`, each as `empirical_ntk` returns it.

    Raises:
      ValueError: if no leaf is in a group, the outputs of x1 and x2 do not match, the
        examples do not divide over the mesh, or the kernels do not fit into memory.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.empirical_ntk import ntk_contributions
      >>> contributions_fn = ntk_contributions(
      ...     lambda params, x: (x @ params["w"]) * params["scale"],
      ...     lambda path: path, trace_axes=())
      >>> params = {"w": jnp.ones(3), "scale": jnp.array(2.0)}
      >>> kernels = contributions_fn(params, jnp.eye(3))
      >>> {name: kernel[0].tolist() for name, kernel in kernels.items()}
      {'scale': [1.0, 1.0, 1.0], 'w': [4.0, 0.0, 0.0]}
    """
    counts = {"batch_size": batch_size, "jacobian_bytes": jacobian_bytes}
    for name, value in counts.items():
        if value is not None:
            check_count(name, value)

    @jax.jit
    def compute(params: Params, x1: Batch, x2: Batch | None) -> dict[str, Array]:
        warn_if_narrowed(apply_fn, params, x1)
        trained, frozen = split_params(params, trainable)
        leaves, treedef = jax.tree.flatten(trained)
        outputs1, outputs2 = _outputs(apply_fn, params, x1, x2)
        traced = _traced(trace_axes, outputs1, outputs2)
        contract = contraction(outputs1.shape[1:], outputs2.shape[1:], traced)
        entry = 0 if x2 is None else math.prod(outputs2.shape)
        entry = (entry + math.prod(outputs1.shape)) * outputs1.dtype.itemsize
        largest = max(1, (jacobian_bytes or memory_bytes() // 8) // entry)

        def row_fn(leaves: list[Array], example: Batch) -> Array:
            params = merge_params(treedef.unflatten(leaves), frozen)
            return apply_fn(params, jax.tree.map(lambda leaf: leaf[None], example))[0]

        groups = _groups(trained, group_fn)
        parts = [
            [
                part._replace(leaves=tuple(positions[i] for i in part.leaves))
                for part in parts_of([leaves[i].size for i in positions], largest)
            ]
            for positions in groups.values()
        ]

        def kernels(leaves, x1: Batch, x2: Batch | None, gather) -> dict[str, Array]:
            found = kernels_of_parts(
                row_fn,
                leaves,
                parts,
                x1,
                x2,
                contract,
                batch_size=batch_size,
                gather=gather,
            )
            return dict(zip(groups, found, strict=True))

        if mesh is None:
            return kernels(leaves, x1, x2, lambda jacobian: jacobian)
        axes = mesh.axis_names
        rows = PartitionSpec(axes)
        return jax.shard_map(
            lambda leaves, x1, x2: kernels(
                leaves,
                x1,
                x2,
                lambda jacobian: jax.lax.all_gather(jacobian, axes, tiled=True),
            ),
            mesh=mesh,
            in_specs=(PartitionSpec(), rows, rows),
            out_specs=rows,
            check_vma=False,
        )(leaves, x1, x2)

    def contributions_fn(
        params: Params, x1: Batch, x2: Batch | None = None, /
    ) -> dict[str, Array]:
        outputs = _outputs(apply_fn, params, x1, x2)
        trained, _ = split_params(params, trainable)
        num_groups = len(_groups(trained, group_fn))
        _check_kernel_fits(outputs, _traced(trace_axes, *outputs), num_groups)
        if mesh is not None:
            for name, output in zip(("x1", "x2"), outputs, strict=True):
                if output.shape[0] % mesh.size:
                    raise ValueError(
                        f"the {output.shape[0]} examples of {name} do not divide over "
                        f"the mesh's {mesh.size} devices: pass a multiple of "
                        f"{mesh.size}."
                    )
        return compute(params, x1, x2)

    return contributions_fn


def _groups(
    trained: Params, group_fn: Callable[[str], str | None]
) -> dict[str, list[int]]:
    """The positions of every group's leaves among the trained ones."""
    groups: dict[str, list[int]] = {}
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(trained)
    ]
    for position, path in enumerate(paths):
        if (name := group_fn(path)) is not None:
            groups.setdefault(name, []).append(position)
    if not groups:
        raise ValueError(
            f"group_fn puts no parameter into a group; the paths are "
            f"{', '.join(paths)}: return a name for at least one."
        )
    return groups


def ntk_vector_product(
    apply_fn: DeterministicApplyFn,
    *,
    batch_size: int | None = None,
    trainable: Trainable = True,
) -> KernelProductFn:
    """The full empirical ANTK as an operator, v -> K v, for pools of any size.

    It takes one vjp on x2 and one jvp on x1: K(x1, x2) v = J(x1) (J(x2)ᵀ v). Time and
    memory are about those of a training step.

    Args:
      apply_fn: `(params, x) -> [n, ...]`, deterministic.
      batch_size: examples at a time. None: all at once.
      trainable: which parameters count, as in `empirical_ntk`.

    Returns:
      `(params, values, x1, x2=None) -> [n, ...]`. Values have the shape of f(x2), the
      product has that of f(x1).

    Raises:
      ValueError: if values do not have the shape of the outputs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from theory.empirical_ntk import ntk_vector_product
      >>> product_fn = ntk_vector_product(lambda params, x: x @ params)
      >>> x = jnp.eye(3)
      >>> product_fn(jnp.zeros((3, 2)), jnp.ones((3, 2)), x).shape
      (3, 2)
    """
    if batch_size is not None:
        check_count("batch_size", batch_size)

    @jax.jit
    def compute(params: Params, values: Array, x1: Batch, x2: Batch | None) -> Array:
        warn_if_narrowed(apply_fn, params, x1)
        trained, frozen = split_params(params, trainable)

        def outputs_of(x: Batch) -> Callable[[Params], Array]:
            return lambda trained: _apply(
                apply_fn, merge_params(trained, frozen), x, batch_size
            )

        _, pull_back = jax.vjp(outputs_of(x1 if x2 is None else x2), trained)
        direction = pull_back(values)
        return jax.jvp(outputs_of(x1), (trained,), direction)[1]

    def product_fn(
        params: Params, values: Array, x1: Batch, x2: Batch | None = None, /
    ) -> Array:
        _, outputs2 = _outputs(apply_fn, params, x1, x2)
        if jnp.shape(values) != outputs2.shape:
            raise ValueError(
                f"values has shape {jnp.shape(values)}, but the outputs of "
                f"{'x1' if x2 is None else 'x2'} have shape {outputs2.shape}: pass one "
                f"value per output."
            )
        return compute(params, jnp.asarray(values, outputs2.dtype), x1, x2)

    return product_fn


def _apply(apply_fn, params: Params, x: Batch, batch_size: int | None) -> Array:
    """`apply_fn(params, x)`, whose derivatives hold one batch at a time."""
    if batch_size is None:
        return apply_fn(params, x)

    @jax.checkpoint
    def output(row: PyTree) -> Array:
        return apply_fn(params, jax.tree.map(lambda leaf: leaf[None], row))[0]

    return jax.lax.map(output, x, batch_size=batch_size)


def _outputs(
    apply_fn: DeterministicApplyFn, params: Params, x1: Batch, x2: Batch | None
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """The abstract outputs on both inputs, which may differ in length only."""
    outputs = []
    for name, x in (("x1", x1), ("x2", x1 if x2 is None else x2)):
        num_examples = leading_size(name, x)
        try:
            output = jax.eval_shape(apply_fn, params, x)
        except Exception as error:
            shapes = jax.tree.map(jnp.shape, params)
            raise ValueError(
                f"apply_fn fails on {name} of shape {jax.tree.map(jnp.shape, x)} with "
                f"params of shape {shapes} ({type(error).__name__}: {error}): pass the "
                f"parameters of this model and inputs of the shape it takes."
            ) from error
        if getattr(output, "shape", ())[:1] != (num_examples,):
            raise ValueError(
                f"apply_fn maps {num_examples} examples of {name} to {output}: return "
                f"one array with a row of outputs per example."
            )
        outputs.append(output)
    if outputs[0].ndim != outputs[1].ndim:
        raise ValueError(
            f"the outputs of x1 and x2 have shapes {outputs[0].shape} and "
            f"{outputs[1].shape}: give both as many axes."
        )
    return outputs[0], outputs[1]


def _traced(trace_axes: Sequence[int], outputs1, outputs2) -> set[int]:
    """The traced axes as non-negative numbers."""
    if isinstance(trace_axes, int):
        raise TypeError(f"trace_axes must be a sequence: pass ({trace_axes},).")
    traced = set()
    for axis in trace_axes:
        if not -outputs1.ndim < axis < outputs1.ndim or axis == 0:
            raise ValueError(
                f"trace_axes={tuple(trace_axes)} must name axes of the outputs, of "
                f"shape {outputs1.shape}, other than the first, the examples; for one "
                f"value per example, `[n]`, that is trace_axes=()."
            )
        if outputs1.shape[axis] != outputs2.shape[axis]:
            raise ValueError(
                f"trace_axes={tuple(trace_axes)} pairs the entries of an axis whose "
                f"lengths differ in the outputs of x1, {outputs1.shape}, and of x2, "
                f"{outputs2.shape}: trace over equal axes."
            )
        traced.add(axis % outputs1.ndim)
    return traced


def _check_kernel_fits(
    outputs: Sequence[jax.ShapeDtypeStruct], traced: set[int], num_kernels: int = 1
) -> None:
    shape = [
        length
        for axis, lengths in enumerate(zip(*(o.shape for o in outputs), strict=True))
        if axis not in traced
        for length in lengths
    ]
    kernels = "a kernel" if num_kernels == 1 else f"{num_kernels} kernels"
    check_fits(
        f"{kernels} of shape {tuple(shape)}",
        num_kernels * math.prod(shape) * outputs[0].dtype.itemsize,
        "use fewer examples, trace over channels, or apply the kernel without holding "
        "it, by theory.empirical_ntk.ntk_vector_product",
    )


def _check_jacobians_fit(
    outputs: Sequence[jax.ShapeDtypeStruct], batch_size: int | None, trained: Params
) -> None:
    num_trained = sum(map(jnp.size, jax.tree.leaves(trained)))
    for output in outputs:
        rows = min(batch_size or output.shape[0], output.shape[0])
        check_fits(
            f"the Jacobian of {rows} examples' outputs",
            # neural-tangents holds it twice, with axes in two orders
            2
            * rows
            * math.prod(output.shape[1:])
            * num_trained
            * output.dtype.itemsize,
            "pass a smaller batch_size, or use implementation='parameter_parts'",
        )
