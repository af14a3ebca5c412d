"""Attention with one scalar value a key, the kind that turns two feature maps into a mask.

`attend` picks between two forms of the same function by the number of keys. The naive form stores
the attention matrix and is the faster one up to a 28 x 28 map. The blockwise form never stores it:
forward and backward walk over blocks of keys and keep only the running maximum and sum of each
row. Because a value is a scalar, the gradient of a logit is rank one, P_ij g_i (v_j - o_i), so the
backward pass needs three matrix products instead of flash attention's five.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NAIVE_LIMIT = 784  # keys; beyond it the stored matrix costs more than recomputing it
_BLOCK = 256  # keys a step of the blockwise form

# On TPUs and TF32 GPUs the default precision of a float32 product is below float32.
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def attend(
    query: Float[Array, "b n d"], key: Float[Array, "b m d"], value: Float[Array, "b m"]
) -> Float[Array, "b n"]:
    """Returns softmax(query key^T / sqrt(d)) value, the softmax taken over the keys (Eq. 6).

    Values and gradients are the same on both sides of `NAIVE_LIMIT`; the dtype is the inputs'.
    Finite inputs have a finite output, a mean of the values, however large they are.
    """
    query, key = _damped(query, key)
    if key.shape[1] <= NAIVE_LIMIT:
        return attend_naive(query, key, value)
    return attend_blockwise(query, key, value)


def _damped(query: Array, key: Array) -> tuple[Array, Array]:
    """Queries [b, n, d] and keys [b, m, d] as they are, unless logits could be enormous.

    Above 16 / eps, 1e8 for float32, a rounding error alone can be more than exp bears, and XLA does
    not round a logit the same way wherever it is used; far above that a product overflows. Queries
    and keys of such an image are scaled down to where neither happens: the largest logit, which
    takes all, stays the largest.
    """
    bound = 16 / float(jnp.finfo(query.dtype).eps) / query.shape[-1]
    largest = [jnp.abs(x).max((1, 2), keepdims=True) for x in (query, key)]  # [b, 1, 1] each
    enormous = largest[0] * largest[1] > bound
    scales = [jnp.where(enormous, math.sqrt(bound) / x, 1) for x in largest]
    return query * jax.lax.stop_gradient(scales[0]), key * jax.lax.stop_gradient(scales[1])


def attend_naive(
    query: Float[Array, "b n d"], key: Float[Array, "b m d"], value: Float[Array, "b m"]
) -> Float[Array, "b n"]:
    """`attend` with the attention matrix [b, n, m] in memory."""
    logits = _einsum("bnd,bmd->bnm", query, key) / math.sqrt(query.shape[-1])
    return _einsum("bnm,bm->bn", jax.nn.softmax(logits, axis=-1), value)


@jax.custom_vjp
def attend_blockwise(
    query: Float[Array, "b n d"], key: Float[Array, "b m d"], value: Float[Array, "b m"]
) -> Float[Array, "b n"]:
    """`attend` in O(n * block) memory an image, exact."""
    return _forward(query, key, value)[0]


def _blocks(key: Array, value: Array) -> tuple[Array, Array, Array]:
    """Splits keys [b, m, d], values [b, m] and a validity mask into leading blocks, zero-padded."""
    batch, keys, depth = key.shape
    count = -(-keys // _BLOCK)
    padding = count * _BLOCK - keys
    key = jnp.pad(key, ((0, 0), (0, padding), (0, 0))).reshape(batch, count, _BLOCK, depth)
    value = jnp.pad(value, ((0, 0), (0, padding))).reshape(batch, count, _BLOCK)
    valid = (jnp.arange(count * _BLOCK) < keys).reshape(count, _BLOCK)
    return jnp.moveaxis(key, 1, 0), jnp.moveaxis(value, 1, 0), valid


def _logits(query: Array, key: Array, valid: Array) -> Array:
    logits = _einsum("bnd,bmd->bnm", query, key) / math.sqrt(query.shape[-1])
    return jnp.where(valid, logits, -jnp.inf)


def _forward(query: Array, key: Array, value: Array) -> tuple[Array, Array, Array]:
    """Returns the output, and the largest logit and the softmax denominator below it, all [b, n].

    The two are kept apart: beside a large logit the logarithm of the denominator would be lost.
    """

    def body(carry, block):
        maximum, denominator, output = carry  # each [b, n]
        key, value, valid = block
        logits = _logits(query, key, valid)  # [b, n, block]
        new_maximum = jnp.maximum(maximum, logits.max(-1))
        rescale = jnp.exp(maximum - new_maximum)
        weights = jnp.exp(logits - new_maximum[..., None])
        denominator = denominator * rescale + weights.sum(-1)
        output = output * rescale + _einsum("bnm,bm->bn", weights, value)
        return (new_maximum, denominator, output), None

    zeros = jnp.zeros(query.shape[:2], query.dtype)
    start = (jnp.full_like(zeros, -jnp.inf), zeros, zeros)
    (maximum, denominator, output), _ = jax.lax.scan(body, start, _blocks(key, value))
    return output / denominator, maximum, denominator


def _forward_rule(query: Array, key: Array, value: Array):
    output, maximum, denominator = _forward(query, key, value)
    return output, (query, key, value, output, maximum, denominator)


def _backward_rule(residuals, cotangent: Array):
    query, key, value, output, maximum, denominator = residuals
    share = cotangent / denominator
    scale = 1 / math.sqrt(query.shape[-1])

    def body(query_grad, block):
        key, value, valid = block
        weights = jnp.exp(_logits(query, key, valid) - maximum[..., None])
        weighted = weights * share[..., None]  # P_ij g_i
        value_grad = weighted.sum(1)
        logits_grad = weighted * (value[:, None, :] - output[..., None])
        query_grad = query_grad + scale * _einsum("bnm,bmd->bnd", logits_grad, key)
        key_grad = scale * _einsum("bnm,bnd->bmd", logits_grad, query)
        return query_grad, (key_grad, value_grad)

    blocks = _blocks(key, value)
    query_grad, (key_grad, value_grad) = jax.lax.scan(body, jnp.zeros_like(query), blocks)
    batch, keys, depth = key.shape
    key_grad = jnp.moveaxis(key_grad, 0, 1).reshape(batch, -1, depth)[:, :keys]
    value_grad = jnp.moveaxis(value_grad, 0, 1).reshape(batch, -1)[:, :keys]
    return query_grad, key_grad, value_grad


attend_blockwise.defvjp(_forward_rule, _backward_rule)
