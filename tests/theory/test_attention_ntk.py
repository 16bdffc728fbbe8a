"""The closed form against golden values, derivatives, and what it must satisfy."""

from typing import Any

import jax
import numpy as np
import pytest

from tests.theory.small_networks import GOLDEN, MULTI, SINGLE, X, Z, assert_equal
from theory import _attention_contractions
from theory import attention_ntk as module
from theory.attention_ntk import AttentionParams, attention, attention_ntk
from theory.empirical_ntk import empirical_ntk
from theory.layout import as_matrix

LAYERS = {"single": SINGLE, "multi": MULTI}
COMPILED: Any = module._attention_ntk
each_part = pytest.mark.parametrize("part", ["q", "k", "v", "o"])


def part_of(kernel, part) -> np.ndarray:
    return np.asarray(getattr(kernel, part))


def contracted_by(monkeypatch, readout):
    """Have 'pool by pairs' or 'pool by jacobians' contract the pooled kernel so."""
    readout, _, way = readout.partition(" by ")
    if way:
        monkeypatch.setattr(
            _attention_contractions, "_is_cheaper_by_pairs", lambda a, b: way == "pairs"
        )
        COMPILED.clear_cache()
    return readout


READOUTS = {
    "full": lambda kernel: kernel,
    "trace": lambda kernel: np.einsum("nmjlcc->nmjl", kernel) / kernel.shape[-1],
    "pool by pairs": lambda kernel: kernel.mean(axis=(2, 3)),
    "pool by jacobians": lambda kernel: kernel.mean(axis=(2, 3)),
}


# golden values


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_golden(name):
    for inputs, expected in ((X, "out_x"), (Z, "out_z")):
        assert_equal(attention(LAYERS[name], inputs), GOLDEN[f"{name}/{expected}"])


@pytest.mark.parametrize(
    "kernel", ["full_xx", "full_xz", "trace_xx", "trace_xz", "pool_xz"]
)
@pytest.mark.parametrize("name", LAYERS)
def test_kernel_is_golden(name, kernel):
    readout, _, inputs = kernel.partition("_")
    x2 = {"xx": None, "xz": Z}[inputs]
    found = attention_ntk(LAYERS[name], X, x2, readout=readout)
    assert_equal(found.total, GOLDEN[f"{name}/{kernel}"])


# derivatives


def attention_by_definition(params, x, causal):
    """Head by head in numpy, without max-shift: analytic, so complex steps work."""
    outputs: Any = 0
    visible = np.tri(x.shape[1]) if causal else 1
    for head, (w_q, w_k, w_v) in enumerate(zip(*params[:3], strict=True)):
        powers = visible * np.exp(
            (x @ w_q) @ (x @ w_k).swapaxes(1, 2) / w_q.shape[1] ** 0.5
        )
        values = x @ w_v
        if params.w_o is not None:
            values = values @ params.w_o[head]
        outputs = outputs + powers / powers.sum(axis=2, keepdims=True) @ values
    return outputs


def derivatives(params, x, causal) -> dict[str, np.ndarray]:
    """`[n, s, p, size]` by each weight, f'(w) = Im f(w + ih) / h: exact to rounding."""

    def by_entry(name, index):
        moved = params._asdict()[name].astype(complex)
        moved[index] += 1e-30j
        outputs = attention_by_definition(params._replace(**{name: moved}), x, causal)
        return outputs.imag / 1e-30

    nothing = [0 * attention_by_definition(params, x, causal)]
    return {
        name.removeprefix("w_"): np.stack(
            nothing
            if weight is None
            else [by_entry(name, index) for index in np.ndindex(weight.shape)],
            axis=-1,
        )
        for name, weight in params._asdict().items()
    }


def case(seed) -> tuple[AttentionParams, Any, Any]:
    """Random sizes; the seed's bits say whether there are a w_o and other inputs."""
    rng: Any = np.random.default_rng(seed)
    n, m, num_features, k, e, p = rng.integers(1, 4, size=6)
    s, t = rng.permutation([2, 3, 4])[:2]  # one token alone has no choice
    has_w_o = bool(seed & 1)
    num_heads = rng.integers(2, 4) if has_w_o else 1
    params = AttentionParams(
        w_q=rng.normal(size=(num_heads, num_features, k)),
        w_k=rng.normal(size=(num_heads, num_features, k)),
        w_v=rng.normal(size=(num_heads, num_features, e)),
        w_o=rng.normal(size=(num_heads, e, p)) if has_w_o else None,
    )
    x1 = rng.normal(size=(n, s, num_features))
    x2 = rng.normal(size=(m, t, num_features)) if seed & 2 else None
    return params, x1, x2


CASES = {
    # readout, causal, seed
    "full, all to all": ("full", False, 3),
    "full, causal": ("full", True, 0),
    "full, heads, causal": ("full", True, 9),
    "trace, all to all": ("trace", False, 2),
    "trace, causal": ("trace", True, 5),
    "pool by pairs, all to all": ("pool by pairs", False, 7),
    "pool by pairs, causal": ("pool by pairs", True, 4),
    "pool by jacobians, all to all": ("pool by jacobians", False, 1),
    "pool by jacobians, causal": ("pool by jacobians", True, 11),
}


@pytest.mark.parametrize(("readout", "causal", "seed"), CASES.values(), ids=CASES)
def test_each_part_is_the_product_of_its_derivatives(
    monkeypatch, readout, causal, seed
):
    params, x1, x2 = case(seed)
    name: Any = contracted_by(monkeypatch, readout)
    found = attention_ntk(params, x1, x2, causal=causal, readout=name)
    first = derivatives(params, x1, causal)
    second = first if x2 is None else derivatives(params, x2, causal)
    parts = {
        part: READOUTS[readout](
            np.einsum("njci,mldi->nmjlcd", first[part], second[part])
        )
        for part in first
    }
    # one scale for all: a part may vanish but for rounding
    scale = max(np.abs(part).max() for part in parts.values())
    for part, expected in parts.items():
        np.testing.assert_allclose(
            part_of(found, part), expected, rtol=0, atol=1e-9 * scale, err_msg=part
        )


@each_part
def test_each_part_is_the_empirical_kernel_of_its_weights(part):
    trainable = MULTI._replace(
        **{name: name == f"w_{part}" for name in AttentionParams._fields}
    )
    kernel_fn = empirical_ntk(
        lambda params, x: attention(params, x, causal=True),
        trace_axes=(),
        trainable=trainable,
    )
    found = attention_ntk(MULTI, X, Z, causal=True)
    assert_equal(part_of(found, part), kernel_fn(MULTI, X, Z))


@each_part
def test_each_part_is_symmetric_and_positive_semi_definite(part):
    matrix = np.asarray(as_matrix(getattr(attention_ntk(MULTI, X), part)))
    eigenvalues = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-12)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]
    assert eigenvalues[-1] > 0.1


@pytest.mark.parametrize(
    ("readout", "x2"), [("full", Z), ("trace", None)], ids=["full xz", "trace xx"]
)
def test_blocks_that_do_not_divide_make_the_whole(readout, x2):
    found = attention_ntk(MULTI, X, x2, readout=readout, batch_size=2)
    whole = attention_ntk(MULTI, X, x2, readout=readout)
    for part in whole._fields:
        assert_equal(part_of(found, part), part_of(whole, part), relative=1e-12)


# what importance does to the kernel


def test_saturated_attention_has_no_part_of_queries_and_keys():
    kernel = attention_ntk(MULTI._replace(w_q=1e4 * MULTI.w_q), X)
    # a softmax with a temperature of its own would still move
    assert np.abs(kernel.q).max() < 1e-9
    assert np.abs(kernel.k).max() < 1e-9
    assert np.abs(kernel.v).max() > 1


def test_identical_tokens_have_no_part_of_queries_and_keys():
    kernel = attention_ntk(MULTI, X[:, [0] * 5])
    assert np.abs(kernel.q).max() < 1e-25
    assert np.abs(kernel.k).max() < 1e-25
    assert np.abs(kernel.v).max() > 1


def test_uniform_attention_by_queries_keeps_their_part():
    kernel = attention_ntk(MULTI._replace(w_q=0 * MULTI.w_q), X)
    assert not np.any(kernel.k)  # keys move nothing that no query asks for
    assert np.abs(kernel.q).max() > 0.1


def test_uniform_attention_by_keys_keeps_their_part():
    kernel = attention_ntk(MULTI._replace(w_k=0 * MULTI.w_k), X)
    assert not np.any(kernel.q)
    assert np.abs(kernel.k).max() > 0.1


def test_first_causal_token_has_no_choice():
    kernel = attention_ntk(MULTI, X, Z, causal=True)
    for part in (kernel.q, kernel.k):
        assert not np.any(part[:, :, 0])
        assert not np.any(part[:, :, :, 0])
        assert np.abs(part[:, :, 1:, 1:]).max() > 0.1


def test_causal_tokens_do_not_feel_later_ones():
    later = X.copy()
    later[:, 3:] += 1
    one, other = (attention_ntk(MULTI, x, Z, causal=True).total for x in (X, later))
    assert_equal(one[:, :, :3], other[:, :, :3], relative=1e-12)
    assert np.abs(one - other).max() > 1


def test_permuted_tokens_permute_the_kernel():
    order = [3, 0, 4, 1, 2]
    expected = np.asarray(attention_ntk(MULTI, X).total)[:, :, order][:, :, :, order]
    assert_equal(attention_ntk(MULTI, X[:, order]).total, expected)


def test_output_projection_alone_has_an_output_part():
    assert not np.any(attention_ntk(SINGLE, X).o)
    assert np.abs(attention_ntk(MULTI, X).o).max() > 0.1


# numbers and transformations


@each_part
@pytest.mark.parametrize("mean", [0, 100])
def test_float32_keeps_five_digits(part, mean):
    def without_mean(weight):  # what all features share changes no attention weight
        return weight - weight.mean(axis=1, keepdims=True)

    params = MULTI._replace(w_q=without_mean(MULTI.w_q), w_k=without_mean(MULTI.w_k))
    single = jax.tree.map(np.float32, (params, X + mean))
    double = jax.tree.map(np.float64, single)
    found = part_of(attention_ntk(*single), part)
    assert found.dtype == np.float32
    # without centring, 100: k is off by 3e-4
    assert_equal(found, part_of(attention_ntk(*double), part), relative=2e-5)


def test_works_under_jit_and_vmap():
    scales = np.array([0.5, 2.0])
    stack = jax.tree.map(lambda leaf: np.multiply.outer(scales, leaf), MULTI)

    def kernel_fn(params):
        return attention_ntk(params, X, readout="trace").total

    batched = jax.jit(jax.vmap(kernel_fn))(stack)
    for i, kernel in enumerate(batched):
        assert_equal(kernel, kernel_fn(jax.tree.map(lambda leaf, i=i: leaf[i], stack)))


def test_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(1)
    along = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), MULTI)

    def total(step):
        params = jax.tree.map(lambda leaf, way: leaf + step * way, MULTI, along)
        return attention_ntk(params, X, readout="trace").total.sum()

    expected = (total(1e-5) - total(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(total)(0.0), expected, rtol=1e-6)


@pytest.mark.parametrize("readout", ["full", "trace", "pool"])
def test_nothing_is_compiled_twice(readout):
    COMPILED.clear_cache()
    for scale in (1.0, 2.0):
        attention_ntk(MULTI, scale * X, readout=readout)
    assert COMPILED._cache_size() == 1
