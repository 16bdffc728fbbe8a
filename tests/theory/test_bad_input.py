"""Each error names the argument and its value, and says what to do instead."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import selectors
from attent_jax.distributed import make_mesh
from tests.theory.small_networks import MLP, MULTI, POINTS1, SINGLE, X, mlp
from theory.attention_ntk import attention, attention_ntk
from theory.convergence import KernelTracker, cka, relative_distance, target_alignment
from theory.empirical_ntk import empirical_ntk, ntk_contributions, ntk_vector_product
from theory.functional_gradient import (
    functional_gradient_descent,
    predict_mse,
    teach_function,
)
from theory.infinite_width import analytic_attention_ntk, finite_width_convergence
from theory.layout import as_matrix, blockwise, kernel_product, transpose
from theory.spectrum import max_learning_rate, spectrum

EMPIRICAL: Any = empirical_ntk
CLOSED: Any = attention_ntk
DESCENT = functional_gradient_descent(jnp.eye(3), lambda f: f, 0.1)
FOUR_DEVICES = make_mesh(devices=jax.devices()[:4])


def zeros(*shape) -> Any:
    """Of any size: takes no memory."""
    return np.broadcast_to(0.0, shape)


def kernel_of_mlp(x1=POINTS1, x2=None, params: Any = MLP, apply_fn: Any = mlp, **kw):
    return EMPIRICAL(apply_fn, **kw)(params, x1, x2)


def converge(widths: Any = (1, 2), num_seeds: Any = 1):
    key = jax.random.key(0)
    return finite_width_convergence(X, widths=widths, num_seeds=num_seeds, rng=key)


def teach(**counts):
    return teach_function(
        DESCENT, jnp.zeros(3), selectors.top_k(), rng=jax.random.key(0), **counts
    )


# What is done, and what the error says: the argument, the value, the remedy.
CASES = {
    "weights of another pool": (
        lambda: DESCENT.step(DESCENT.init(jnp.zeros(3)), jnp.ones(1)),
        r"weights has shape \(1,\), but the pool has 3 examples: pass one weight for",
    ),
    "words for bools": (
        lambda: kernel_of_mlp(trainable={"hidden": "no", "out": True}),
        "trainable gives 'no' for the leaf 'hidden/.': give True or False",
    ),
    "several outputs": (
        lambda: kernel_of_mlp(apply_fn=lambda params, x: (mlp(params, x),)),
        "4 examples of x1 to .*return one array with a row of outputs per example",
    ),
    "tokens for sequences": (
        lambda: analytic_attention_ntk(jnp.ones((3, 4))),
        r"x1 has shape \(3, 4\): pass sequences \[n, s, D\]",
    ),
    "sequences of other features": (
        lambda: analytic_attention_ntk(jnp.ones((3, 4, 5)), jnp.ones((3, 4, 6))),
        r"x2 has shape \(3, 4, 6\): pass sequences .* of 5 features",
    ),
    "points of two lengths": (
        lambda: predict_mse(
            jnp.eye(3),
            jnp.zeros(3),
            jnp.ones(3),
            kernel_to_points=jnp.ones((2, 3)),
            outputs_on_points=jnp.zeros(5),
        ),
        "kernel_to_points is to 2 points, outputs_on_points has 5: pass the same",
    ),
    # the closed form
    "unknown readout": (
        lambda: CLOSED(MULTI, X, readout="mean"),
        "readout must be one of full, trace, pool, got 'mean'",
    ),
    "heads without w_o": (
        lambda: attention(MULTI._replace(w_o=None), X),
        r"params has 2 heads and no w_o: give it w_o \[H, e, p\]",
    ),
    "keys of another size": (
        lambda: attention_ntk(MULTI._replace(w_k=zeros(2, 6, 3)), X),
        r"w_q \(2, 6, 4\), w_k \(2, 6, 3\).*must be \[H, D, k\]",
    ),
    "values of another head": (
        lambda: attention_ntk(MULTI._replace(w_v=zeros(1, 6, 4)), X),
        r"w_v \(1, 6, 4\): they must be .*\[H, D, e\]",
    ),
    "weights without heads": (
        lambda: attention(SINGLE._replace(w_q=zeros(6, 6), w_k=zeros(6, 6)), X),
        r"w_q \(6, 6\).*must be \[H, D, k\]",
    ),
    "projection of other values": (
        lambda: attention_ntk(MULTI._replace(w_o=zeros(2, 3, 5)), X),
        r"w_v \(2, 6, 4\) and w_o \(2, 3, 5\): .*\[H, e, p\]",
    ),
    "other features in x1": (
        lambda: attention_ntk(MULTI, zeros(3, 5, 7)),
        r"x1 has shape \(3, 5, 7\), .* 6 features: pass sequences \[n, s, 6\]",
    ),
    "other features in x2": (
        lambda: attention_ntk(MULTI, X, zeros(3, 5, 7)),
        r"x2 has shape \(3, 5, 7\)",
    ),
    "one sequence": (
        lambda: attention(MULTI, X[0]),
        r"x has shape \(5, 6\), .*pass sequences \[n, s, 6\]",
    ),
    "sequences of no token": (
        lambda: attention_ntk(MULTI, zeros(3, 0, 6)),
        r"x1 has shape \(3, 0, 6\).*none empty",
    ),
    "no sequence": (
        lambda: attention_ntk(MULTI, X, zeros(0, 5, 6)),
        r"x2 has shape \(0, 5, 6\).*none empty",
    ),
    "closed form larger than the memory": (
        lambda: attention_ntk(MULTI, zeros(10**5, 50, 6)),
        r"four kernels of shape \(100000, 100000, 50, 50, 5, 5\) would take "
        r"18,626,451.5 GiB.*only .* GiB of memory: .*\"trace\".*ntk_vector_product",
    ),
    "closed form in blocks of none": (
        lambda: attention_ntk(MULTI, X, batch_size=0),
        "batch_size must be a positive integer, got 0",
    ),
    "closed form in blocks of True": (
        lambda: attention_ntk(MULTI, X, batch_size=True),
        "batch_size must be a positive integer, got True",
    ),
    "closed form in blocks of a fraction": (
        lambda: CLOSED(MULTI, X, batch_size=1.5),
        "batch_size must be a positive integer, got 1.5",
    ),
    # the empirical kernel
    "unknown implementation": (
        lambda: EMPIRICAL(mlp, implementation="auto"),
        "implementation must be one of parameter_parts, jacobian_contraction, "
        "ntk_vector_products, got "
        f"'auto': .*jax {jax.__version__}",
    ),
    **{
        f"{name} in blocks of {size}": (
            lambda make=make, size=size: make(mlp, batch_size=size),
            f"batch_size must be a positive integer, got {size}",
        )
        for name, make in {"ntk": EMPIRICAL, "product": ntk_vector_product}.items()
        for size in (0, 1.5, True)
    },
    "trace over the examples": (
        lambda: kernel_of_mlp(trace_axes=(0,)),
        r"trace_axes=\(0,\) must name axes.* \(4, 2, 3\), other than the first",
    ),
    "trace over the examples from behind": (
        lambda: kernel_of_mlp(trace_axes=(-3,)),
        r"trace_axes=\(-3,\) must name axes",
    ),
    "trace over an axis that is not there": (
        lambda: kernel_of_mlp(trace_axes=(-1, 3)),
        r"trace_axes=\(-1, 3\) must name axes of the outputs, of shape \(4, 2, 3\)",
    ),
    "trace over one value per example": (
        lambda: kernel_of_mlp(apply_fn=lambda params, x: mlp(params, x)[:, 0, 0]),
        r"trace_axes=\(-1,\).*for one value per example, .*trace_axes=\(\)",
    ),
    "trace over lengths that differ": (
        lambda: kernel_of_mlp(
            X, zeros(2, 7, 6), apply_fn=lambda w, x: x * w, params=1.0, trace_axes=(1,)
        ),
        r"trace_axes=\(1,\) .*differ .*\(3, 5, 6\), and of x2, \(2, 7, 6\): trace over",
    ),
    "outputs of other ranks": (
        lambda: kernel_of_mlp(
            X, POINTS1, apply_fn=lambda w, x: x * w, params=1.0, trace_axes=()
        ),
        r"outputs of x1 and x2 have shapes \(3, 5, 6\) and \(4, 3\): give both as many",
    ),
    "parameters of another model": (
        lambda: kernel_of_mlp(params=MLP | {"out": zeros(5, 6)}),
        r"apply_fn fails on x1 of shape \(4, 3\) with params .*\(5, 6\).*pass the "
        "parameters of this model",
    ),
    "inputs of another model": (
        lambda: kernel_of_mlp(POINTS1, zeros(2, 7)),
        r"apply_fn fails on x2 of shape \(2, 7\).*inputs of the shape it takes",
    ),
    "one output for all examples": (
        lambda: kernel_of_mlp(apply_fn=lambda params, x: mlp(params, x).mean(axis=0)),
        r"4 examples of x1 to .*shape=\(2, 3\).*: return one array with a row of",
    ),
    "no examples": (
        lambda: kernel_of_mlp(zeros(0, 3)),
        r"x1 must hold arrays that share a leading axis.*got shapes \(0, 3\)",
    ),
    "examples of two lengths": (
        lambda: kernel_of_mlp(POINTS1, {"a": zeros(2, 3), "b": zeros(3, 3)}),
        r"x2 must hold arrays that share a leading axis.*'a': \(2, 3\), 'b': \(3, 3\)",
    ),
    "kernel larger than the memory": (
        lambda: kernel_of_mlp(zeros(10**7, 3), batch_size=1),
        r"a kernel of shape \(10000000, 10000000, 2, 2\) would take 2,980,232.2 GiB, "
        "but there are only .* GiB of memory: use fewer .*ntk_vector_product",
    ),
    "Jacobian larger than the memory": (
        lambda: kernel_of_mlp(
            zeros(10**4, 10**4),
            params=zeros(10**4, 100),
            apply_fn=lambda w, x: x @ w,
            implementation="jacobian_contraction",
        ),
        r"the Jacobian of 10000 examples' outputs would take 14,901.2 GiB.*"
        "pass a smaller batch_size, or use implementation='parameter_parts'",
    ),
    "parts of parameters for neural-tangents": (
        lambda: kernel_of_mlp(
            implementation="ntk_vector_products", jacobian_bytes=10**9
        ),
        "jacobian_bytes=1000000000 is for implementation='parameter_parts', got 'ntk_v",
    ),
    "parts of no memory": (
        lambda: kernel_of_mlp(jacobian_bytes=0),
        "jacobian_bytes must be a positive integer, got 0",
    ),
    "examples that do not divide over the devices": (
        lambda: kernel_of_mlp(POINTS1, POINTS1[:3], mesh=FOUR_DEVICES),
        "the 3 examples of x2 do not divide over the mesh's 4 devices: pass a multiple",
    ),
    "no groups of parameters": (
        lambda: ntk_contributions(mlp, lambda path: None)(MLP, POINTS1),
        "group_fn puts no parameter into a group; the paths are hidden/b, hidden/w, ou",
    ),
    "parameters without a gradient": (
        lambda: kernel_of_mlp(params={"n": np.arange(3)}, apply_fn=lambda p, x: x),
        "params has no trained leaf of floating point, only leaves of int64: pass",
    ),
    "steps that are not whole": (
        lambda: predict_mse(jnp.eye(3), jnp.zeros(3), jnp.ones(3), num_steps=2.5),
        "num_steps must be 0 or more and whole, or inf, got 2.5: descent takes whole",
    ),
    "steps back": (
        lambda: predict_mse(jnp.eye(3), jnp.zeros(3), jnp.ones(3), num_steps=-1),
        "num_steps must be 0 or more and whole, or inf, got -1",
    ),
    "nothing trained": (
        lambda: kernel_of_mlp(trainable=False),
        "trainable=False leaves no parameter to train; .*mark at least one",
    ),
    "nothing trained by a function": (
        lambda: kernel_of_mlp(trainable=lambda path: path == "head"),
        "leaves no parameter to train",
    ),
    "mask of another model": (
        lambda: kernel_of_mlp(trainable={"hidden": True}),
        r"trainable=\{'hidden': True\} does not fit params, whose.*give one bool for",
    ),
    "values of another shape": (
        lambda: ntk_vector_product(mlp)(MLP, zeros(4, 6), POINTS1),
        r"values has shape \(4, 6\), but the outputs of x1 have shape \(4, 2, 3\)",
    ),
    "values on x1 instead of x2": (
        lambda: ntk_vector_product(mlp)(MLP, zeros(4, 2, 3), POINTS1, POINTS1[:3]),
        r"values has shape \(4, 2, 3\), but the outputs of x2 have shape \(3, 2, 3\)",
    ),
    # layout
    **{
        f"{function.__name__} of a kernel of three axes": (
            lambda function=function: function(zeros(3, 3, 2)),
            r"kernel has shape \(3, 3, 2\), whose axes do not come in pairs: pass",
        )
        for function in (as_matrix, transpose, spectrum, max_learning_rate)
    },
    "a kernel of no axes": (lambda: as_matrix(jnp.ones(())), r"kernel has shape \(\)"),
    "product with other values": (
        lambda: kernel_product(zeros(3, 2, 5, 7), zeros(2, 5)),
        r"values has shape \(2, 5\), .* outputs of shape \(2, 7, .*\): pass one",
    ),
    "blocks of no example": (
        lambda: blockwise(lambda x1, x2: x1, zeros(0, 3), None, 2),
        r"x1 must hold .*at least one example, got shapes \(0, 3\)",
    ),
    # spectra and distances
    "spectrum between different examples": (
        lambda: spectrum(zeros(3, 2)),
        r"kernel has shape \(3, 2\), between different outputs: pass that of",
    ),
    "distance between different kernels": (
        lambda: relative_distance(zeros(3, 3), zeros(1, 3)),
        r"the kernels have shapes \(3, 3\) and \(1, 3\): compare kernels of the same",
    ),
    "CKA of different kernels": (
        lambda: cka(zeros(3, 3), zeros(2, 2)),
        r"shapes \(3, 3\) and \(2, 2\)",
    ),
    "targets of other examples": (
        lambda: target_alignment(zeros(3, 3), zeros(2)),
        r"targets has shape \(2,\), .*outputs of shape \(3,\): pass one target per",
    ),
    "one kernel to keep": (
        lambda: KernelTracker(lambda params: params, max_kernels=1),
        "max_kernels must be at least 2, got 1: the first kernel and the last",
    ),
    "no kernel to keep": (
        lambda: KernelTracker(lambda params: params, max_kernels=0),
        "max_kernels must be a positive integer, got 0",
    ),
    # function space
    "outputs on other points": (
        lambda: DESCENT.init(jnp.zeros(2)),
        r"outputs has shape \(2,\), .*kernel, of shape \(3, 3\), is on 3 points: pass",
    ),
    "none selected": (
        lambda: teach(num_selected=0, num_steps=1),
        "num_selected must be a positive integer, got 0",
    ),
    "no step": (
        lambda: teach(num_selected=1, num_steps=0),
        "num_steps must be a positive integer, got 0",
    ),
    "points without outputs": (
        lambda: predict_mse(
            jnp.eye(2), zeros(2), zeros(2), kernel_to_points=jnp.eye(2)
        ),
        "kernel_to_points and outputs_on_points go together: pass both or neither",
    ),
    "prediction from a kernel that is not square": (
        lambda: predict_mse(zeros(3, 2), zeros(2), zeros(2)),
        r"kernel has shape \(3, 2\), between different outputs",
    ),
    # infinite width
    "one width": (lambda: converge((4, 4)), r"widths=\(4, 4\) must be two or more"),
    "width 0": (lambda: converge((4, 0)), "widths must be a positive integer, got 0"),
    "no seed": (
        lambda: converge(num_seeds=0),
        "num_seeds must be a positive integer, got 0",
    ),
}


@pytest.mark.parametrize(("act", "message"), CASES.values(), ids=CASES.keys())
def test_error_names_argument_value_and_remedy(act, message):
    with pytest.raises((TypeError, ValueError), match=f"(?s){message}"):
        act()


def test_a_closed_form_just_large_enough_is_not_refused(monkeypatch):
    num_bytes = 4 * (3 * 5) ** 2 * 8  # four kernels between 3 sequences of 5 tokens
    params = SINGLE._replace(w_v=SINGLE.w_v[:, :, :1])
    monkeypatch.setattr("theory._checks.memory_bytes", lambda: num_bytes)
    attention_ntk(params, X, readout="trace")
    monkeypatch.setattr("theory._checks.memory_bytes", lambda: num_bytes - 1)
    with pytest.raises(ValueError, match="would take"):
        attention_ntk(params, X, readout="trace")


def test_the_covariances_must_fit_too(monkeypatch):
    wide = SINGLE._replace(w_v=np.zeros((1, 6, 1000)))
    # 3 sequences of 5 tokens: 1000 outputs with 6 features and 6 keys each
    monkeypatch.setattr("theory._checks.memory_bytes", lambda: 10**6)
    with pytest.raises(ValueError, match="covariances of 3 sequences would take"):
        attention_ntk(wide, X, readout="trace")
    attention_ntk(wide, X, readout="trace", batch_size=1)


def test_a_lone_axis_is_refused():
    with pytest.raises(TypeError, match=r"trace_axes .* sequence: pass \(-1,\)"):
        kernel_of_mlp(trace_axes=-1)


def test_products_have_no_kernel_to_fit(monkeypatch):
    monkeypatch.setattr("theory._checks.memory_bytes", lambda: 1)
    ntk_vector_product(mlp)(MLP, jnp.ones((4, 2, 3)), POINTS1)


def test_blocks_hold_a_smaller_jacobian(monkeypatch):
    # 4 examples, 6 outputs, 40 parameters of 8 bytes, held twice
    monkeypatch.setattr("theory._checks.memory_bytes", lambda: 2 * 3 * 6 * 40 * 8)
    contraction = {"implementation": "jacobian_contraction"}
    kernel_of_mlp(batch_size=3, **contraction)
    kernel_of_mlp(implementation="ntk_vector_products")
    kernel_of_mlp()
    kernel_of_mlp(trainable={"hidden": True, "out": False}, **contraction)
    with pytest.raises(ValueError, match="Jacobian of 4 examples"):
        kernel_of_mlp(**contraction)


def test_jacobian_of_the_second_inputs_must_fit_too(monkeypatch):
    monkeypatch.setattr("theory._checks.memory_bytes", lambda: 2 * 3 * 6 * 40 * 8)
    with pytest.raises(ValueError, match="Jacobian of 4 examples"):
        kernel_of_mlp(POINTS1[:1], POINTS1, implementation="jacobian_contraction")
