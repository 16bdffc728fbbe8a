"""Adapters: what they compute, what trains, and PEFT's files."""

import dataclasses
import json
import shutil
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from attent_jax import selectors, training
from attent_jax.models import Decoder, DecoderCache, DecoderConfig
from experiments.llm_lora import lora
from experiments.llm_lora.lora import LoraConfig, add_adapters, is_adapter
from experiments.llm_lora.peft_files import load_adapters, save_adapters
from tests.experiments.llm_lora.golden_models import GOLDEN, expected, loaded

# qwix 0.1.8 asks flax for a name that is deprecated
pytestmark = pytest.mark.filterwarnings("ignore:'VariableState' was removed")
CONFIG = LoraConfig(rank=3, alpha=6.0, dropout=0.5)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(1, 19, (4, 5)))
MODEL: Any = Decoder(DecoderConfig.tiny(vocabulary_size=19), scan_layers=True)
ADAPTED = add_adapters(MODEL, CONFIG)
apply_base = jax.jit(MODEL.apply)
apply_adapted = jax.jit(ADAPTED.apply)


@cache
def params():
    """Of the adapted decoder, none of them 0."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(ADAPTED.init, jax.random.key(0), TOKENS),
    )


def loss_fn(params, rng, batch, *, remat=False):
    model = MODEL.clone(remat=remat)
    model = add_adapters(model, CONFIG, train=rng is not None)
    rngs = None if rng is None else {"dropout": rng}
    logits = model.apply(params, batch, rngs=rngs)[:, :-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:])
    return jnp.mean(losses, axis=-1)


def test_new_adapters_change_nothing():
    base, _ = lora.split_adapters(params())
    adapters = jax.jit(partial(lora.init_adapters, ADAPTED))(jax.random.key(0))
    np.testing.assert_array_equal(
        apply_adapted(lora.join_adapters(base, adapters), TOKENS),
        apply_base(base, TOKENS),
    )
    attention: Any = adapters["params"]["layers"]["attention"]
    a = attention["q"]["kernel_lora_a"]
    assert a.shape == (2, 32, 3)
    # layers have draws of their own, within ±1 / √32
    assert not np.allclose(a[0], a[1])
    assert 0.15 < np.abs(a).max() <= 32**-0.5
    assert not np.any(attention["q"]["kernel_lora_b"])


def test_targets_have_adapters_and_others_do_not():
    config = dataclasses.replace(CONFIG, targets=("q", "down"))
    shapes: Any = jax.eval_shape(
        lambda: lora.init_adapters(add_adapters(MODEL, config), jax.random.key(0))
    )
    shapes = shapes["params"]["layers"]
    assert set(shapes) == {"attention", "mlp"}
    assert set(shapes["attention"]) == {"q"}
    assert set(shapes["mlp"]) == {"down"}
    assert shapes["mlp"]["down"]["kernel_lora_a"].shape == (2, 64, 3)
    assert shapes["mlp"]["down"]["kernel_lora_b"].shape == (2, 3, 32)


def test_inputs_are_dropped_out_in_training_alone():
    model = add_adapters(MODEL, CONFIG, train=True)
    apply = jax.jit(
        lambda params, rng: model.apply(params, TOKENS, rngs={"dropout": rng})
    )
    one, other = (apply(params(), jax.random.key(seed)) for seed in range(2))
    plain = apply_adapted(params(), TOKENS)  # needs no key
    assert not np.allclose(one, other, atol=1e-3)
    assert not np.allclose(one, plain, atol=1e-3)
    base, adapters = lora.split_adapters(params())
    without = lora.join_adapters(base, jax.tree.map(np.zeros_like, adapters))
    # the base's own inputs are not dropped
    np.testing.assert_allclose(
        apply(without, jax.random.key(0)), apply_base(base, TOKENS), atol=1e-5
    )


def test_adapters_alone_train_and_have_optimizer_state():
    optimizer = optax.adam(1e-2)
    before = jax.tree.map(np.asarray, params())
    state = training.init_train_state(params(), optimizer, trainable=is_adapter)
    momenta = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert len(momenta) == 2 * 2 * 7
    step = training.make_train_step(loss_fn, optimizer, trainable=is_adapter)
    state, _ = step(state, jax.random.key(0), TOKENS, jnp.ones(4))
    params.cache_clear()  # donated
    for (path, new), old in zip(
        jax.tree_util.tree_leaves_with_path(state.params),
        jax.tree.leaves(before),
        strict=True,
    ):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.array_equal(new, old) != is_adapter(name)


def test_frozen_parameters_keep_no_residuals():
    config = dataclasses.replace(CONFIG, targets=("q",), dropout=0.0)
    model = add_adapters(MODEL.clone(scan_layers=False), config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)

    def residuals(trainable):
        def pullback(params):
            trained, frozen = training.partition_params(params, trainable)

            def apply(trained):
                return model.apply(training.merge_params(trained, frozen), TOKENS)

            return jax.vjp(apply, trained)[1]

        leaves = jax.tree.leaves(jax.eval_shape(pullback, shapes))
        return [leaf.shape for leaf in leaves if leaf.shape == (4, 5, 64)]

    # what `down` is multiplied with is needed for its own gradient only
    assert len(residuals(True)) - len(residuals(is_adapter)) >= 2


def test_reuse_of_the_forward_pass_accepts_adapters():
    trained, frozen = training.partition_params(params(), is_adapter)

    def of_adapters(trained, rng, batch):
        params = training.merge_params(trained, frozen)
        return loss_fn(params, rng, batch, remat=True)

    value_and_grad = training.selective_value_and_grad(
        of_adapters, selectors.top_k(), num_selected=2, reuse_forward=True
    )
    _, grads = jax.eval_shape(value_and_grad, trained, jax.random.key(3), TOKENS)
    assert len(jax.tree.leaves(grads)) == 2 * 7


def test_merged_weights_compute_the_same():
    merged = lora.merge_adapters(params(), CONFIG)
    assert jax.tree.structure(merged) == jax.tree.structure(
        lora.split_adapters(params())[0]
    )
    expected = apply_adapted(params(), TOKENS)
    np.testing.assert_allclose(
        apply_base(merged, TOKENS), expected, rtol=1e-4, atol=1e-4
    )
    cache = DecoderCache.empty(MODEL.config, 4, 5, jnp.float32)
    extend = jax.jit(partial(ADAPTED.apply, method="extend"))
    last, _ = extend(params(), TOKENS, cache)
    np.testing.assert_allclose(last, expected[:, -1], rtol=1e-4, atol=1e-4)


def test_adapters_stay_float32_beside_a_base_in_half_precision():
    model = MODEL.clone(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    adapted = add_adapters(model, CONFIG)
    shapes = jax.eval_shape(adapted.init, jax.random.key(0), TOKENS)
    base, adapters = lora.split_adapters(shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(base)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(adapters)} == {
        jnp.dtype(jnp.float32)
    }
    mixed = jax.tree.map(lambda p, s: p.astype(s.dtype), params(), shapes)
    exact = apply_adapted(params(), TOKENS)
    cast = lora.cast_adapters(mixed, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(cast)} == {jnp.dtype(jnp.bfloat16)}
    rough = jax.jit(adapted.apply)(cast, TOKENS)
    assert np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()


def test_adapters_of_peft_compute_what_peft_computes():
    model, base = loaded("llama", scan_layers=True)
    config, adapters = load_adapters(GOLDEN / "adapter", model)
    assert config == LoraConfig(rank=2, alpha=6.0, dropout=0.1)
    golden = expected("llama")
    logits = jax.jit(add_adapters(model, config).apply)(
        lora.join_adapters(base, adapters),
        golden["tokens"],
        golden["mask"].astype(np.int32),
    )
    is_token = golden["mask"]
    wanted = expected("adapter")["logits"]
    # alpha in place of alpha / rank is off by 1
    np.testing.assert_allclose(logits[is_token], wanted[is_token], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_adapters_are_written_as_peft_writes_them(scan_layers, tmp_path):
    model, _ = loaded("llama", scan_layers)
    config, adapters = load_adapters(GOLDEN / "adapter", model)
    save_adapters(tmp_path, adapters, config, base="llama")
    written, theirs = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path, GOLDEN / "adapter")
    )
    assert written.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(written[name], value)
    again, adapters_again = load_adapters(tmp_path, model)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, adapters_again, adapters)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "has use_dora True: only False is supported"),
        ({"use_rslora": True}, "has use_rslora True: only False is supported"),
        ({"rank_pattern": {"q_proj": 4}}, "has rank_pattern"),
        ({"target_modules": ["q_proj", "lm_head"]}, "has target_modules"),
        ({"target_modules": ["q_proj"]}, "0 tensors are missing .* and 24 unknown"),
        ({"r": 3}, r"lora_A.weight in .* has shape \(2, 16\), but .* \(3, 16\)"),
    ],
)
def test_other_kinds_of_adapters_are_refused(change, message, tmp_path):
    folder = shutil.copytree(GOLDEN / "adapter", tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_adapters(folder, loaded("llama")[0])


def test_damaged_and_pickled_adapters_are_refused(tmp_path):
    folder = shutil.copytree(GOLDEN / "adapter", tmp_path / "adapter")
    weights, model = folder / "adapter_model.safetensors", loaded("llama")[0]
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=f"{name} in .* has NaN"):
        load_adapters(folder, model)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="has no adapter_model"):
        load_adapters(folder, model)
    (folder / "adapter_model.bin").touch()
    with pytest.raises(ValueError, match="a pickle can run any code"):
        load_adapters(folder, model)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(ValueError, match="is no adapter's configuration"):
        load_adapters(folder, model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"targets": ("q", "head")}, "targets must be some of"),
    ],
)
def test_configurations_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**options)


def test_peft_loads_what_is_written(tmp_path):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model, _ = loaded("llama", scan_layers=True)
    config, adapters = load_adapters(GOLDEN / "adapter", model)
    save_adapters(tmp_path, adapters, config)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        GOLDEN / "llama", attn_implementation="eager"
    )
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path)
    golden = expected("llama")
    with torch.no_grad():
        logits = theirs(
            torch.tensor(golden["tokens"]),
            attention_mask=torch.tensor(golden["mask"]).long(),
        ).logits
    is_token = golden["mask"]
    np.testing.assert_allclose(
        logits.numpy()[is_token],
        expected("adapter")["logits"][is_token],
        rtol=1e-4,
        atol=1e-5,
    )
