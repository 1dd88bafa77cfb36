"""Formats and layouts of weights, and their place in the arena, without compiled code."""

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseact.engine.quant.arena import CODES, FIELDS, LOW, MINS, PAGE, SCALES, STRIDE, Arena, Linear
from sparseact.engine.quant.layouts import CACHE_LINE, LAYOUTS, shape_of
from sparseact.engine.quant.pack import pack
from sparseact.models.formats import FORMATS, Quantised, bf16_of, dequantise, float_of_bf16, quantise

PAIRS = [(form, layout) for form in FORMATS for layout in LAYOUTS if layout != "planes" or form == "q8"]


def weights_of(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 100), st.sampled_from([1e-3, 1.0, 100.0]), st.integers(0, 2**32))
def test_no_weight_is_further_off_than_half_a_step(rows, columns, size, seed):
    weights = weights_of(rows, columns, seed) * np.float32(size)
    for form, steps in (("q8", 127), ("q4", 8), ("q4m", 15)):
        blocks = quantise(weights, form)
        error = np.pad(np.abs(dequantise(blocks) - weights), ((0, 0), (0, -columns % 32))).reshape(rows, -1, 32)
        most = np.pad(np.abs(weights), ((0, 0), (0, -columns % 32))).reshape(rows, -1, 32).max(-1)
        # Padding counts as weights of 0. float16 scales are off by 2**-11 at most (more where they are subnormal),
        # and q4 has no code for the other end of the range: a whole step there.
        step = (2 if form == "q4m" else 1) * most / steps
        bound = step * (1.0 if form == "q4" else 0.5) + most * 2e-3 + 127 * 6e-8
        assert np.all(error.max(-1) <= bound), form


@pytest.mark.parametrize(
    ("form", "type_name", "offset", "header"), [("q8", "Q8_0", 0, 1), ("q4", "Q4_0", 0, 1), ("q4m", "Q4_1", 0, 2)]
)
def test_blocks_of_gguf_mean_the_same_to_the_bit(form, type_name, offset, header):
    kind = gguf.GGMLQuantizationType[type_name]
    raw = quantize(weights_of(5, 96), kind).reshape(5, 3, -1)
    heads = np.ascontiguousarray(raw[..., : 2 * header]).view(np.float16)
    body = raw[..., 2 * header :]
    codes = body.view(np.int8) if form == "q8" else np.concatenate([body & 15, body >> 4], axis=-1)
    mins = np.ascontiguousarray(heads[..., 1]) if header == 2 else None
    ours = Quantised(form, 96, np.ascontiguousarray(codes).reshape(5, 96), np.ascontiguousarray(heads[..., 0]), mins)
    np.testing.assert_array_equal(dequantise(ours), dequantize(raw.reshape(5, -1), kind))


def test_q8_is_as_exact_as_ggufs():
    weights = weights_of(64, 128)
    theirs = dequantize(quantize(weights, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0)
    ours = dequantise(quantise(weights, "q8"))
    assert np.square(ours - weights).mean() <= np.square(theirs - weights).mean() * 1.001


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_bf16_rounds_as_torch_does(values):
    array = np.array(values, np.float32)
    expected = torch.from_numpy(array).bfloat16().float().numpy()
    np.testing.assert_array_equal(float_of_bf16(bf16_of(array)), expected)


@pytest.mark.parametrize(("form", "layout"), PAIRS)
@pytest.mark.parametrize("sizes", [(1, 1), (50, 96), (64, 130), (5, 600)])
def test_sizes_that_are_planned_are_the_sizes_that_are_packed(layout, form, sizes):
    shape = shape_of(form, layout, *sizes)
    packed = pack(quantise(weights_of(*sizes), form), layout)
    assert packed.codes.size == shape.codes
    assert (0 if packed.scales is None else packed.scales.size) == shape.scales
    assert (0 if packed.mins is None else packed.mins.size) == shape.mins
    assert (0 if packed.low is None else packed.low.size) == shape.low


def test_a_panel_of_q8_lies_as_documented():
    codes = np.arange(16 * 32, dtype=np.int64).reshape(16, 32) % 251 - 125
    packed = pack(Quantised("q8", 32, codes.astype(np.int8), np.ones((16, 1), np.float16)), "panels")
    # Bytes 4 r .. 4 r + 3 of vector v are the inputs 4 v .. 4 v + 3 of row r, with 128 added.
    for v, r, k in ((0, 0, 0), (0, 15, 3), (7, 2, 1)):
        assert packed.codes[64 * v + 4 * r + k] == codes[r, 4 * v + k] + 128


def test_a_column_of_q8_lies_as_documented():
    codes = np.arange(64, dtype=np.int64)[:, None].repeat(32, 1)
    packed = pack(Quantised("q8", 32, codes.astype(np.int8), np.ones((64, 1), np.float16)), "columns")
    # Row 16 z + 4 l + i lies at 16 l + 4 z + i.
    for z, lane, i in ((0, 0, 0), (1, 2, 3), (3, 1, 2)):
        assert packed.codes[16 * lane + 4 * z + i] == 16 * z + 4 * lane + i + 128


def test_the_arena_keeps_linears_apart_and_aligned():
    linears = [Linear(f"{form}.{layout}", form, layout, 50, 70) for form, layout in PAIRS]
    arena = Arena.allocate(linears)
    assert arena.table.shape == (len(linears), FIELDS)
    assert arena.data.ctypes.data % PAGE == 0
    assert arena.data.flags.writeable
    assert not arena.data.any()
    ends = 0
    for i, linear in enumerate(linears):
        shape = linear.shape
        assert arena.bytes_of(i) == shape.codes + shape.scales + shape.mins + shape.low
        for field, size in ((CODES, shape.codes), (SCALES, shape.scales), (MINS, shape.mins), (LOW, shape.low)):
            start = arena.table[i, field]
            assert (start >= 0) == (size > 0)
            if size:
                assert start >= ends
                assert start % CACHE_LINE == 0
                ends = start + size
    assert ends <= arena.data.size


def test_planes_of_q8_lie_as_documented():
    codes = (np.arange(16 * 576, dtype=np.int64).reshape(16, 576) * 37 % 255 - 127).astype(np.int8)
    scales = np.arange(16 * 18).reshape(16, 18).astype(np.float16)
    packed = pack(Quantised("q8", 576, codes, scales), "planes")
    stored = codes.astype(np.int64) + 128
    # Of a block's inputs, 4 v .. 4 v + 3 of row r are low nibbles of vector v, and 16 more high ones.
    for block, v, r, k in ((0, 0, 0, 0), (17, 3, 15, 3), (3, 2, 1, 1)):
        byte = packed.codes[256 * block + 64 * v + 4 * r + k]
        assert byte & 15 == stored[r, 32 * block + 4 * v + k] >> 4
        assert byte >> 4 == stored[r, 32 * block + 16 + 4 * v + k] >> 4
    low = packed.low.reshape(16, 352)
    # Inputs 4 v .. 4 v + 3 of block g are low nibbles at 64 v + 4 g, and 16 more high ones; 64 are left over.
    for r, g, v, k in ((0, 0, 0, 0), (5, 15, 3, 3), (9, 7, 1, 2)):
        byte = low[r, 64 * v + 4 * g + k]
        assert byte & 15 == stored[r, 32 * g + 4 * v + k] & 15
        assert byte >> 4 == stored[r, 32 * g + 16 + 4 * v + k] & 15
    assert low[3, 256 + 5] == (stored[3, 517] & 15) | (stored[3, 549] & 15) << 4
    np.testing.assert_array_equal(low[:, 288:324].copy().view(np.float16), scales)
    assert not low[:, 324:].any()


def test_low_planes_lie_in_the_columns_that_they_are_read_with():
    gate, up, down = (
        quantise(weights_of(*sizes, seed), "q8") for seed, sizes in enumerate([(48, 96)] * 2 + [(96, 48)])
    )
    wide = {"beside": "down"}
    linears = [Linear(name, "q8", "planes", 48, 96, **wide) for name in ("gate", "up")]
    arena = Arena.allocate([*linears, Linear("down", "q8", "columns", 96, 48, lead=2 * 96)])
    for i, weights in enumerate((gate, up, down)):
        arena.store(i, weights)
    start, stride = int(arena.table[0, LOW]), int(arena.table[0, STRIDE])
    assert stride == 2 * 96 + 128  # two rows of 64 bytes and scales, padded; a column of 96 bytes, padded
    runs = arena.data[start : start + 48 * stride].reshape(48, stride)
    np.testing.assert_array_equal(runs[:, :96], pack(gate, "planes").low.reshape(48, 96))
    np.testing.assert_array_equal(runs[:, 96:192], pack(up, "planes").low.reshape(48, 96))
    np.testing.assert_array_equal(runs[:, 192:], pack(down, "columns").codes.reshape(64, 128)[:48])
    high, low = divmod(gate.codes.astype(np.int64), 16)
    assert sum(arena.bytes_of(i) for i in range(2)) == 2 * (48 * 64 + 48 * 4 * 2)
    assert arena.bytes_of(2) == 64 * stride + 128 * 2 * 2
    np.testing.assert_array_equal(high * 16 + low, gate.codes)


def test_weights_of_other_sizes_are_not_stored():
    arena = Arena.allocate([Linear("layers.0.up", "q8", "panels", 16, 32)])
    for wrong in (
        quantise(weights_of(16, 33), "q8"),
        quantise(weights_of(17, 32), "q8"),
        quantise(weights_of(16, 32), "f32"),
    ):
        with pytest.raises(ValueError, match=r"layers\.0\.up"):
            arena.store(0, wrong)
    assert not arena.data.any()


def test_parts_that_do_not_fit_make_no_weights():
    codes, scales = np.zeros((4, 64), np.int8), np.zeros((4, 2), np.float16)
    Quantised("q8", 64, codes, scales)
    with pytest.raises(ValueError, match="codes"):
        Quantised("q8", 65, codes, scales)
    with pytest.raises(ValueError, match="codes"):
        Quantised("q8", 64, codes.astype(np.uint8), scales)
    with pytest.raises(ValueError, match="scales"):
        Quantised("q8", 64, codes, scales[:, :1])
    with pytest.raises(ValueError, match="mins"):
        Quantised("q8", 64, codes, scales, scales)
