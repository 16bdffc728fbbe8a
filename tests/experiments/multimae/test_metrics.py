"""Downstream measures against scikit-learn, NumPy and cases counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from experiments.multimae.metrics import (
    accuracy,
    confusion,
    depth_errors,
    mean_iou,
    summarize_depth,
)


def test_accuracy_is_scikit_learns_and_padding_does_not_count():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 7)), rng.integers(0, 7, 50)
    expected = sklearn_metrics.accuracy_score(labels, logits.argmax(axis=1))
    logits = logits.astype(np.float32)
    np.testing.assert_allclose(accuracy(logits, labels).result(), expected, rtol=1e-6)
    padded = np.where(np.arange(50) < 30, labels, -1)
    expected = np.mean(logits[:30].argmax(axis=1) == labels[:30])
    np.testing.assert_allclose(accuracy(logits, padded).result(), expected, rtol=1e-6)
    assert np.isnan(accuracy(logits, np.full(50, -1)).result())


def test_streamed_confusion_and_mean_iou_are_scikit_learns():
    rng = np.random.default_rng(1)
    num_classes = 6  # the last never occurs
    labels = rng.integers(0, 5, (4, 9, 8))
    predicted = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, 5))
    unknown = rng.random(labels.shape) < 0.2
    ignored = np.where(unknown, 255, labels).astype(np.uint8)
    count = jax.jit(confusion, static_argnums=2)
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for pair in zip(predicted.astype(np.uint8), ignored, strict=True):
        matrix += np.asarray(count(*pair, num_classes))
    expected = sklearn_metrics.confusion_matrix(
        labels[~unknown], predicted[~unknown], labels=range(num_classes)
    )
    np.testing.assert_array_equal(matrix, expected)
    score = sklearn_metrics.jaccard_score(
        labels[~unknown], predicted[~unknown], average="macro"
    )
    np.testing.assert_allclose(mean_iou(matrix), score)


def test_mean_iou_by_hand():
    # IoU: 2 / 4, 3 / 5, and a class that is predicted but never there: 0
    matrix = np.array([[2, 1, 0], [1, 3, 1], [0, 0, 0]])
    np.testing.assert_allclose(mean_iou(matrix), (2 / 4 + 3 / 6 + 0) / 3)
    assert np.isnan(mean_iou(np.zeros((3, 3), int)))


def test_depth_errors_by_hand():
    true = np.array([[1.0, 2.0, 4.0, np.nan, 0.0]])
    # ratios 1.2, 1.5 (below 1.25²), 2 (above 1.25³)
    predicted = np.array([[1.2, 3.0, 2.0, 5.0, 1.0]])
    measures = summarize_depth(depth_errors(predicted, true))
    np.testing.assert_allclose(measures["delta1"], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(measures["delta2"], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(measures["delta3"], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(measures["rmse"], np.sqrt((0.04 + 1 + 4) / 3), rtol=1e-6)
    np.testing.assert_allclose(measures["abs_rel"], (0.2 + 0.5 + 0.5) / 3, rtol=1e-6)


def test_depth_errors_stream_and_respect_the_mask():
    rng = np.random.default_rng(2)
    true = rng.uniform(0.5, 9, (6, 5, 4))
    predicted = true * np.exp(rng.normal(0, 0.4, true.shape))
    valid = rng.random(true.shape) < 0.7
    p, t = predicted[valid], true[valid]
    ratio = np.maximum(p / t, t / p)
    expected = {f"delta{k}": np.mean(ratio < 1.25**k) for k in (1, 2, 3)}
    expected["rmse"] = np.sqrt(np.mean((p - t) ** 2))
    expected["abs_rel"] = np.mean(np.abs(p - t) / t)
    parts = [
        jax.jit(depth_errors)(*(a[i : i + 2] for a in (predicted, true, valid)))
        for i in (0, 2, 4)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    measures = summarize_depth(stacked)
    assert measures.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(measures[name], value, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 0.0])
def test_a_prediction_that_is_no_depth_is_wrong_and_finite(bad):
    measures = summarize_depth(depth_errors(np.array([[bad, 2.0]]), np.full((1, 2), 2)))
    assert measures["delta1"] == measures["delta3"] == 0.5
    np.testing.assert_allclose(measures["abs_rel"], 0.5)
    np.testing.assert_allclose(measures["rmse"], np.sqrt(2))


def test_no_pixel_gives_nan():
    measures = summarize_depth(depth_errors(np.ones((2, 3)), np.zeros((2, 3))))
    assert all(np.isnan(value) for value in measures.values())
