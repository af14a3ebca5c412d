"""Both forms of attention are one function, and the blockwise one stays small."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax import attention
from automix_jax.attention import NAIVE_LIMIT, attend, attend_blockwise, attend_naive

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64; sums of at most 785 terms of order one


def problem(queries, keys, depth=4, batch=2, dtype=np.float64, scale=1.0):
    rng = np.random.default_rng(keys)
    shapes = ((batch, queries, depth), (batch, keys, depth), (batch, keys), (batch, queries))
    *inputs, cotangent = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)
    inputs[0] = inputs[0] * scale
    return tuple(inputs), cotangent


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(form, inputs, cotangent):
    """The output and what a cotangent becomes at query, key and value."""
    output, pullback = jax.vjp(form, *inputs)
    return output, *pullback(cotangent)


def in_numpy(query, key, value):
    """Row by row."""
    rows = []
    for q, k, v in zip(*map(np.asarray, (query, key, value)), strict=True):
        logits = q @ k.T / np.sqrt(k.shape[-1])
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        rows.append((weights / weights.sum(-1, keepdims=True)) @ v)
    return np.stack(rows)


@pytest.mark.parametrize(("queries", "keys"), [(3, 3), (5, 200), (256, 256), (5, 257), (7, 785)])
def test_forms_are_equal(float64, queries, keys):
    inputs, cotangent = problem(queries, keys)
    naive = value_and_gradients(attend_naive, inputs, cotangent)
    blockwise = value_and_gradients(attend_blockwise, inputs, cotangent)
    np.testing.assert_allclose(naive[0], in_numpy(*inputs), **EXACT)
    for name, a, b in zip(("output", "query", "key", "value"), naive, blockwise, strict=True):
        assert np.abs(a).max() > 1e-6
        np.testing.assert_allclose(b, a, **EXACT, err_msg=name)


@pytest.mark.parametrize(
    ("keys", "form"),
    [(1, "attend_naive"), (NAIVE_LIMIT, "attend_naive"), (NAIVE_LIMIT + 1, "attend_blockwise")],
)
def test_choice_by_the_number_of_keys(monkeypatch, keys, form):
    called = []
    for name in ("attend_naive", "attend_blockwise"):
        monkeypatch.setattr(attention, name, lambda q, k, v, name=name: called.append(name) or v)
    inputs, _ = problem(keys, keys, dtype=np.float32)
    attend(*inputs)
    assert called == [form]


@pytest.mark.parametrize("keys", [NAIVE_LIMIT, NAIVE_LIMIT + 1])
def test_the_matrix_is_stored_only_up_to_the_limit(keys):
    """No value of the blockwise program, its backward pass included, has n times m entries."""
    inputs, cotangent = problem(100, keys, batch=1, dtype=np.float32)
    text = value_and_gradients.lower(attend, inputs, cotangent).as_text()
    assert (f"tensor<1x100x{keys}xf32>" in text) == (keys == NAIVE_LIMIT)


def test_memory_at_a_56_by_56_map():
    """20 MB of temporaries; one stored matrix of 3136 x 3136 float32 would alone be 39 MB."""

    def loss(query, key, value):
        return attend_blockwise(query, key, value).sum()

    tokens = jax.ShapeDtypeStruct((1, 3136, 128), jnp.float32)
    value = jax.ShapeDtypeStruct((1, 3136), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(tokens, tokens, value)
    memory = compiled.compile().memory_analysis()
    assert memory is not None, "this backend does not say how much memory a program takes"
    assert 0 < memory.temp_size_in_bytes <= 20e6


def test_vmap(float64):
    form = attend_blockwise
    inputs, cotangent = problem(5, 257)
    stacked = jax.tree.map(lambda x: jnp.stack([x, -x, 2 * x]), (inputs, cotangent))
    over_all = jax.jit(jax.vmap(functools.partial(value_and_gradients, form)))(*stacked)
    for i in range(3):
        alone = value_and_gradients(form, *jax.tree.map(lambda x, i=i: x[i], stacked))
        for a, b in zip(over_all, alone, strict=True):
            np.testing.assert_allclose(a[i], b, **EXACT)


@pytest.mark.parametrize("form", [attend_naive, attend_blockwise])
@pytest.mark.parametrize("scale", [1e4, 1e18])
def test_large_logits(form, scale):
    """One key takes all: the output is its value, and nothing overflows."""
    inputs, cotangent = problem(5, 300, dtype=np.float32, scale=scale)
    output, *gradients = value_and_gradients(form, inputs, cotangent)
    query, key, value = map(np.asarray, inputs)
    winner = np.einsum("bnd,bmd->bnm", query.astype(np.float64), key).argmax(-1)
    # Float32 exact but where two logits tie to within a few units at scale 1e4.
    np.testing.assert_allclose(output, np.take_along_axis(value, winner, 1), atol=1e-3)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("form", [attend_naive, attend_blockwise])
def test_equal_keys_average_the_values(form):
    query, key, value = problem(5, 300, dtype=np.float32)[0]
    output = jax.jit(form)(query, jnp.ones_like(key), value)
    expected = np.broadcast_to(np.asarray(value).mean(1, keepdims=True), output.shape)
    np.testing.assert_allclose(output, expected, atol=1e-6)  # float32 sum of 300 terms
