"""The compiled parts of a step against NumPy."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseact.engine.forward import neurons
from sparseact.engine.forward.prefill import softcap
from sparseact.engine.forward.projections import share
from sparseact.engine.simd.entry import Entry
from sparseact.models.architecture import Activation

activate, cap = Entry("kernels.activations.activate"), Entry("kernels.activations.cap")
layer_norm, rms_norm = Entry("kernels.norms.layer_norm"), Entry("kernels.norms.rms_norm")
attend, find_highest = Entry("kernels.attention.attend"), Entry("simd.reduce.find_highest")

RNG = np.random.default_rng(0)
WIDE = np.concatenate([np.linspace(-100, 100, 4001), [0.0, -0.0, 1e-30, -1e-30, 3e38, -3e38]]).astype(np.float32)


def padded(x, extra=64):
    return np.concatenate([x, np.zeros(extra, np.float32)])


@pytest.mark.parametrize("kind", Activation)
def test_activations_equal_numpy_and_never_overflow(kind):
    x = padded(WIDE)
    with np.errstate(over="ignore"):
        expected = neurons.activate(WIDE, kind)
    activate(int(kind), x, len(WIDE))
    finite = np.abs(WIDE) < 1e10
    np.testing.assert_allclose(x[: len(WIDE)][finite], expected[finite], rtol=2e-6, atol=2e-6)
    assert not np.isnan(x).any()
    assert (x[len(WIDE) :] == 0).all()


def test_a_cap_equals_numpy():
    x = padded(WIDE)
    cap(np.float32(30), x, 0, len(WIDE))
    np.testing.assert_allclose(x[: len(WIDE)], softcap(WIDE, 30.0), rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 200), seed=st.integers(0, 99))
def test_norms_equal_numpy(n, seed):
    random = np.random.default_rng(seed)
    x, weight, bias = random.normal(2, 3, (3, n)).astype(np.float32)
    vectors, y = np.concatenate([weight, bias]), np.empty(n, np.float32)
    rms_norm(x, n, vectors, 0, np.float32(1e-5), y)
    np.testing.assert_allclose(y, x / np.sqrt((x**2).mean() + 1e-5) * weight, rtol=1e-4, atol=1e-5)
    layer_norm(x, n, vectors, 0, n, np.float32(1e-5), y)
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=2e-4)
    layer_norm(x, n, vectors, 0, -1, np.float32(1e-5), y)  # none
    np.testing.assert_allclose(y, expected - bias, rtol=1e-4, atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(
    head_dim=st.sampled_from([2, 8, 16, 24, 64, 80, 128]),
    last=st.integers(1, 70),
    window=st.integers(0, 70),
    half=st.booleans(),
    softcapped=st.booleans(),
    seed=st.integers(0, 99),
)
def test_attention_equals_numpy(head_dim, last, window, half, softcapped, seed):
    random = np.random.default_rng(seed)
    stride = -(-head_dim // 16) * 16
    first = max(0, last - window) if window else 0
    query, out = np.zeros((2, stride + 64), np.float32)
    query[:head_dim] = random.normal(0, 2, head_dim)
    cached = np.zeros((2, 70, stride), np.float16 if half else np.float32)
    cached[..., :head_dim] = random.normal(0, 1, (2, 70, head_dim))
    keys, values = (part.view(np.uint16) if half else part for part in cached)
    limit = 3.0 if softcapped else 0.0
    attend(query, keys, values, first, last, head_dim, np.float32(limit), np.empty(128, np.float32), out)
    seen = cached[:, first:last, :head_dim].astype(np.float64)
    scores = softcap(seen[0] @ query[:head_dim], limit)
    weights = np.exp(scores - scores.max())
    np.testing.assert_allclose(out[:head_dim], weights @ seen[1] / weights.sum(), rtol=2e-4, atol=2e-5)


HALVES = """
import numpy as np
from sparseact.engine.simd.entry import Entry
bits = np.arange(0, 2**32, 65537, dtype=np.uint64).astype(np.uint32)
x = np.concatenate([bits.view(np.float32), np.float32([65519, 65520, 2**-14, 2**-24, 2**-25, 3 * 2**-25, 0, -0.0])])
x = np.resize(x, -(-len(x) // 16) * 16)
found = np.zeros(len(x), np.uint16)
Entry("kernels.attention.remember")(x, len(x), found)
with np.errstate(over="ignore"):
    expected = x.astype(np.float16)
number = ~np.isnan(expected)
assert (found[number] == expected.view(np.uint16)[number]).all()
assert np.isnan(found.view(np.float16)[~number]).all()
print("equal", len(x))
"""


@pytest.mark.parametrize("processor", ["", "x86-64", "x86-64-v3"])
@pytest.mark.timeout(600)
def test_float16_is_rounded_as_numpy_does(processor, tmp_path):
    """On this machine, without the instruction that converts, and with it."""
    if processor and os.uname().machine != "x86_64":
        pytest.skip("names of x86")
    environment = os.environ | {"SPARSEACT_CACHE": str(tmp_path)}
    if processor:
        environment |= {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run([sys.executable, "-c", HALVES], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("equal"), done.stderr


@settings(max_examples=60, deadline=None)
@given(first=st.integers(0, 40), n=st.integers(1, 900), seed=st.integers(0, 99), levels=st.sampled_from([3, 10**6]))
def test_the_first_of_the_highest_is_found(first, n, seed, levels):
    x = np.random.default_rng(seed).integers(-levels, 0, first + n + 32).astype(np.float32)
    assert find_highest(x, first, first + n) == first + x[first : first + n].argmax()


@given(n=st.integers(0, 1000), threads=st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_shares_meet_and_differ_by_one_at_most(n, threads):
    shares = [share.py_func(n, thread, threads) for thread in range(threads)]
    assert [0, *(last for _, last in shares)] == [*(first for first, _ in shares), n]
    sizes = [last - first for first, last in shares]
    assert max(sizes) - min(sizes) <= 1
