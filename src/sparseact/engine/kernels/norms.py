"""Norms in compiled code, with the weights of all norms in one array of float32."""

from typing import Any

import numpy as np

from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.reduce import total_of, total_of_squares


@compiled
def rms_norm(x: Any, n: int, vectors: Any, weight: int, epsilon: float, y: Any) -> None:
    """y[:n] = x / sqrt(mean(x^2) + epsilon) * weight; weight is where it lies in `vectors`. x may be y."""
    squares = total_of_squares(x, n, np.float32(0))
    scale = np.float32(1) / np.sqrt(squares / np.float32(n) + epsilon)
    for j in range(n):
        y[j] = x[j] * scale * vectors[weight + j]


@compiled
def layer_norm(x: Any, n: int, vectors: Any, weight: int, bias: int, epsilon: float, y: Any) -> None:
    """y[:n] = (x - mean) / sqrt(variance + epsilon) * weight + bias."""
    mean = total_of(x, n) / np.float32(n)
    squares = total_of_squares(x, n, mean)
    scale = np.float32(1) / np.sqrt(squares / np.float32(n) + epsilon)
    for j in range(n):
        y[j] = (x[j] - mean) * scale * vectors[weight + j] + vectors[bias + j]
