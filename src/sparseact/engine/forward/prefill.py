"""Many tokens at once in NumPy but for the products: the engine's prefill, and the reference of its compiled step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparseact.engine.forward.neurons import activate
from sparseact.errors import InputError
from sparseact.models.architecture import Architecture, Norm, QKNorm
from sparseact.models.formats import Array, Floats
from sparseact.models.weights import Weights

CHUNK = 256
"""Tokens that go through a layer at once: more cost memory, fewer cost time."""
QUERIES = 64
"""Tokens whose attention is computed at once."""

Product = Callable[[str, Floats], Floats]
"""(canonical name of a linear, input [tokens, inputs]) -> its outputs [tokens, outputs], without its bias."""
Replace = Callable[[str, Floats, Mapping[str, Floats], int], Floats]
"""(name, input [tokens, inputs], the layer's outputs so far by short name, and what its MLP reads as `mlp`, the first
token's position) -> what the linear sees."""


@dataclass
class Cache:
    """Keys and values of the tokens so far.

    Attributes:
        keys, values: [layers, kv_heads, positions, head_dim], float32 or float16; keys are rotated.
        length: positions that are filled.
    """

    keys: Array
    values: Array
    length: int = 0

    @classmethod
    def empty(cls, architecture: Architecture, positions: int, dtype: Any = np.float32) -> Cache:
        """A cache for `positions` tokens."""
        shape = (architecture.layers, architecture.kv_heads, positions, architecture.head_dim)
        return cls(np.zeros(shape, dtype), np.zeros(shape, dtype))


@dataclass(frozen=True)
class Forward:
    """A model's forward over many tokens.

    Attributes:
        architecture: of the model.
        product: of a linear and its input.
        vectors: norms, biases and learned positions by canonical name.
        embed: rows [tokens, hidden] of the embedding.
        replace: what the linears of the layers see instead of their input, for sparse runs.
    """

    architecture: Architecture
    product: Product
    vectors: Mapping[str, Floats]
    embed: Callable[[Array], Floats]
    replace: Replace | None = None

    @classmethod
    def reading(cls, weights: Weights, replace: Replace | None = None) -> Forward:
        """A forward in float32 that reads each weight from its source when it needs it: the reference."""
        shapes = weights.architecture.shapes
        vectors = {name: weights.floats(name) for name in weights.names if len(shapes[name]) == 1}
        if "positions" in weights:
            vectors["positions"] = weights.floats("positions")

        def embed(ids: Array) -> Floats:
            return np.concatenate([weights.floats("embed", token, token + 1) for token in ids.tolist()])

        def product(name: str, x: Floats) -> Floats:
            return x @ weights.floats(name).T

        return cls(weights.architecture, product, vectors, embed, replace)

    def prefill(self, ids: Sequence[int] | Array, cache: Cache) -> Floats:
        """Run tokens that follow those in the cache, and add them to it.

        Args:
            ids: at least one token.
            cache: is filled from `cache.length` on, which grows by their number.

        Returns:
            [tokens, hidden], after the last norm: what the head of the model reads.

        Raises:
            InputError: a token outside the vocabulary, or more than the cache or the model has positions for.
        """
        tokens = self._checked(ids, cache)
        start = cache.length
        hidden = self.embed(tokens) * np.float32(self.architecture.embedding_scale)
        if not self.architecture.rotary_dim:
            hidden = hidden + self.vectors["positions"][start : start + len(tokens)]
        chunks = [slice(first, min(first + CHUNK, len(tokens))) for first in range(0, len(tokens), CHUNK)]
        # Layers outside, chunks inside: the weights of a layer stay in the cache.
        for layer in range(self.architecture.layers):
            block = _Layer(self, layer, cache.keys[layer], cache.values[layer])
            for chunk in chunks:
                hidden[chunk] = block.run(hidden[chunk], start + chunk.start)
        cache.length = start + len(tokens)
        return self.norm("norm", hidden)

    def logits(self, hidden: Floats) -> Floats:
        """Logits [tokens, vocabulary] of what `prefill` returned for some tokens."""
        logits = self.product(self.architecture.head, hidden)
        logits += self.vectors.get("head.bias", np.float32(0))
        if self.architecture.logit_scale != 1:
            logits *= np.float32(self.architecture.logit_scale)
        return softcap(logits, self.architecture.final_softcap)

    def norm(self, name: str, x: Floats) -> Floats:
        """A norm of the model over the last axis of x."""
        if self.architecture.norm is Norm.RMS:
            return self.rms_norm(name, x)
        return self.rms_norm(name, x - x.mean(-1, keepdims=True)) + self.vectors.get(f"{name}.bias", np.float32(0))

    def rms_norm(self, name: str, x: Floats) -> Floats:
        """The norm over the last axis of x that needs no mean."""
        scaled = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(self.architecture.norm_epsilon))
        return scaled * self.vectors[name]

    def _checked(self, ids: Sequence[int] | Array, cache: Cache) -> Array:
        tokens = np.asarray(ids)
        if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind not in "iu":
            raise InputError(f"the tokens must be a list of at least one integer, not {tokens.dtype} {tokens.shape}")
        if tokens.min() < 0 or tokens.max() >= self.architecture.vocabulary:
            raise InputError(
                f"tokens from {tokens.min()} to {tokens.max()}, but the vocabulary has {self.architecture.vocabulary}"
            )
        positions = cache.keys.shape[2]
        if not self.architecture.rotary_dim:
            positions = min(positions, self.architecture.context)
        if cache.length + len(tokens) > positions:
            raise InputError(
                f"{cache.length} tokens and {len(tokens)} more are longer than the context of {positions} tokens"
            )
        return tokens


class _Layer:
    """One block."""

    def __init__(self, forward: Forward, layer: int, keys: Array, values: Array) -> None:
        self.forward, self.layer, self.keys, self.values = forward, layer, keys, values
        self.architecture = forward.architecture
        self.outputs: dict[str, Floats] = {}
        self.start = 0

    def run(self, hidden: Floats, start: int) -> Floats:
        """The residual stream [tokens, hidden] of tokens from position `start` on, after this block."""
        self.outputs, self.start = {}, start
        sizes = self.architecture
        normed = self.norm("attention_norm", hidden) if sizes.pre_norms else hidden
        attended = self.attention(normed)
        attended = self.apply("o", self.rms_norm("inner_attention_norm", attended) if sizes.inner_norms else attended)
        if sizes.parallel:
            return hidden + attended + self.mlp(self.norm("mlp_norm", hidden) if sizes.parallel_norm else normed)
        if sizes.post_norms:
            attended = self.rms_norm("post_attention_norm", attended)
        hidden = hidden + attended
        out = self.mlp(self.norm("mlp_norm", hidden) if sizes.pre_norms else hidden)
        return hidden + (self.rms_norm("post_mlp_norm", out) if sizes.post_norms else out)

    def mlp(self, x: Floats) -> Floats:
        self.outputs["mlp"] = x
        neurons = activate(self.apply("gate", x), self.architecture.activation)
        if self.architecture.gated:
            neurons *= self.apply("up", x)
        if self.architecture.inner_norms:
            neurons = self.rms_norm("inner_mlp_norm", neurons)
        return self.apply("down", neurons)

    def attention(self, x: Floats) -> Floats:
        """What the heads put out [tokens, heads * head_dim]; their keys and values go into the cache."""
        sizes, start = self.architecture, self.start
        end = start + len(x)
        queries, keys = self.apply("q", x), self.apply("k", x)
        if sizes.qk_norm == QKNorm.WHOLE:
            queries, keys = self.rms_norm("q_norm", queries), self.rms_norm("k_norm", keys)
        queries = queries.reshape(len(x), sizes.heads, sizes.head_dim)
        keys = keys.reshape(len(x), sizes.kv_heads, sizes.head_dim)
        values = self.apply("v", x).reshape(len(x), sizes.kv_heads, sizes.head_dim)
        if sizes.qk_norm == QKNorm.HEAD:
            queries, keys = self.rms_norm("q_norm", queries), self.rms_norm("k_norm", keys)
        if sizes.rotary_dim:
            kind = sizes.layer_frequencies[self.layer]
            cos, sin = (table[kind] for table in sizes.rotations(start, len(x)))
            queries, keys = rotate(queries, cos, sin), rotate(keys, cos, sin)
        if sizes.qk_norm == QKNorm.ROTATED:
            queries, keys = self.rms_norm("q_norm", queries), self.rms_norm("k_norm", keys)
        self.keys[:, start:end] = keys.swapaxes(0, 1)
        self.values[:, start:end] = values.swapaxes(0, 1)
        return self.attend(queries)

    def attend(self, queries: Floats) -> Floats:
        """The means of the values that queries [tokens, heads, head_dim] see, [tokens, heads * head_dim]."""
        sizes, start, window = self.architecture, self.start, self.architecture.windows[self.layer]
        tokens, end = len(queries), start + len(queries)
        first = max(0, start - window + 1) if window else 0
        seen_keys = self.keys[:, first:end].astype(np.float32).swapaxes(1, 2)
        seen_values = self.values[:, first:end].astype(np.float32)
        # [kv_heads, heads that share them, tokens, head_dim], some tokens at a time: later ones are not computed.
        scaled = queries * np.float32(sizes.attention_scale)
        by_head = scaled.reshape(tokens, sizes.kv_heads, -1, sizes.head_dim).transpose(1, 2, 0, 3)
        out = np.empty((tokens, sizes.heads, sizes.head_dim), np.float32)
        for some in range(0, tokens, QUERIES):
            asking = np.arange(start + some, min(start + some + QUERIES, end))
            seen = np.arange(max(first, asking[0] - window + 1) if window else 0, asking[-1] + 1)
            part = slice(seen[0] - first, seen[-1] + 1 - first)
            distance = asking[:, None] - seen
            unseen = (distance < 0) | (distance >= window) if window else distance < 0
            asked = by_head[:, :, some : some + QUERIES].reshape(sizes.kv_heads, -1, sizes.head_dim)
            weights: Floats = softcap(np.matmul(asked, seen_keys[:, :, part]), sizes.attention_softcap)
            np.copyto(weights.reshape(sizes.kv_heads, -1, *unseen.shape), -np.inf, where=unseen)
            weights -= weights.max(-1, keepdims=True)
            np.exp(weights, out=weights)
            means = weights @ seen_values[:, part] / weights.sum(-1, keepdims=True)
            out[some : some + QUERIES] = means.reshape(sizes.heads, len(asking), -1).swapaxes(0, 1)
        return out.reshape(tokens, -1)

    def apply(self, name: str, x: Floats) -> Floats:
        """A linear of this block, with its bias."""
        if self.forward.replace is not None:
            x = self.forward.replace(f"{self.layer}.{name}", x, self.outputs, self.start)
        y = self.forward.product(f"{self.layer}.{name}", x)
        bias = self.forward.vectors.get(f"{self.layer}.{name}.bias")
        if bias is not None:
            y += bias
        self.outputs[name] = y
        return y

    def norm(self, name: str, x: Floats) -> Floats:
        return self.forward.norm(f"{self.layer}.{name}", x)

    def rms_norm(self, name: str, x: Floats) -> Floats:
        return self.forward.rms_norm(f"{self.layer}.{name}", x)


def rotate(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """Heads [tokens, heads, head_dim] with the pairs (i, i + rotary_dim / 2) rotated by [tokens, rotary_dim / 2]."""
    half = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    left, right = x[..., :half], x[..., half : 2 * half]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin, x[..., 2 * half :]], axis=-1)


def softcap(x: Floats, cap: float) -> Floats:
    """Bounded to cap * tanh(x / cap); x itself if the cap is 0 (Gemma 2)."""
    return np.float32(cap) * np.tanh(x / np.float32(cap)) if cap else x
