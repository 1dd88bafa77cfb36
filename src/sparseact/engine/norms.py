"""Norms in compiled code, with the weights of all norms in one array of float32."""

from typing import Any

import numpy as np

from sparseact.engine.cache import compiled


@compiled
def rms_norm(x: Any, n: int, vectors: Any, weight: int, epsilon: float, y: Any) -> None:
    """y[:n] = x / sqrt(mean(x^2) + epsilon) * weight; weight is where it lies in `vectors`. x may be y."""
    squares = np.float32(0)
    for j in range(n):
        squares += x[j] * x[j]
    scale = np.float32(1) / np.sqrt(squares / np.float32(n) + epsilon)
    for j in range(n):
        y[j] = x[j] * scale * vectors[weight + j]


@compiled
def layer_norm(x: Any, n: int, vectors: Any, weight: int, bias: int, epsilon: float, y: Any) -> None:
    """y[:n] = (x - mean) / sqrt(variance + epsilon) * weight + bias."""
    mean = np.float32(0)
    for j in range(n):
        mean += x[j]
    mean /= np.float32(n)
    squares = np.float32(0)
    for j in range(n):
        squares += (x[j] - mean) * (x[j] - mean)
    scale = np.float32(1) / np.sqrt(squares / np.float32(n) + epsilon)
    for j in range(n):
        y[j] = (x[j] - mean) * scale * vectors[weight + j] + vectors[bias + j]
