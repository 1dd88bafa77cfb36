"""One linear in compiled code, the part of one thread: by panels, which are read whole, or by columns that are on."""

from typing import Any

import numpy as np

from sparseact.engine.forward.state import (
    ACTIVE,
    MASKED,
    MASKED_SCALES,
    MASKED_SUMS,
    SCORES,
    X_SCALES,
    X_SUMS,
    Buffers,
    Tables,
    X,
)
from sparseact.engine.kernels.axpy_columns import axpy_columns
from sparseact.engine.kernels.axpy_long_columns import axpy_long_columns
from sparseact.engine.kernels.gemv_panels import dot_panels
from sparseact.engine.kernels.select import find_threshold
from sparseact.engine.quant.activations import quantise_input
from sparseact.engine.quant.arena import (
    BIAS,
    GROUP,
    INPUTS,
    KEEP,
    LAYOUT,
    OFFSET,
    PADDED_INPUTS,
    PADDED_OUTPUTS,
    SCALE,
    SELECTOR,
    SHIFT,
)
from sparseact.engine.quant.layouts import CHUNK, COLUMNS, PANEL, PANELS
from sparseact.engine.simd.jit import compiled
from sparseact.models.formats import BLOCK
from sparseact.recipes.selection import EVERYTHING, THRESHOLD


@compiled
def share(n: int, thread: int, threads: int) -> tuple[int, int]:
    """First and last of the n things that are a thread's."""
    return n * thread // threads, n * (thread + 1) // threads


@compiled
def round_input(n: int, thread: int, buffers: Buffers) -> None:
    """Make the first n numbers of the thread's x the input of the next dense linears: padded, and rounded as well."""
    x = buffers.floats[thread, X]
    end = (n + CHUNK - 1) // CHUNK * CHUNK
    for j in range(n, end):
        x[j] = np.float32(0)
    quantise_input(x, end, buffers.codes[thread, 0], buffers.floats[thread, X_SCALES], buffers.integers[thread, X_SUMS])


@compiled
def project(i: int, thread: int, threads: int, dense: int | None, tables: Tables, buffers: Buffers, out: Any) -> None:
    """This thread's part of linear `i` of the input: its rows of out[0], or sums of columns, parts of `out`.

    Bias and offset are added by `gather`, once all threads are done. `dense`: 1 if all inputs are on, None if they
    always are and no linear is in columns.
    """
    own, integers, all_codes = buffers.floats[thread], buffers.integers[thread], buffers.codes[thread]
    x = own[X]
    if dense is not None and tables.linears[i, LAYOUT] == COLUMNS:
        parts = len(out)
        for part in range(thread, parts, threads):
            first, last = input_share(i, part, parts, tables)
            count = choose(i, x, x, first, last, thread, dense, 1, tables, buffers)
            add_columns(i, first, last, count, thread, tables, buffers, out[part])
        return
    first, last = share(tables.linears[i, PADDED_OUTPUTS] // PANEL, thread, threads)
    codes, scales, sums = all_codes[0], own[X_SCALES], integers[X_SUMS]
    if dense is not None and tables.linears[i, SELECTOR] != EVERYTHING:
        _choose_all(i, thread, dense, tables, buffers)
        x, codes, scales, sums = own[MASKED], all_codes[1], own[MASKED_SCALES], integers[MASKED_SUMS]
    dot_panels(tables.arena, tables.linears, i, first, last, x, codes, scales, sums, out[0])


@compiled
def project_long(
    i: int, first: int, last: int, thread: int, dense: int, tables: Tables, buffers: Buffers, y: Any
) -> None:
    """Set y[first:last] to a thread's rows, chunks of 64, of linear `i` of the input: of a head in columns.

    No thread has a sum of all logits then, of which there are hundreds of thousands.
    """
    count = _choose_all(i, thread, dense, tables, buffers)
    for j in range(first, last):
        y[j] = np.float32(0)
    own, active, codes = buffers.floats[thread], buffers.integers[thread, ACTIVE], buffers.codes[thread, 1]
    masked, scales = own[MASKED], own[MASKED_SCALES]
    axpy_long_columns(tables.arena, tables.linears, i, active, count, first, last, masked, codes, scales, y)


@compiled
def _choose_all(i: int, thread: int, dense: int, tables: Tables, buffers: Buffers) -> int:
    """As `choose`, then rounded, for a thread that reads all inputs, in its rows. One of the threads counts."""
    x, inputs = buffers.floats[thread, X], tables.linears[i, INPUTS]
    count = choose(i, x, x, 0, inputs, thread, dense, 1, tables, buffers)
    round_masked(0, inputs, thread, buffers)
    buffers.counts[thread, i] += count if thread == 0 else 0
    return count


@compiled
def input_share(i: int, part: int, parts: int, tables: Tables) -> tuple[int, int]:
    """First and last of the inputs of linear `i` that are a part's: whole blocks."""
    first, last = share(tables.linears[i, PADDED_INPUTS] // BLOCK, part, parts)
    return first * BLOCK, min(last * BLOCK, tables.linears[i, INPUTS])


@compiled
def choose(
    i: int,
    x: Any,
    signal: Any,
    first: int,
    last: int,
    thread: int,
    dense: int,
    shifted: int,
    tables: Tables,
    buffers: Buffers,
) -> int:
    """Which of the inputs first..last of linear `i` are on: their numbers into `ACTIVE`, from place 0 on.

    Into `MASKED`, from first to last, x - shift where on, else 0.

    Args:
        x: the inputs.
        signal: what decides; x itself, or act(gate) or up where x is not computed yet. Of all inputs
            where the linear's rule needs them (`needs_all`).
        shifted: 1 if x are the inputs, of which the shift is one; 0 if the caller makes the inputs of x, and takes the
            shift from those.

    Returns:
        How many are on.
    """
    own = buffers.floats[thread]
    scores, masked, active = own[SCORES], own[MASKED], buffers.integers[thread, ACTIVE]
    row = tables.linears[i]
    everything = dense != 0 or row[SELECTOR] == EVERYTHING
    shift = row[SHIFT] if shifted else -1
    limit = np.float32(0)
    if not everything:
        start, end = (0, row[INPUTS]) if needs_all(i, tables) else (first, last)
        _score(i, signal, start, end, shift, tables, scores)
        limit = find_threshold(row[SELECTOR], tables.thresholds[i], row[GROUP], row[KEEP], scores, end)
    count = 0
    for j in range(first, last):
        on = everything or scores[j] > limit
        masked[j] = x[j] if on else np.float32(0)
        active[count] = j
        count += 1 if on else 0
    if shifted:
        take_shift(i, masked, active, 0, count, tables)
    return count


@compiled
def take_shift(i: int, masked: Any, active: Any, at: int, stop: int, tables: Tables) -> None:
    """From the inputs active[at:stop] of linear `i`, what one that is off counts as: `OFFSET` has it for all inputs."""
    shift = tables.linears[i, SHIFT]
    if shift >= 0:
        for k in range(at, stop):
            masked[active[k]] -= tables.vectors[shift + active[k]]


@compiled
def needs_all(i: int, tables: Tables) -> bool:
    """Whether the scores of all inputs of linear `i` decide which of them are on."""
    return bool(tables.linears[i, SELECTOR] > THRESHOLD)


@compiled
def _score(i: int, signal: Any, start: int, end: int, shift: int, tables: Tables, scores: Any) -> None:
    """scores[start:end] = |signal - shift| * scale of linear `i`; without the shift where that is -1."""
    scale = tables.linears[i, SCALE]
    for j in range(start, end):
        score = abs(signal[j] if shift < 0 else signal[j] - tables.vectors[shift + j])
        scores[j] = score if scale < 0 else score * tables.vectors[scale + j]


@compiled
def round_masked(first: int, last: int, thread: int, buffers: Buffers) -> None:
    """As `round_input`, for the masked inputs first..last; `first` begins a block."""
    masked, codes = buffers.floats[thread, MASKED], buffers.codes[thread, 1]
    scales, sums = buffers.floats[thread, MASKED_SCALES], buffers.integers[thread, MASKED_SUMS]
    for j in range(last, (last + CHUNK - 1) // CHUNK * CHUNK):
        masked[j] = np.float32(0)
    g = first // BLOCK
    quantise_input(masked[first:], max(0, last - first), codes[first:], scales[g:], sums[g:])


@compiled
def add_columns(
    i: int, first: int, last: int, count: int, thread: int, tables: Tables, buffers: Buffers, y: Any
) -> None:
    """Set y to the sum of the columns of linear `i` that `choose` found on, each times its masked input.

    They are `count`, among the inputs first..last.
    """
    for j in range(tables.linears[i, PADDED_OUTPUTS]):
        y[j] = np.float32(0)
    round_masked(first, last, thread, buffers)
    buffers.counts[thread, i] += count
    own, codes = buffers.floats[thread], buffers.codes[thread, 1]
    active, accumulators = buffers.integers[thread, ACTIVE], buffers.accumulators[thread]
    axpy_columns(
        tables.arena, tables.linears, i, active, 0, count, own[MASKED], codes, own[MASKED_SCALES], accumulators, y
    )


@compiled
def gather(i: int, first: int, last: int, tables: Tables, out: Any, y: Any) -> None:
    """y[: last - first] = outputs first..last of linear `i`: the parts in `out`, offset and bias. y may be out[0]."""
    row = tables.linears[i]
    parts = 1 if row[LAYOUT] == PANELS else len(out)
    bias, offset = row[BIAS], row[OFFSET]
    for j in range(first, last):
        y[j - first] = out[0, j]
    for part in range(1, parts):
        for j in range(first, last):
            y[j - first] += out[part, j]
    if bias >= 0:
        for j in range(first, last):
            y[j - first] += tables.vectors[bias + j]
    if offset >= 0:
        for j in range(first, last):
            y[j - first] += tables.vectors[offset + j]
