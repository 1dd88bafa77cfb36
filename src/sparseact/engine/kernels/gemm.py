"""Products of many tokens with every row of a matrix: weights are read once for a tile of tokens.

A token's product is that of `dot_panels`, bit by bit: the same operations in the same order, whatever stands
beside it in the tile. So tokens that are run together are those that are run one by one.

Inputs come tile by tile, the tokens of a tile alternating, so that what a panel is multiplied with lies in a row. In
registers, a tile is a tuple with a vector of 16 rows for each of its tokens; the operations here do the same to each.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from sparseact.engine.kernels.codes import offset_of
from sparseact.engine.quant.activations import quantise_input
from sparseact.engine.quant.arena import CODES, FORMAT, LAYOUT, MINS, OUTPUTS, PADDED_INPUTS, SCALES
from sparseact.engine.quant.layouts import CHUNK, HALF, PANEL, PANELS, TILE
from sparseact.engine.quant.repack import places_in_scratch, regroup, sizes_of_panel
from sparseact.engine.simd.bytes import even_bf16, high_nibbles, load_bytes, low_nibbles, odd_bf16
from sparseact.engine.simd.isa import dot_codes_ir, dot_nibbles_ir
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import LANES, Emitter, f32x16, i32x16, load_f16, load_f32, load_i32, operation
from sparseact.models.formats import BF16, BLOCK, F32, Q4M, Q8

VECTOR = 64
"""Bytes of a load."""

_F32, _I8, _I32 = ir.FloatType(), ir.IntType(8), ir.IntType(32)
_V_F32, _V_BYTES = ir.VectorType(_F32, LANES), ir.VectorType(_I8, 64)


# Operations on a tile


def _like(kind: Any) -> Callable[..., Any]:
    """A tile of `kind` as long as the tile that is the last argument."""
    return lambda *arguments: types.UniTuple(kind, arguments[-1].count)(*arguments)


def _numbers(e: Emitter, array: int, values: tuple[Any, ...], kind: ir.Type) -> list[ir.Value]:
    """A number for each token from the argument `array`; the two last arguments are the first's place and a tile."""
    at = e.scalar(values[-2], len(values) - 2, types.intp)
    data = e.context.make_array(e.types[array])(e.context, e.ir, values[array]).data
    place = e.ir.bitcast(e.ir.gep(data, [at], inbounds=True), kind.as_pointer())
    found = []
    for token in range(e.types[-1].count):
        found.append(e.ir.load(e.ir.gep(place, [_I32(token)], inbounds=True)))
        found[-1].align = 1
    return found


def _tile(e: Emitter, kind: Any, vectors: list[ir.Value]) -> ir.Value:
    return e.context.make_tuple(e.ir, types.UniTuple(kind, len(vectors)), vectors)


def _vectors(e: Emitter, tile: ir.Value) -> list[ir.Value]:
    return [e.ir.extract_value(tile, token) for token in range(e.types[-1].count)]


@operation(types.UniTuple(f32x16, TILE))
def zero_tile(e: Emitter) -> ir.Value:
    """Zeros for a tile."""
    return _tile(e, f32x16, [ir.Constant(_V_F32, None)] * TILE)


@operation(types.UniTuple(f32x16, HALF))
def zero_half(e: Emitter) -> ir.Value:
    """Zeros for half a tile."""
    return _tile(e, f32x16, [ir.Constant(_V_F32, None)] * HALF)


@operation(_like(i32x16))
def begin_sums(e: Emitter, asum: Any, factor: Any, at: Any, tile: Any) -> ir.Value:
    """A token's asum times a factor, in all lanes."""
    scaled = e.scalar(factor, 1, types.int32)
    numbers = _numbers(e, 0, (asum, factor, at, tile), _I32)
    return _tile(e, i32x16, [e.splat(e.ir.mul(number, scaled)) for number in numbers])


@operation(_like(i32x16))
def dot_tile(e: Emitter, words: Any, w: Any, at: Any, sums: Any) -> ir.Value:
    """Sums + the products of the codes of w with the four bytes of a token's word."""
    return _dot_tile(e, dot_codes_ir, (words, w, at, sums))


@operation(_like(i32x16))
def dot_tile_nibbles(e: Emitter, words: Any, w: Any, at: Any, sums: Any) -> ir.Value:
    """Sums + the products of the bytes of w, 0..15, with the four of a token's word."""
    return _dot_tile(e, _dot_nibbles, (words, w, at, sums))


def _dot_nibbles(e: Emitter, total: ir.Value, w: ir.Value, code: ir.Value) -> ir.Value:
    return dot_nibbles_ir(e, total, [(w, code)])


def _dot_tile(e: Emitter, dot: Callable[..., ir.Value], arguments: tuple[Any, ...]) -> ir.Value:
    codes = [e.ir.bitcast(e.splat(word), _V_BYTES) for word in _numbers(e, 0, arguments, _I32)]
    pairs = zip(_vectors(e, arguments[-1]), codes, strict=True)
    return _tile(e, i32x16, [dot(e, total, arguments[1], code) for total, code in pairs])


@operation(_like(f32x16))
def add_sums(e: Emitter, ascale: Any, sums: Any, scale: Any, at: Any, tile: Any) -> ir.Value:
    """Tile + sums * (the weights' scales times a token's)."""
    vectors = []
    for token, number in enumerate(_numbers(e, 0, (ascale, sums, scale, at, tile), _F32)):
        product = e.ir.sitofp(e.ir.extract_value(sums, token), _V_F32)
        both = e.ir.fmul(scale, e.splat(number))
        vectors.append(e.fma(product, both, e.ir.extract_value(tile, token)))
    return _tile(e, f32x16, vectors)


@operation(_like(f32x16))
def add_mins(e: Emitter, ascale: Any, asum: Any, least: Any, at: Any, tile: Any) -> ir.Value:
    """Tile + the weights' minimums times a token's ascale * asum."""
    arguments = (ascale, asum, least, at, tile)
    scales, sums = _numbers(e, 0, arguments, _F32), _numbers(e, 1, arguments, _I32)
    weights = [e.splat(e.ir.fmul(a, e.ir.sitofp(b, _F32))) for a, b in zip(scales, sums, strict=True)]
    pairs = zip(weights, _vectors(e, tile), strict=True)
    return _tile(e, f32x16, [e.fma(least, weight, value) for weight, value in pairs])


@operation(_like(f32x16))
def fma_tile(e: Emitter, x: Any, w: Any, at: Any, tile: Any) -> ir.Value:
    """Tile + w times a token's number."""
    pairs = zip(_numbers(e, 0, (x, w, at, tile), _F32), _vectors(e, tile), strict=True)
    return _tile(e, f32x16, [e.fma(w, e.splat(number), value) for number, value in pairs])


@operation(_like(f32x16))
def add_tiles(e: Emitter, a: Any, b: Any) -> ir.Value:
    """The sum a + b."""
    pairs = zip(_vectors(e, a), _vectors(e, b), strict=True)
    return _tile(e, f32x16, [e.ir.fadd(left, right) for left, right in pairs])


@operation(types.void)
def store_tile(e: Emitter, y: Any, at: Any, stride: Any, tile: Any) -> ir.Value:
    """16 numbers for each token, `stride` apart."""
    place, step = e.scalar(at, 1, types.intp), e.scalar(stride, 2, types.intp)
    data = e.context.make_array(e.types[0])(e.context, e.ir, y).data
    for vector in _vectors(e, tile):
        e.ir.store(vector, e.ir.bitcast(e.ir.gep(data, [place], inbounds=True), _V_F32.as_pointer())).align = 1
        place = e.ir.add(place, step)
    return e.context.get_dummy_value()


# Kernels


@compiled
def tile_inputs(
    x: Any, tokens: int, n: int, words: Any, ascale: Any, asum: Any, codes: Any, scales: Any, sums: Any
) -> None:
    """The inputs of tokens, as `dot_tiles` reads them for q8, q4 and q4m.

    Args:
        x: float32 [tokens, n or more], zero beyond the inputs.
        tokens: how many.
        n: inputs, padded.
        words: int32 [tiles, padded inputs / 4, width], x rounded by `quantise_input`; written, as the next two.
        ascale: float32 [tiles, blocks, width].
        asum: int32 [tiles, blocks, width].
        codes: int8 [padded inputs], scratch, as the next two.
        scales: float32 [blocks].
        sums: int32 [blocks].
    """
    width, four = words.shape[2], codes.view(np.int32)
    for token in range(tokens):
        quantise_input(x[token], n, codes, scales, sums)
        tile, place = token // width, token % width
        for j in range(n // 4):
            words[tile, j, place] = four[j]
        for g in range(n // BLOCK):
            ascale[tile, g, place] = scales[g]
            asum[tile, g, place] = sums[g]


@compiled
def dot_tiles(
    arena: Any,
    table: Any,
    i: int,
    first: int,
    last: int,
    x: Any,
    words: Any,
    ascale: Any,
    asum: Any,
    scratch: Any,
    y: Any,
    start: int,
    stride: int,
) -> None:
    """y[token, 64 first : 64 last] = W x[token] for the chunks of 64 rows first..last of linear `i`, without its bias.

    Args:
        arena: bytes of all weights.
        table: int64 [linears, FIELDS].
        i: number of the linear.
        first: first chunk.
        last: chunk to stop before.
        x: float32 [tiles, padded inputs, HALF], zero beyond the inputs; read for f32 and bf16.
        words: int32 [tiles, padded inputs / 4, TILE or HALF] (`tile_inputs`); read for q8, q4, q4m, as the next two.
        ascale: float32 [tiles, blocks, width].
        asum: int32 [tiles, blocks, width].
        scratch: uint8, for `bytes_of_chunk`, if the layout is not `panels`; a thread's own. None if it always is.
        y: float32, flat: outputs of the first token at `start`, those of the next ones `stride` apart, all padded to
            64, and as many tokens as the tiles have room for.
        start: in y.
        stride: in y.
    """
    form, blocks = table[i, FORMAT], table[i, PADDED_INPUTS] // BLOCK
    of_codes, of_scales, _ = sizes_of_panel(form, blocks)
    for chunk in range(first, last):
        panels, panel = min(CHUNK, table[i, OUTPUTS] - chunk * CHUNK + PANEL - 1) // PANEL, chunk * (CHUNK // PANEL)
        at = start + panel * PANEL
        if scratch is not None and table[i, LAYOUT] != PANELS:
            regroup(arena, table, i, chunk * CHUNK, scratch)
            for z in range(panels):
                codes, scales, mins = places_in_scratch(form, blocks, z)
                _dot_panel(
                    scratch, form, blocks, codes, scales, mins, x, words, ascale, asum, y, at + z * PANEL, stride
                )
            continue
        for z in range(panels):
            codes, scales = table[i, CODES] + (panel + z) * of_codes, table[i, SCALES] + (panel + z) * of_scales
            mins = table[i, MINS] + (panel + z) * of_scales
            _dot_panel(arena, form, blocks, codes, scales, mins, x, words, ascale, asum, y, at + z * PANEL, stride)


@compiled
def _dot_panel(
    weights: Any,
    form: int,
    blocks: int,
    codes: int,
    scales: int,
    mins: int,
    x: Any,
    words: Any,
    ascale: Any,
    asum: Any,
    y: Any,
    at: int,
    stride: int,
) -> None:
    """y[at : at + 16] of each token = the products of a panel, whose parts are at codes, scales, mins of `weights`."""
    if form in (F32, BF16):
        for tile in range(x.shape[0]):
            value = _dot_floats(weights, form, blocks * BLOCK, codes, x[tile], zero_half())
            store_tile(y, at + tile * HALF * stride, stride, value)
    elif words.shape[2] == TILE:
        for tile in range(words.shape[0]):
            value = _dot_blocks(
                weights, form, blocks, codes, scales, mins, words[tile], ascale[tile], asum[tile], zero_tile()
            )
            store_tile(y, at + tile * TILE * stride, stride, value)
    else:
        for tile in range(words.shape[0]):
            value = _dot_blocks(
                weights, form, blocks, codes, scales, mins, words[tile], ascale[tile], asum[tile], zero_half()
            )
            store_tile(y, at + tile * HALF * stride, stride, value)


@compiled
def _dot_floats(weights: Any, form: int, inputs: int, at: int, x: Any, a: Any) -> Any:
    b = c = d = a
    for j in range(0, inputs, 4):
        if form == F32:
            w = at + j * VECTOR
            w0, w1 = load_f32(weights, w), load_f32(weights, w + VECTOR)
            w2, w3 = load_f32(weights, w + 2 * VECTOR), load_f32(weights, w + 3 * VECTOR)
        else:
            w = at + j * VECTOR // 2
            low, high = load_i32(weights, w), load_i32(weights, w + VECTOR)
            w0, w1, w2, w3 = even_bf16(low), odd_bf16(low), even_bf16(high), odd_bf16(high)
        a = fma_tile(x, w0, j * HALF, a)
        b = fma_tile(x, w1, (j + 1) * HALF, b)
        c = fma_tile(x, w2, (j + 2) * HALF, c)
        d = fma_tile(x, w3, (j + 3) * HALF, d)
    return add_tiles(add_tiles(a, b), add_tiles(c, d))


@compiled
def _dot_blocks(
    weights: Any,
    form: int,
    blocks: int,
    w: int,
    scales: int,
    mins: int,
    words: Any,
    ascale: Any,
    asum: Any,
    value: Any,
) -> Any:
    # Codes are stored with a constant added; what it adds to a sum is taken off at its start.
    bias = -offset_of(form)
    width = words.shape[1]
    for g in range(blocks):
        j, k = g * (BLOCK // 4) * width, g * width
        sums = begin_sums(asum, bias, k, value)
        if form == Q8:
            for v in range(8):
                sums = dot_tile(words, load_bytes(weights, w + v * VECTOR), j + v * width, sums)
            w += 8 * VECTOR
        else:
            for v in range(4):
                four = load_bytes(weights, w + v * VECTOR)
                sums = dot_tile_nibbles(words, low_nibbles(four), j + v * width, sums)
                sums = dot_tile_nibbles(words, high_nibbles(four), j + (4 + v) * width, sums)
            w += 4 * VECTOR
        value = add_sums(ascale, sums, load_f16(weights, scales + g * VECTOR // 2), k, value)
        if form == Q4M:
            value = add_mins(ascale, asum, load_f16(weights, mins + g * VECTOR // 2), k, value)
    return value
