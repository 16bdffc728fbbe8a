"""Checkpoints of another run are refused, and the differences named."""

import numpy as np
import pytest

from attent_jax.checkpointing import CheckpointError
from tests.checkpointing.saved_runs import IDENTITY, STATE, restored, saved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": 999}, "pool was 1000, now it is 999"),
        ({"config": {"seed": 1, "rates": [0.1, 0.01]}}, "config.seed was 0, now it"),
        ({"config": {"seed": 0, "rates": [0.1, 0.2]}}, r"config.rates\[1\] was 0.01"),
        ({"config": {"seed": 0, "rates": [0.1]}}, r"config.rates was \[0.1, 0.01\]"),
        ({"config": {"rates": [0.1, 0.01]}}, "config.seed was 0, now it is not there"),
        ({"model": "vit"}, "model was not there, now it is 'vit'"),
        ({"pool": "1000"}, "pool was 1000, now it is '1000'"),
        ({"config": None, "pool": 1, "a": 1, "b": 1}, "; and 1 more"),
    ],
)
def test_refuses_another_runs(tmp_path, change, message):
    saved(tmp_path, STATE, 1)
    with pytest.raises(
        CheckpointError, match=f"(?s)step 1 .*{message}.*choose another"
    ):
        restored(tmp_path, STATE, identity=IDENTITY | change)


def test_the_same_identity_however_it_is_written(tmp_path):
    identity = {"nan": float("nan"), "tuple": (1, 2), "rate": np.float64(0.1)}
    saved(tmp_path, STATE, 1, identity=identity)
    identity = {"rate": 0.1, "tuple": [1, 2.0], "nan": float("nan")}
    assert restored(tmp_path, STATE, identity=identity).step == 1
