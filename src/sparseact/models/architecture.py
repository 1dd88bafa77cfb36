"""What the model families differ in, as plain numbers that a compiled step can read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Norm(IntEnum):
    """How a norm scales its input."""

    RMS = 0
    LAYER = 1
    CENTRED = 2  # as LAYER, without a bias


class Activation(IntEnum):
    """What the neurons go through."""

    SILU = 0
    GELU = 1  # x * Phi(x), by the error function
    GELU_TANH = 2  # its tanh approximation
    RELU = 3
    RELU_SQUARED = 4


class QKNorm(IntEnum):
    """The RMS norms of queries and keys."""

    NONE = 0
    HEAD = 1  # of each head, before it rotates
    ROTATED = 2  # of each head, after it
    WHOLE = 3  # of all heads at once, before they rotate


@dataclass(frozen=True)
class Architecture:
    """A decoder of one of the families that the engine runs.

    What is not here needs no field: biases are there where the weights have them, Gemma's `1 + weight` of
    a norm and the first two unused positions of OPT are settled when the weights are read.

    Attributes:
        family: as transformers calls it.
        layers, hidden, heads, kv_heads, head_dim, neurons, vocabulary: sizes.
        context: positions that the model was made for, up to where its rotation would change with the length of
            the text; more are refused where they are learned, or where it would.
        why_context: what the text would outgrow that is longer, where that is less than the model's own limit.
        norm, norm_epsilon: of all norms.
        activation: of the neurons.
        gated: the neurons are act(gate) * up, else act(gate).
        tied: the head of the model is its embedding.
        parallel: attention and MLP read the same residual, and both are added to it.
        parallel_norm: of parallel ones, the MLP has a norm of its own; else both read one.
        pre_norms: attention and MLP read the residual through a norm.
        post_norms: the outputs of attention and MLP are normed before they are added to the residual.
        inner_norms: what the heads and the neurons put out is normed before `o` and `down` read it (BitNet).
        qk_norm: how queries and keys are normed.
        rotary_dim: first dimensions of a head that rotate, i with i + rotary_dim / 2; 0 where positions
            are learned and added to the embedding.
        frequencies: one row [rotary_dim / 2] of radians per position for each kind of layer.
        layer_frequencies: each layer's row of `frequencies`; a row of zeros does not rotate.
        rotation_scales: factor on cosines and sines of each kind of layer; none is 1.
        windows: each layer's positions that a token sees, itself among them; 0 for all.
        attention_scale: factor on query . key.
        attention_softcap, final_softcap: cap * tanh(x / cap) of attention scores and logits; 0 for none.
        embedding_scale: factor on the embedding of a token.
        logit_scale: factor on the logits, before their softcap.
        first_token: that texts begin with, where the model has one; 0 otherwise.
    """

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    neurons: int
    vocabulary: int
    context: int
    norm: Norm
    norm_epsilon: float
    activation: Activation
    gated: bool
    tied: bool
    attention_scale: float
    windows: tuple[int, ...]
    parallel: bool = False
    parallel_norm: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    inner_norms: bool = False
    qk_norm: QKNorm = QKNorm.NONE
    rotary_dim: int = 0
    frequencies: tuple[tuple[float, ...], ...] = ()
    layer_frequencies: tuple[int, ...] = ()
    rotation_scales: tuple[float, ...] = ()
    attention_softcap: float = 0.0
    final_softcap: float = 0.0
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    why_context: str = ""
    first_token: int = 0

    @property
    def head(self) -> str:
        """Canonical name of the linear that gives the logits."""
        return "embed" if self.tied else "head"

    def rotations(self, first: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosines and sines [kinds of layers, count, rotary_dim / 2] of the positions from `first` on."""
        positions = np.arange(first, first + count, dtype=np.float32)
        # float32 throughout, as transformers: far out, its rounding of the angle is part of the model.
        angles = positions[:, None] * np.asarray(self.frequencies, dtype=np.float32)[:, None, :]
        scales = np.asarray(self.rotation_scales or (1,), np.float32)[:, None, None]
        return np.cos(angles) * scales, np.sin(angles) * scales

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor that such a model can have, by canonical name; linears are [outputs, inputs].

        Those of a layer are called `{layer}.{name}`. Biases are listed though a model may have none.
        """
        inside = self.shapes_of_layer()
        shapes = self.shapes_outside() | {
            f"{layer}.{name}": shape for layer in range(self.layers) for name, shape in inside.items()
        }
        biases = {f"{name}.bias": shape[:1] for name, shape in shapes.items() if name not in {"embed", "positions"}}
        return shapes | biases | {"head.bias": (self.vocabulary,)}

    def shapes_outside(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what stands before and after the layers, without biases."""
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.vocabulary, self.hidden), "norm": (self.hidden,)}
        if not self.rotary_dim:
            shapes["positions"] = (self.context, self.hidden)
        if not self.tied:
            shapes["head"] = (self.vocabulary, self.hidden)
        return shapes

    def shapes_of_layer(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one layer's linears and norms, without biases."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "q": (queries, self.hidden),
            "k": (keys, self.hidden),
            "v": (keys, self.hidden),
            "o": (self.hidden, queries),
            "gate": (self.neurons, self.hidden),
            "up": (self.neurons, self.hidden),
            "down": (self.hidden, self.neurons),
            "attention_norm": (self.hidden,),
            "mlp_norm": (self.hidden,),
        }
        if not self.gated:
            del shapes["up"]
        if not self.pre_norms or (self.parallel and not self.parallel_norm):
            del shapes["mlp_norm"]
        if not self.pre_norms:
            del shapes["attention_norm"]
        if self.post_norms:
            shapes |= {"post_attention_norm": (self.hidden,), "post_mlp_norm": (self.hidden,)}
        if self.inner_norms:
            shapes |= {"inner_attention_norm": (queries,), "inner_mlp_norm": (self.neurons,)}
        if self.qk_norm:
            whole = self.qk_norm == QKNorm.WHOLE
            shapes |= {"q_norm": (queries if whole else self.head_dim,), "k_norm": (keys if whole else self.head_dim,)}
        return shapes

    def optional(self, name: str) -> bool:
        """Whether a model may lack this tensor: the biases of linears, and of RMS norms."""
        return name.endswith(".bias") and not (self.norm is Norm.LAYER and name.endswith("norm.bias"))

    def describe(self) -> dict[str, Any]:
        """Family and sizes, ready for JSON."""
        sizes = ("layers", "hidden", "heads", "kv_heads", "head_dim", "neurons", "vocabulary", "context")
        return {"family": self.family} | {size: getattr(self, size) for size in sizes}
