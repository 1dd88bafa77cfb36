"""The activations of the neurons, in float32."""

import math

import numpy as np

from sparseact.models.architecture import Activation
from sparseact.models.formats import Floats


def activate(x: Floats, activation: Activation) -> Floats:
    """The activation of each number; never overflows, never changes x."""
    if activation is Activation.RELU:
        return np.maximum(x, np.float32(0))
    if activation is Activation.RELU_SQUARED:
        return np.square(np.maximum(x, np.float32(0)))
    if activation is Activation.SILU:
        return x * (np.tanh(x * np.float32(0.5)) + 1) * np.float32(0.5)  # x * sigmoid(x)
    if activation is Activation.GELU_TANH:
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        return np.float32(0.5) * x * (1 + np.tanh(inner))
    return np.float32(0.5) * x * (1 + _erf(x / np.float32(math.sqrt(2))))


def _erf(x: Floats) -> Floats:
    """The error function to 1.5e-7 (Abramowitz and Stegun 7.1.26); NumPy has none."""
    t = 1 / (1 + 0.3275911 * np.abs(x).astype(np.float64))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return (np.sign(x) * (1 - series * np.exp(-np.square(x, dtype=np.float64)))).astype(np.float32)
