"""The empirical kernel and its product against explicit Jacobians and golden values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.distributed import make_mesh
from attent_jax.models import TextClassifier
from tests.theory.small_networks import (
    GOLDEN,
    MLP,
    POINTS1,
    POINTS2,
    X,
    Z,
    assert_equal,
    mlp,
    ntk_by_jacobian,
)
from theory._jacobians import Part, parts_of
from theory._neural_tangents import known_warnings
from theory._neural_tangents import neural_tangents as nt
from theory._precision import _warn_once, narrowing
from theory.empirical_ntk import empirical_ntk, ntk_contributions, ntk_vector_product
from theory.layout import kernel_product

IMPLEMENTATIONS: Any = [
    "parameter_parts",
    "jacobian_contraction",
    "ntk_vector_products",
]
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
each_inputs = pytest.mark.parametrize("x2", [None, POINTS2], ids=["x", "x2"])
TRAINABLE: Any = {
    "a subtree": {"hidden": True, "out": False},
    "a leaf": {"hidden": {"w": False, "b": True}, "out": False},
    "a function": lambda path: path in ("hidden/b", "out"),
}


def transformer(params, x):
    """Two pre-LN blocks, causal, two heads: independent of golden_antk.py."""

    def normalised(x, gain, bias):
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        return centred / jnp.sqrt(variance + 1e-5) * gain + bias

    def param(name):
        return params[name].reshape(1, 1, -1)

    n, s, width = x.shape
    visible = jnp.tril(jnp.ones((1, 1, s, s), bool))
    for block in ("blk0", "blk1"):
        u = normalised(x, param(f"{block}.g1"), param(f"{block}.b1"))
        q, k, v = (
            (u @ weight).reshape(n, s, 2, width // 2)
            for weight in params[f"{block}.qkv"]
        )
        logits = jnp.einsum("njhi,nlhi->nhjl", q, k) / (width // 2) ** 0.5
        weights = jax.nn.softmax(jnp.where(visible, logits, -jnp.inf))
        heads = jnp.einsum("nhjl,nlhe->njhe", weights, v).reshape(n, s, width)
        x = x + heads @ params[f"{block}.o"]
        u = normalised(x, param(f"{block}.g2"), param(f"{block}.b2"))
        hidden = jax.nn.gelu(u @ params[f"{block}.w1"] + param(f"{block}.c1"))
        x = x + hidden @ params[f"{block}.w2"] + param(f"{block}.c2")
    return normalised(x, param("g"), param("b")) @ params["head"]


TRANSFORMER = {
    name.removeprefix("in.tf."): GOLDEN[name]
    for name in GOLDEN.files
    if name.startswith("in.tf.")
}


@pytest.mark.parametrize(
    ("kernel", "implementation"),
    [
        pytest.param("full_xx", "jacobian_contraction", marks=pytest.mark.slow),
        ("full_xz", "ntk_vector_products"),
        ("trace_xz", "parameter_parts"),
        pytest.param("pool_xz", "jacobian_contraction", marks=pytest.mark.slow),
    ],
)
def test_transformers_kernel_is_golden(kernel, implementation):
    readout, _, inputs = kernel.partition("_")

    def apply_fn(params, x):
        outputs = transformer(params, x)
        return outputs.mean(axis=1) if readout == "pool" else outputs

    kernel_fn = empirical_ntk(
        apply_fn,
        trace_axes=(-1,) if readout == "trace" else (),
        implementation=implementation,
    )
    found = kernel_fn(TRANSFORMER, X, {"xx": None, "xz": Z}[inputs])
    assert_equal(found, GOLDEN[f"transformer/{kernel}"])


@each_implementation
@each_inputs
def test_kernel_is_the_product_of_jacobians(implementation, x2):
    kernel_fn = empirical_ntk(mlp, trace_axes=(), implementation=implementation)
    expected = ntk_by_jacobian(mlp, MLP, POINTS1, x2)
    assert_equal(kernel_fn(MLP, POINTS1, x2), expected)


@each_implementation
@pytest.mark.parametrize(
    ("trace_axes", "traced"),
    [
        ((-1,), lambda kernel: np.einsum("nmstcc->nmst", kernel) / 3),
        ((1,), lambda kernel: np.einsum("nmsscd->nmcd", kernel) / 2),
        ((2, -2), lambda kernel: np.einsum("nmsscc->nm", kernel) / 6),
    ],
    ids=["channels", "positions", "both"],
)
def test_traced_kernel_is_the_mean_over_equal_entries(
    implementation, trace_axes, traced
):
    kernel_fn = empirical_ntk(mlp, trace_axes=trace_axes, implementation=implementation)
    expected = traced(ntk_by_jacobian(mlp, MLP, POINTS1, POINTS2))
    assert_equal(kernel_fn(MLP, POINTS1, POINTS2), expected)


@each_inputs
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[:2])
def test_blocks_that_do_not_divide_make_the_whole(implementation, x2):
    kernel_fn = empirical_ntk(
        mlp, trace_axes=(), batch_size=3, implementation=implementation
    )
    expected = ntk_by_jacobian(mlp, MLP, POINTS1, x2)
    assert_equal(kernel_fn(MLP, POINTS1, x2), expected)


# MLP has leaves of 4, 12 and 24 entries; one entry takes 8 · 6 bytes per example.
@each_inputs
@pytest.mark.parametrize("entries", [1, 5, 16, 40])
def test_parts_of_the_parameters_make_the_whole(entries, x2):
    num_examples = 4 if x2 is None else 7
    kernel_fn = empirical_ntk(
        mlp, trace_axes=(), jacobian_bytes=entries * 48 * num_examples
    )
    expected = ntk_by_jacobian(mlp, MLP, POINTS1, x2)
    assert_equal(kernel_fn(MLP, POINTS1, x2), expected)


def test_parts_hold_what_they_may():
    assert parts_of([4, 12, 24], 40) == [Part((0, 1, 2), 1)]
    assert parts_of([4, 12, 24], 39) == [Part((0, 1), 1), Part((2,), 1)]
    assert parts_of([4, 12, 24], 16) == [Part((2,), 2), Part((0, 1), 1)]
    assert parts_of([4, 12, 24], 5) == [Part((1,), 3), Part((2,), 5), Part((0,), 1)]


def test_examples_are_divided_over_devices():
    mesh = make_mesh(devices=jax.devices()[:2])
    options: Any = {"trace_axes": (), "mesh": mesh, "jacobian_bytes": 16 * 48 * 6}
    kernel_fn = empirical_ntk(mlp, **options)
    x2 = np.concatenate([POINTS2, POINTS1[:1]])
    for second in (None, x2):
        found = kernel_fn(MLP, POINTS1, second)
        assert_equal(found, ntk_by_jacobian(mlp, MLP, POINTS1, second))
        shapes = {shard.data.shape for shard in found.addressable_shards}
        assert shapes == {(2, 4, 2, 2, 3, 3)}


def test_contributions_of_groups_are_those_of_their_parameters():
    def group_of(path):
        return None if path == "hidden/b" else path.split("/")[0]

    kernels = ntk_contributions(mlp, group_of, trace_axes=())(MLP, POINTS1, POINTS2)
    assert set(kernels) == {"hidden", "out"}
    weights = {"hidden": {"w": True, "b": False}, "out": False}
    assert_equal(kernels["hidden"], kernel_of_trained(weights))
    assert_equal(kernels["out"], kernel_of_trained({"hidden": False, "out": True}))


def test_leaves_that_are_not_floating_point_are_left_out():
    """As in the state of a model with dropout: a counter and a key."""
    state = {"params": MLP, "count": np.int32(3), "key": jax.random.key(0)}

    def apply_fn(state, x):
        return mlp(state["params"], x) * state["count"].astype(float)

    expected = 9 * ntk_by_jacobian(mlp, MLP, POINTS1)
    assert_equal(empirical_ntk(apply_fn, trace_axes=())(state, POINTS1), expected)
    values = jnp.ones((4, 2, 3))
    product = ntk_vector_product(apply_fn)(state, values, POINTS1)
    assert_equal(product, kernel_product(expected, values))


@jax.numpy_dtype_promotion("standard")
@pytest.mark.parametrize("inside", ["directly", "scan", "cond"])
def test_arithmetic_in_float32_inside_a_float64_program_is_noticed(inside):
    def narrow(x):
        return jnp.tanh(x.astype(jnp.float32))

    def apply_fn(params, x):
        x = x @ params
        if inside == "scan":
            return jax.lax.scan(lambda _, row: (None, narrow(row)), None, x)[1]
        if inside == "cond":
            return jax.lax.cond(True, narrow, lambda x: x.astype(jnp.float32), x)
        return narrow(x)

    params = np.ones((3, 2))
    for make in (empirical_ntk, ntk_contributions, ntk_vector_product):
        _warn_once.cache_clear()
        arguments = (lambda path: "all",) if make is ntk_contributions else ()
        function: Any = make(apply_fn, *arguments)
        values = (np.ones((4, 2)),) if make is ntk_vector_product else ()
        with pytest.warns(
            UserWarning,
            match=r"apply_fn takes float64 and computes in l"
            r"ess on its way \(convert_element_type to float32\)",
        ):
            function(params, *values, POINTS1)


def test_float32_alone_is_not_narrowed():
    x = POINTS1.astype(np.float32)
    program = jax.make_jaxpr(lambda x: jnp.tanh(x) * 2)(x)
    assert narrowing(program.jaxpr) is None


def kernel_of_trained(trainable):
    """By the Jacobian of the trained leaves alone."""
    if callable(trainable):
        is_trained = {
            "hidden": {name: trainable(f"hidden/{name}") for name in MLP["hidden"]},
            "out": trainable("out"),
        }
    else:
        hidden = trainable["hidden"]
        is_trained = {
            "hidden": hidden
            if isinstance(hidden, dict)
            else {"w": hidden, "b": hidden},
            "out": trainable["out"],
        }
    frozen = jax.tree.map(lambda keep, leaf: None if keep else leaf, is_trained, MLP)
    trained = jax.tree.map(lambda keep, leaf: leaf if keep else None, is_trained, MLP)

    def apply_fn(trained, x):
        params = jax.tree.map(
            lambda one, other: other if one is None else one,
            trained,
            frozen,
            is_leaf=lambda leaf: leaf is None,
        )
        return mlp(params, x)

    return ntk_by_jacobian(apply_fn, trained, POINTS1, POINTS2)


@pytest.mark.parametrize("trainable", TRAINABLE.values(), ids=TRAINABLE)
def test_only_trained_parameters_count(trainable):
    expected = kernel_of_trained(trainable)
    kernel_fn = empirical_ntk(mlp, trace_axes=(), trainable=trainable)
    assert_equal(kernel_fn(MLP, POINTS1, POINTS2), expected)
    product_fn = ntk_vector_product(mlp, trainable=trainable)
    values = jnp.sin(jnp.arange(18.0)).reshape(3, 2, 3)
    found = product_fn(MLP, values, POINTS1, POINTS2)
    assert_equal(found, kernel_product(expected, values))


def test_kernels_of_the_parts_sum_to_the_whole():
    whole = empirical_ntk(mlp)(MLP, POINTS1)
    parts = (
        empirical_ntk(mlp, trainable={"hidden": hidden, "out": not hidden})
        for hidden in (True, False)
    )
    assert_equal(sum(kernel_fn(MLP, POINTS1) for kernel_fn in parts), whole)


def test_adapters_alone_give_their_kernel():
    rng = np.random.default_rng(2)
    params = {
        "base": rng.normal(size=(3, 4)),
        "lora": {"a": rng.normal(size=(3, 1)), "b": np.zeros((1, 4))},
    }

    def apply_fn(params, x):
        return x @ (params["base"] + params["lora"]["a"] @ params["lora"]["b"])

    kernel_fn = empirical_ntk(
        apply_fn, trace_axes=(), trainable={"base": False, "lora": True}
    )
    # at b = 0 only b moves: the kernel sees x through a alone
    seen = POINTS1 @ params["lora"]["a"]
    expected = np.einsum("nm,cd->nmcd", seen @ seen.T, np.eye(4))
    assert_equal(kernel_fn(params, POINTS1), expected)


def test_one_output_per_example_needs_no_trace():
    def apply_fn(params, x):
        return mlp(params, x)[:, 0, 0]

    kernel = empirical_ntk(apply_fn, trace_axes=())(MLP, POINTS1, POINTS2)
    expected = ntk_by_jacobian(mlp, MLP, POINTS1, POINTS2)[:, :, 0, 0, 0, 0]
    assert_equal(kernel, expected)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_inputs_may_be_pytrees(batch_size):
    def apply_fn(params, batch):
        return mlp(params, batch["x"] * batch["scale"][:, None])

    def batch_of(x):
        return {"x": x, "scale": 1 + np.arange(len(x), dtype=float)}

    batches = batch_of(POINTS1), batch_of(POINTS2)
    kernel_fn = empirical_ntk(apply_fn, trace_axes=(), batch_size=batch_size)
    scaled = [batch["x"] * batch["scale"][:, None] for batch in batches]
    assert_equal(kernel_fn(MLP, *batches), ntk_by_jacobian(mlp, MLP, *scaled))
    product_fn = ntk_vector_product(apply_fn, batch_size=batch_size)
    values = jnp.ones((3, 2, 3))
    assert_equal(
        product_fn(MLP, values, *batches),
        kernel_product(kernel_fn(MLP, *batches), values),
    )


@each_inputs
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_product_is_that_with_the_kernel(x2, batch_size):
    second = POINTS1 if x2 is None else x2
    values = jnp.cos(jnp.arange(6.0 * len(second))).reshape(-1, 2, 3)
    found = ntk_vector_product(mlp, batch_size=batch_size)(MLP, values, POINTS1, x2)
    expected = kernel_product(ntk_by_jacobian(mlp, MLP, POINTS1, x2), values)
    assert_equal(found, expected)


def test_product_is_neural_tangents():
    values = jnp.cos(jnp.arange(18.0)).reshape(3, 2, 3)
    with known_warnings():
        their_fn = nt.empirical_ntk_vp_fn(mlp, POINTS1, POINTS2, MLP)
        expected = their_fn(values)
    found = ntk_vector_product(mlp)(MLP, values, POINTS1, POINTS2)
    assert_equal(found, expected)


@jax.numpy_dtype_promotion("standard")  # Flax adds float32 to float64
def test_a_flax_learner_has_a_kernel():
    model: Any = TextClassifier(
        vocabulary_size=9,
        num_classes=2,
        width=4,
        num_layers=1,
        num_heads=2,
        mlp_ratio=1,
    )
    tokens = jnp.array([[3, 7, 1], [4, 8, 0]])
    rng = np.random.default_rng(3)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape),
        jax.eval_shape(model.init, jax.random.key(0), tokens),
    )
    kernel = empirical_ntk(model.apply, trace_axes=())(params, tokens)
    product_fn = ntk_vector_product(model.apply)
    values = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    product = product_fn(params, values, tokens)
    assert_equal(product, kernel_product(kernel, values))


def test_kernel_works_under_jit_and_grad():
    kernel_fn = empirical_ntk(mlp)

    def trace(scale):
        params = MLP | {"out": scale * MLP["out"]}
        return jnp.einsum("nnss->", kernel_fn(params, POINTS1))

    # the output's weights scale the hidden ones' kernel by their square
    hidden = empirical_ntk(mlp, trainable={"hidden": True, "out": False})
    expected = 2 * jnp.einsum("nnss->", hidden(MLP, POINTS1))
    np.testing.assert_allclose(jax.jit(jax.grad(trace))(1.0), expected)


def test_product_works_under_jit_and_grad():
    product_fn = ntk_vector_product(mlp)
    values = jnp.ones((4, 2, 3))

    def energy(values):
        return jnp.vdot(values, product_fn(MLP, values, POINTS1)) / 2

    found = jax.jit(jax.grad(energy))(values)
    assert_equal(found, product_fn(MLP, values, POINTS1))
