"""Distances between kernels, and the tracker that follows one."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.theory.small_networks import MLP, POINTS1, mlp
from theory._checks import _warn_once
from theory.convergence import (
    KernelTracker,
    cka,
    cosine,
    relative_distance,
    target_alignment,
)
from theory.empirical_ntk import empirical_ntk
from theory.layout import as_matrix
from theory.spectrum import spectrum

RNG: Any = np.random.default_rng(0)
FACTORS = RNG.normal(size=(2, 4, 6))
A, B = (factor @ factor.T for factor in FACTORS)


# distances


def test_distance_is_relative_to_the_reference():
    one, other = jnp.diag(jnp.array([3.0, 4.0])), jnp.diag(jnp.array([0.0, 4.0]))
    np.testing.assert_allclose(relative_distance(one, other), 3 / 4)
    np.testing.assert_allclose(relative_distance(other, one), 3 / 5)


def test_cosine_by_hand():
    one, other = jnp.diag(jnp.array([3.0, 4.0])), jnp.diag(jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(cosine(one, other), 4 / 5)


def test_cka_is_the_cosine_of_centred_kernels():
    centring = np.eye(4) - 1 / 4
    expected = cosine(*(centring @ kernel @ centring for kernel in (A, B)))
    np.testing.assert_allclose(cka(A, B), expected)
    assert abs(expected - cosine(A, B)) > 0.01


def test_cka_is_blind_to_scale_and_constants():
    np.testing.assert_allclose(cka(7 * A + 3, B), cka(A, B))
    np.testing.assert_allclose(cka(7 * A + 3, A), 1)


def test_cka_takes_axes_in_pairs():
    features = RNG.normal(size=(2, 3, 2, 9))
    pair = [jnp.einsum("nsa,mta->nmst", half, half) for half in features]
    np.testing.assert_allclose(cka(*pair), cka(*map(as_matrix, pair)))


def test_target_alignment_by_hand():
    kernel, targets = jnp.diag(jnp.array([3.0, 4.0])), jnp.array([2.0, 1.0])
    # ⟨K, yyᵀ⟩ = 3·4 + 4·1, ‖K‖ = 5, ‖yyᵀ‖ = 5
    np.testing.assert_allclose(target_alignment(kernel, targets), 16 / 25)


def test_target_alignment_sums_over_traced_channels():
    targets = RNG.normal(size=(4, 3))
    expected = cosine(A, jnp.asarray(targets @ targets.T))
    np.testing.assert_allclose(target_alignment(A, targets), expected)


# the tracker


def mixture(params):
    """A kernel that moves from A to B as the parameter does from 0 to 1."""
    return (1 - params) * A + params * B


def follow(tracker, steps, params_at=lambda step: step / 10):
    for step in steps:
        tracker(step, params_at(step))
    return tracker.records()


def test_only_chosen_steps_are_computed():
    computed = []

    def kernel_fn(params):
        computed.append(params)
        return mixture(params)

    records = follow(KernelTracker(kernel_fn, steps=iter([1, 4, 9])), range(8))
    assert [record.step for record in records] == [1, 4]
    assert computed == [0.1, 0.4]


def test_all_steps_are_chosen_by_default():
    records = follow(KernelTracker(mixture), [2, 3, 5])
    assert [record.step for record in records] == [2, 3, 5]


def test_records_are_the_kernels_numbers():
    targets = RNG.normal(size=4)
    tracker = KernelTracker(
        mixture, targets=targets, residual_fn=lambda params: jnp.asarray(3 * params)
    )
    steps = [0, 4, 10]
    records = follow(tracker, steps)
    kernels = [mixture(step / 10) for step in steps]
    for i, (record, kernel) in enumerate(zip(records, kernels, strict=True)):
        found = spectrum(kernel)
        num_steps = steps[i] - steps[i - 1]
        expected = {
            "step": steps[i],
            "distance_from_first": relative_distance(kernel, kernels[0]),
            "velocity": relative_distance(kernel, kernels[i - 1]) / num_steps
            if i
            else np.nan,
            "distance_to_last": relative_distance(kernel, kernels[-1]),
            "cosine_to_last": cosine(kernel, kernels[-1]),
            "cka_to_last": cka(kernel, kernels[-1]),
            "target_alignment": target_alignment(kernel, targets),
            "effective_rank": found.effective_rank,
            "participation_ratio": found.participation_ratio,
            "condition_number": found.condition_number,
            "residual_norm": 3 * steps[i] / 10,
        }
        expected = {name: float(value) for name, value in expected.items()}
        recorded = record._asdict()
        eigenvalues = np.linalg.eigvalsh(kernel)[::-1]
        np.testing.assert_allclose(recorded.pop("eigenvalues"), eigenvalues, rtol=1e-9)
        assert recorded == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert records[1].velocity > 0.01


def test_what_was_not_asked_for_is_nan():
    (record,) = follow(KernelTracker(mixture), [0])
    assert np.isnan(record.target_alignment)
    assert np.isnan(record.residual_norm)


def test_no_calls_no_records():
    assert KernelTracker(mixture).records() == []


@pytest.mark.parametrize("max_kernels", [2, 3, 8])
def test_memory_is_bounded_and_the_ends_are_kept(max_kernels):
    tracker = KernelTracker(lambda params: params, max_kernels=max_kernels)
    for step in range(30):
        tracker(step, jnp.eye(2) * (1 + step))
        kept = tracker.kernels()
        assert len(kept) <= max_kernels
        assert list(kept)[:1] == [0]
        assert list(kept)[-1] == step
        assert all(kernel[0, 0] == 1 + at for at, kernel in kept.items())


def test_kernels_are_kept_from_all_of_training():
    tracker = KernelTracker(lambda params: params, max_kernels=8)
    follow(tracker, range(100), lambda step: jnp.eye(2) * (1 + step))
    # every second of what is left, again and again, leaves 0, 86, 90, 94, ...
    assert np.diff(list(tracker.kernels())).max() < 50


def test_numbers_outlive_their_kernels():
    tracker = KernelTracker(lambda params: params, max_kernels=8)
    records = follow(tracker, range(1000), lambda step: jnp.eye(2) * (1 + step))
    kept = list(tracker.kernels())
    assert len(kept) <= 8
    assert (kept[0], kept[-1]) == (0, 999)
    assert len(records) == 1000
    assert [record.distance_from_first for record in records] == pytest.approx(
        range(1000)
    )
    assert [record.velocity for record in records[1:]] == pytest.approx(
        [1 / step for step in range(1, 1000)]
    )
    for record in records:
        expected = (999 - record.step) / 1000 if record.step in kept else np.nan
        assert record.distance_to_last == pytest.approx(expected, nan_ok=True)
        assert np.isnan(record.cka_to_last) == (record.step not in kept)


def test_kernels_do_not_change_with_the_buffer_they_came_in():
    tracker = KernelTracker(mixture)
    tracker(0, 0.5)
    tracker.kernels().clear()
    assert list(tracker.kernels()) == [0]


@pytest.mark.parametrize("step", [3, 2])
def test_steps_must_rise(step):
    tracker = KernelTracker(mixture)
    tracker(3, 0.1)
    with pytest.raises(ValueError, match=f"step={step} comes after step 3: call the"):
        tracker(step, 0.2)


def test_float32_warns_once():
    _warn_once.cache_clear()
    spectrum_warns = pytest.warns(UserWarning, match="spectrum of float32")
    drift_warns = pytest.warns(UserWarning, match="drift of a kernel of float32 .*x64")
    tracker = KernelTracker(lambda params: params)
    with spectrum_warns, drift_warns:
        tracker(0, jnp.eye(2, dtype=jnp.float32))
    tracker(1, 2 * jnp.eye(2, dtype=jnp.float32))  # another would be an error


def test_an_empirical_kernel_is_followed():
    kernel_fn = empirical_ntk(mlp)
    tracker = KernelTracker(lambda params: kernel_fn(params, POINTS1))
    tracker(0, MLP)
    tracker(5, MLP | {"out": 2 * MLP["out"]})
    first, last = tracker.kernels().values()
    expected = relative_distance(jnp.asarray(last), jnp.asarray(first))
    assert expected > 0.1
    assert tracker.records()[1].distance_from_first == pytest.approx(float(expected))
