"""64 rows of a linear in another layout than `panels` as four panels, in the cache: for products with many tokens.

Such a linear is stored for one token that reads a part of it. Many tokens read all of it, and what regrouping costs is
little beside their products.
"""

from typing import Any

import numpy as np

from sparseact.engine.quant.arena import (
    CODES,
    FORMAT,
    LAYOUT,
    LOW,
    MINS,
    OUTPUTS,
    PADDED_INPUTS,
    PADDED_OUTPUTS,
    SCALES,
    STRIDE,
)
from sparseact.engine.quant.dequant import place_of_low, width_of_row
from sparseact.engine.quant.layouts import CHUNK, COLUMNS, PANEL, PLANES
from sparseact.engine.simd.bytes import (
    interleave_high_8,
    interleave_high_16,
    interleave_low_8,
    interleave_low_16,
    join_nibbles,
    load_bytes,
    load_nibbles,
    load_pairs,
    store_bytes,
)
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import load_f32, prefetch, store_f32, store_i32
from sparseact.models.formats import BF16, BLOCK, F32, Q4M, Q8

VECTOR = 64
"""Bytes of a load."""
SCALE = 2
"""Bytes of a scale."""
AHEAD = 64
"""Columns between the one that is read and the one that is asked for."""


@compiled
def sizes_of_panel(form: int, blocks: int) -> tuple[int, int, int]:
    """Bytes of the codes, scales and minimums of a panel."""
    scales = 0 if form in (F32, BF16) else blocks * PANEL * SCALE
    return _bytes_of_codes(form, blocks * BLOCK * PANEL), scales, scales if form == Q4M else 0


@compiled
def places_in_scratch(form: int, blocks: int, z: int) -> tuple[int, int, int]:
    """Where the codes, scales and minimums of panel z of a chunk lie: the parts of the four panels together."""
    codes, scales, mins = sizes_of_panel(form, blocks)
    panels = CHUNK // PANEL
    return z * codes, panels * codes + z * scales, panels * (codes + scales) + z * mins


@compiled
def _bytes_of_codes(form: int, n: int) -> int:
    return 4 * n if form == F32 else 2 * n if form == BF16 else n if form == Q8 else n // 2


@compiled
def regroup(arena: Any, table: Any, i: int, row: int, scratch: Any) -> None:
    """The rows from `row`, a multiple of 64, on of linear `i` as panels, at `places_in_scratch`."""
    if table[i, LAYOUT] == COLUMNS:
        _columns(arena, table, i, row, scratch)
    elif table[i, LAYOUT] == PLANES:
        _planes(arena, table, i, row, scratch)
    else:
        _rows(arena, table, i, row, scratch)


@compiled
def _columns(arena: Any, table: Any, i: int, row: int, scratch: Any) -> None:
    form = table[i, FORMAT]
    if form in (F32, BF16):
        _floats_of_columns(arena, table, i, row, scratch)
    else:
        _codes_of_columns(arena, table, i, row, scratch)
        _scales_of_columns(arena, table, i, row, scratch)


@compiled
def _floats_of_columns(arena: Any, table: Any, i: int, row: int, scratch: Any) -> None:
    form, inputs, rows = table[i, FORMAT], table[i, PADDED_INPUTS], table[i, PADDED_OUTPUTS]
    step = _bytes_of_codes(form, inputs * PANEL)
    for j in range(0, inputs, 2):
        for z in range(4):
            place, to = j * rows + row + z * PANEL, z * step
            if form == F32:
                at = table[i, CODES] + 4 * place
                store_f32(scratch, to + j * VECTOR, load_f32(arena, at))
                store_f32(scratch, to + (j + 1) * VECTOR, load_f32(arena, at + 4 * rows))
            else:
                at = table[i, CODES] + 2 * place
                store_i32(scratch, to + j // 2 * VECTOR, load_pairs(arena, at, at + 2 * rows))


@compiled
def _codes_of_columns(arena: Any, table: Any, i: int, row: int, scratch: Any) -> None:
    form, inputs, width, codes = table[i, FORMAT], table[i, PADDED_INPUTS], table[i, STRIDE], table[i, CODES]
    step = _bytes_of_codes(form, inputs * PANEL)
    if form == Q8:
        for v in range(inputs // 4):
            _ask(arena, codes + min(4 * v + AHEAD, inputs - 4) * width + row, width)
            four = _four_bytes(arena, codes + 4 * v * width + row, width)
            _store_four(scratch, v * VECTOR, step, four)
    else:
        for v in range(inputs // 8):
            _ask(arena, codes + min(8 * v + AHEAD, inputs - 8) * width + row // 2, width)
            _ask(arena, codes + min(8 * v + AHEAD + 4, inputs - 4) * width + row // 2, width)
            # In a block, the inputs 4 w .. 4 w + 3 are low nibbles, and 16 more are high ones.
            at = codes + (v // 4 * BLOCK + v % 4 * 4) * width + row // 2
            low, high = _four_nibbles(arena, at, width), _four_nibbles(arena, at + 16 * width, width)
            four = (
                join_nibbles(low[0], high[0]),
                join_nibbles(low[1], high[1]),
                join_nibbles(low[2], high[2]),
                join_nibbles(low[3], high[3]),
            )
            _store_four(scratch, v * VECTOR, step, four)


@compiled
def _store_four(scratch: Any, at: int, step: int, four: Any) -> None:
    """A vector for each panel, by numbers that are constant: a place that is not known would be looked for."""
    store_bytes(scratch, at, four[0])
    store_bytes(scratch, at + step, four[1])
    store_bytes(scratch, at + 2 * step, four[2])
    store_bytes(scratch, at + 3 * step, four[3])


@compiled
def _ask(arena: Any, at: int, step: int) -> None:
    """Ask for four columns. No processor foresees where the next one is."""
    for k in range(4):
        prefetch(arena, at + k * step)


@compiled
def _scales_of_columns(arena: Any, table: Any, i: int, row: int, scratch: Any) -> None:
    form, blocks, rows = table[i, FORMAT], table[i, PADDED_INPUTS] // BLOCK, table[i, PADDED_OUTPUTS]
    source, target = arena.view(np.int64), scratch.view(np.int64)
    width = PANEL * SCALE // 8
    for z in range(4):
        _, scales, mins = places_in_scratch(form, blocks, z)
        for g in range(blocks):
            at = SCALE * (g * rows + row + z * PANEL)
            for k in range(width):
                target[scales // 8 + g * width + k] = source[(table[i, SCALES] + at) // 8 + k]
            if form == Q4M:
                for k in range(width):
                    target[mins // 8 + g * width + k] = source[(table[i, MINS] + at) // 8 + k]


@compiled
def _four_bytes(arena: Any, at: int, step: int) -> Any:
    return by_fours(
        load_bytes(arena, at),
        load_bytes(arena, at + step),
        load_bytes(arena, at + 2 * step),
        load_bytes(arena, at + 3 * step),
    )


@compiled
def _four_nibbles(arena: Any, at: int, half: int) -> Any:
    return by_fours(
        load_nibbles(arena, at),
        load_nibbles(arena, at + half),
        load_nibbles(arena, at + 2 * half),
        load_nibbles(arena, at + 3 * half),
    )


@compiled
def by_fours(w0: Any, w1: Any, w2: Any, w3: Any) -> Any:
    """The codes of four columns, those of a row together: 16 rows in each vector."""
    low01, high01 = interleave_low_8(w0, w1), interleave_high_8(w0, w1)
    low23, high23 = interleave_low_8(w2, w3), interleave_high_8(w2, w3)
    return (
        interleave_low_16(low01, low23),
        interleave_high_16(low01, low23),
        interleave_low_16(high01, high23),
        interleave_high_16(high01, high23),
    )


@compiled
def _rows(arena: Any, table: Any, i: int, row: int, scratch: Any) -> None:
    """By words of 4 bytes, which stay together in all formats, and then by scales."""
    form, inputs = table[i, FORMAT], table[i, PADDED_INPUTS]
    blocks, width = inputs // BLOCK, width_of_row(form, inputs)
    from_words, to_words = arena.view(np.int32), scratch.view(np.int32)
    from_scales, to_scales = arena.view(np.int16), scratch.view(np.int16)
    for k in range(CHUNK):
        # Beyond the last row its copies: what they give is not read.
        start = table[i, CODES] + min(row + k, table[i, OUTPUTS] - 1) * width
        z, lane = k // PANEL, k % PANEL
        codes, scales, mins = places_in_scratch(form, blocks, z)
        source, target = start // 4, codes // 4 + lane
        if form in (F32, BF16, Q8):
            for word in range(_bytes_of_codes(form, inputs) // 4):
                to_words[target + word * PANEL] = from_words[source + word]
        else:
            for word in range(inputs // 8):
                # Of 64 inputs, 0..31 are low nibbles here, and 0..15 and 32..47 there.
                at, high = source + word // 8 * 8 + word % 4, word // 4 % 2
                first, second = np.int64(from_words[at]), np.int64(from_words[at + 4])
                if high:
                    first, second = first >> 4, second >> 4
                to_words[target + word * PANEL] = first & 0x0F0F0F0F | (second & 0x0F0F0F0F) << 4
        if form not in (F32, BF16):
            at = (start + _bytes_of_codes(form, inputs)) // SCALE
            for g in range(blocks):
                to_scales[scales // SCALE + g * PANEL + lane] = from_scales[at + g]
                if form == Q4M:
                    to_scales[mins // SCALE + g * PANEL + lane] = from_scales[at + blocks + g]


@compiled
def _planes(arena: Any, table: Any, i: int, row: int, scratch: Any) -> None:
    """Whole codes from both planes, by words of 4 inputs; the scales lie in panels already."""
    inputs = table[i, PADDED_INPUTS]
    blocks = inputs // BLOCK
    words, to_words = arena.view(np.int32), scratch.view(np.int32)
    from_scales, to_scales = arena.view(np.int16), scratch.view(np.int16)
    for z in range(CHUNK // PANEL):
        # Beyond the last panel its copies: what they give is not read.
        panel = min(row // PANEL + z, table[i, PADDED_OUTPUTS] // PANEL - 1)
        codes, scales, _ = places_in_scratch(Q8, blocks, z)
        for lane in range(PANEL):
            high = (table[i, CODES] + panel * PANEL * inputs // 2) // 4 + lane
            low = (table[i, LOW] + (panel * PANEL + lane) * table[i, STRIDE]) // 4
            for word in range(inputs // 4):
                # Of 32 inputs the first 16 are low nibbles of the high plane.
                upper = np.int64(words[high + (word // 8 * 4 + word % 4) * PANEL]) >> word % 8 // 4 * 4 & 0x0F0F0F0F
                at, shift = place_of_low(4 * word, inputs)
                lower = np.int64(words[low + at // 4]) >> shift & 0x0F0F0F0F
                to_words[codes // 4 + word * PANEL + lane] = upper << 4 | lower
        first = (table[i, SCALES] + panel * blocks * PANEL * SCALE) // SCALE
        for k in range(blocks * PANEL):
            to_scales[scales // SCALE + k] = from_scales[first + k]
