"""Norms in compiled code, with the weights of all norms in one array of float32."""

from typing import Any

import numpy as np

from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.reduce import total_of, total_of_squares


@compiled
def inverse_rms(x: Any, n: int, epsilon: float) -> Any:
    """1 / sqrt(mean(x^2) + epsilon) of x[:n]."""
    return np.float32(1) / np.sqrt(total_of_squares(x, n, np.float32(0)) / np.float32(n) + epsilon)


@compiled
def rms_norm(x: Any, n: int, vectors: Any, weight: int, epsilon: float, y: Any) -> None:
    """y[:n] = x / sqrt(mean(x^2) + epsilon) * weight; weight is where it lies in `vectors`. x may be y."""
    scale = inverse_rms(x, n, epsilon)
    for j in range(n):
        y[j] = x[j] * scale * vectors[weight + j]


@compiled
def layer_norm(x: Any, n: int, vectors: Any, weight: int, bias: int, epsilon: float, y: Any) -> None:
    """y[:n] = (x - mean) / sqrt(variance + epsilon) * weight + bias; the bias is -1 where there is none."""
    mean = total_of(x, n) / np.float32(n)
    squares = total_of_squares(x, n, mean)
    scale = np.float32(1) / np.sqrt(squares / np.float32(n) + epsilon)
    for j in range(n):
        y[j] = (x[j] - mean) * scale * vectors[weight + j]
    if bias >= 0:
        for j in range(n):
            y[j] += vectors[bias + j]
