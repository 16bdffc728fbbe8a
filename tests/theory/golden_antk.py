"""How golden_antk.npz was made: jax 0.4.38 with neural-tangents 0.6.5 as it is.

Only its TensorFlow submodule is stubbed. In an environment with jax==0.4.38, numpy,
scipy, frozendict and neural-tangents (--no-deps):

    python golden_antk.py write

Layouts: full (n,m,j,l,c,c'); trace (n,m,j,l), divided by the number of outputs; pool
(n,m,c,c').
"""
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import importlib.machinery
import os
import sys
import types

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
import jax

if (
    jax.__version__ == "0.4.38"
):  # legacy: neural-tangents imported unmodified, tensorflow/tf2jax stubbed only
    for n in ("tensorflow", "tf2jax"):
        m = types.ModuleType(n)
        m.__spec__ = importlib.machinery.ModuleSpec(n, None)
        m.__getattr__ = lambda k: (
            (_ for _ in ()).throw(AttributeError(k))
            if k.startswith("__")
            else type(k, (), {})
        )
        sys.modules[n] = m
    try:
        import neural_tangents as nt
    except (
        Exception
    ) as e:  # experimental needs real TF symbols: stub that one submodule
        for k in [k for k in sys.modules if k.startswith("neural_tangents")]:
            del sys.modules[k]
        sys.modules["neural_tangents.experimental"] = types.ModuleType(
            "neural_tangents.experimental"
        )
        print("experimental stubbed:", type(e).__name__, e)
        import neural_tangents as nt
else:
    raise SystemExit("golden values are written by jax 0.4.38 only")
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)


def data():
    r = np.random.default_rng(20261120)

    def n(*s):
        return r.standard_normal(s)

    D, k, e, p = 6, 4, 4, 5
    d = {}
    d["x"] = n(3, 5, D)
    d["z"] = n(2, 7, D)  # two batches, different lengths
    d["sh"] = dict(q=n(D, D) / D**0.5, k=n(D, D) / D**0.5, v=n(D, D) / D**0.5)
    d["mh"] = dict(
        q=n(2, D, k) / D**0.5,
        k=n(2, D, k) / D**0.5,
        v=n(2, D, e) / D**0.5,
        o=n(2, e, p) / (2 * e) ** 0.5,
    )

    def blk():
        return dict(
            g1=1 + 0.1 * n(D),
            b1=0.1 * n(D),
            qkv=n(3, D, D) / D**0.5,
            o=n(D, D) / D**0.5,
            g2=1 + 0.1 * n(D),
            b2=0.1 * n(D),
            w1=n(D, 8) / D**0.5,
            c1=0.1 * n(8),
            w2=n(8, D) / 8**0.5,
            c2=0.1 * n(D),
        )

    d["tf"] = dict(
        blk0=blk(), blk1=blk(), g=1 + 0.1 * n(D), b=0.1 * n(D), head=n(D, 3) / D**0.5
    )
    return d


def single(p, x):
    s = (x @ p["q"]) @ (x @ p["k"]).swapaxes(-1, -2) / p["q"].shape[1] ** 0.5
    return jax.nn.softmax(s, -1) @ (x @ p["v"])


def multi(p, x):
    q, k, v = (jnp.einsum("nja,hai->nhji", x, p[m]) for m in "qkv")
    a = jax.nn.softmax(
        jnp.einsum("nhji,nhki->nhjk", q, k) / p["q"].shape[-1] ** 0.5, -1
    )
    return jnp.einsum("nhjk,nhke,hec->njc", a, v, p["o"])


def ln(x, g, b):
    m = x.mean(-1, keepdims=True)
    v = ((x - m) ** 2).mean(-1, keepdims=True)
    return (x - m) / jnp.sqrt(v + 1e-5) * g + b


def transformer(p, x):
    """2 pre-LN blocks, 2 heads, causal, tanh-gelu MLP (8), final LN, linear head 3."""
    n, s, D = x.shape
    h = 2
    mask = jnp.tril(jnp.ones((s, s), bool))
    for i in range(2):
        w = p[f"blk{i}"]
        u = ln(x, w["g1"], w["b1"])
        q, k, v = ((u @ w["qkv"][m]).reshape(n, s, h, D // h) for m in range(3))
        z = jnp.einsum("njhi,nkhi->nhjk", q, k) / (D // h) ** 0.5
        a = jax.nn.softmax(jnp.where(mask, z, -1e30), -1)
        x = x + jnp.einsum("nhjk,nkhe->njhe", a, v).reshape(n, s, D) @ w["o"]
        u = ln(x, w["g2"], w["b2"])
        x = x + jax.nn.gelu(u @ w["w1"] + w["c1"], approximate=True) @ w["w2"] + w["c2"]
    return ln(x, p["g"], p["b"]) @ p["head"]


def pooled(f):
    return lambda p, x: f(p, x).mean(1)


def compute(impl):
    d = data()
    out = {}
    for name, f, key in (
        ("single", single, "sh"),
        ("multi", multi, "mh"),
        ("transformer", transformer, "tf"),
    ):
        p = d[key]
        out[f"{name}/out_x"] = f(p, d["x"])
        out[f"{name}/out_z"] = f(p, d["z"])
        for tag, ax in (("full", ()), ("trace", (-1,))):
            g = nt.empirical_ntk_fn(f, trace_axes=ax, vmap_axes=0, implementation=impl)
            out[f"{name}/{tag}_xx"] = g(d["x"], None, p)
            out[f"{name}/{tag}_xz"] = g(d["x"], d["z"], p)
        out[f"{name}/pool_xz"] = nt.empirical_ntk_fn(
            pooled(f), trace_axes=(), vmap_axes=0, implementation=impl
        )(d["x"], d["z"], p)
    return {k: np.asarray(v) for k, v in out.items()}


def flat(t, pre=""):
    return {
        k2: v2
        for k, v in t.items()
        for k2, v2 in (
            flat(v, pre + k + ".").items()
            if isinstance(v, dict)
            else {pre + k: v}.items()
        )
    }


if __name__ == "__main__":
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden_antk.npz")
    a = compute(nt.NtkImplementation.JACOBIAN_CONTRACTION)
    b = compute(nt.NtkImplementation.NTK_VECTOR_PRODUCTS)
    print(
        "jax",
        jax.__version__,
        "JC vs NTVP max abs",
        max(abs(a[k] - b[k]).max() for k in a),
    )
    if sys.argv[1:] == ["write"]:
        np.savez_compressed(
            path, **{"in." + k: v for k, v in flat(data()).items()}, **a
        )
    g = np.load(path)
    for n in ("single", "multi", "transformer"):
        print(
            n,
            "max abs err",
            max(abs(a[k] - g[k]).max() for k in a if k.startswith(n)),
            {k[len(n) + 1 :]: a[k].shape for k in a if k.startswith(n)},
        )
    assert all(np.array_equal(v, g["in." + k]) for k, v in flat(data()).items())
    e = max(abs(a[k] - g[k]).max() for k in a)
    print(
        "inputs identical; max abs err",
        e,
        "n arrays",
        len(g.files),
        "bytes",
        os.path.getsize(path),
    )
    assert e < 1e-10
