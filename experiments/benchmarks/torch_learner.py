"""The demo's learner in torch."""

import math
import os
import time
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from jaxtyping import Float

from attent_jax.data import Pool
from attent_jax.typing import Params
from experiments.demo import BATCH_SIZE, LEARNING_RATE
from experiments.study.workload import WARMUP_SHARE

functional = torch.nn.functional


class TorchLearner:
    """`models.TextClassifier` and the demo's AdamW, from the Flax parameters.

    The parameters keep the structure of Flax's tree.
    """

    def __init__(self, params: Params, pool: Pool):
        self.params = jax.tree.map(
            lambda leaf: torch.tensor(np.array(leaf), requires_grad=True), params
        )
        names = pool.take(np.arange(len(pool)))
        self.tokens, self.labels = (
            torch.from_numpy(names[name]).long() for name in ("tokens", "labels")
        )
        # The weight decay is optax's default; fused is torch's fastest.
        self.optimizer = torch.optim.AdamW(
            jax.tree.leaves(self.params), weight_decay=1e-4, fused=True
        )
        self.num_steps = self.num_trained = self.num_scored = 0

    def flax_params(self) -> Params:
        """A copy of the parameters."""
        return jax.tree.map(lambda leaf: leaf.detach().numpy().copy(), self.params)

    def step(
        self, ids: np.ndarray, done: float, weights: np.ndarray | None = None
    ) -> Float[np.ndarray, "batch"]:
        """Train on a batch when `done` of the training is; returns its losses."""
        self.num_steps += 1
        self.num_trained += len(ids)
        losses = self._losses(ids)
        weighted = losses if weights is None else losses * torch.from_numpy(weights)
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(done)
        self.optimizer.zero_grad()
        weighted.mean().backward()
        self.optimizer.step()
        return losses.detach().numpy()

    @torch.no_grad()
    def score(self, ids: np.ndarray) -> Float[np.ndarray, "batch"]:
        """The losses, without training."""
        self.num_scored += len(ids)
        return self._losses(ids).numpy()

    def _losses(self, ids: np.ndarray) -> torch.Tensor:
        found = logits(self.params, self.tokens[ids])
        return functional.cross_entropy(found, self.labels[ids], reduction="none")


def use_fastest_threads(learner: TorchLearner) -> int:
    """Keep one thread or one per core, whichever trains faster; returns how many.

    Torch's threads wait for each other in a busy loop. If another process needs the
    cores, two threads can take twenty times as long as one.
    """
    ids, seconds = np.arange(BATCH_SIZE), {}
    for num_threads in (1, os.cpu_count() or 1):
        torch.set_num_threads(num_threads)
        learner.step(ids, 0)  # the first call initialises torch
        start = time.perf_counter()
        for _ in range(50):
            learner.step(ids, 0)
        seconds[num_threads] = time.perf_counter() - start
    fastest = min(seconds, key=seconds.__getitem__)
    torch.set_num_threads(fastest)
    return fastest


def logits(params: Any, tokens: torch.Tensor) -> torch.Tensor:
    """`models.TextClassifier`, of the parameters' sizes."""
    params = params["params"]
    is_word = tokens != 0
    x = functional.embedding(tokens, params["embed"]["embedding"])
    encoder = params["Encoder_0"]
    x = x + encoder["positions"]
    for block in (encoder[name] for name in sorted(encoder) if "Block" in name):
        attention = block["MultiHeadDotProductAttention_0"]
        x = x + _attend(attention, _norm(block["LayerNorm_0"], x), is_word)
        hidden = _dense(block["Dense_0"], _norm(block["LayerNorm_1"], x))
        x = x + _dense(block["Dense_1"], functional.gelu(hidden, approximate="tanh"))
    x = _norm(encoder["LayerNorm_0"], x) * is_word[..., None]
    return _dense(params["head"], x.sum(1) / is_word.sum(1, keepdim=True))


def _attend(params: Any, x: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
    width, heads = x.shape[-1], params["query"]["bias"].shape

    def project(name: str) -> torch.Tensor:
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        projected = functional.linear(x, kernel.reshape(width, -1).T, bias.flatten())
        return projected.unflatten(-1, heads).transpose(1, 2)

    mixed = functional.scaled_dot_product_attention(
        *map(project, ("query", "key", "value")), attn_mask=is_word[:, None, None]
    )
    out = params["out"]
    mixed = mixed.transpose(1, 2).flatten(-2)
    return functional.linear(mixed, out["kernel"].reshape(-1, width).T, out["bias"])


def _dense(params: Any, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, params["kernel"].T, params["bias"])


def _norm(params: Any, x: torch.Tensor) -> torch.Tensor:
    scale, bias = params["scale"], params["bias"]
    return functional.layer_norm(x, scale.shape, scale, bias, eps=1e-6)


def _learning_rate(done: float) -> float:
    """The demo's schedule: a warm-up, then a cosine to 0."""
    warm = min(done / WARMUP_SHARE, 1)
    cooled = max(done - WARMUP_SHARE, 0) / (1 - WARMUP_SHARE)
    return LEARNING_RATE * warm * (1 + math.cos(math.pi * cooled)) / 2
