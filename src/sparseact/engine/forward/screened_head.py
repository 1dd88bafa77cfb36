"""The highest logit without reading all of the head: what `screening` made is read first, in compiled code."""

from typing import Any

import numpy as np

from sparseact.engine.forward.meeting import meet
from sparseact.engine.forward.projections import gather, project, share
from sparseact.engine.forward.state import (
    HIGHEST,
    MASKED,
    MASKED_SCALES,
    MASKED_SUMS,
    NEURONS,
    TOKEN,
    X_SCALES,
    X_SUMS,
    Buffers,
    Q,
    Sizes,
    Tables,
    X,
)
from sparseact.engine.kernels.activations import cap, rescale
from sparseact.engine.kernels.gemv_panels import dot_panels
from sparseact.engine.quant.activations import quantise_input
from sparseact.engine.quant.arena import OUTPUTS, PADDED_INPUTS, PADDED_OUTPUTS
from sparseact.engine.quant.layouts import PANEL
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.reduce import find_highest, total_of_squares
from sparseact.engine.simd.vectors import largest, load_f32
from sparseact.engine.threads import MEMBERS


@compiled
def screened_head(thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """The highest logit among the thread's panels of 16 tokens, of which only the promising ones are computed.

    Those are computed as the whole head is, so that the highest logit is the same to the bit wherever its
    panel is promising: its approximate logit is less than a margin below the highest approximate one.
    """
    control, threads = buffers.control, buffers.control[MEMBERS]
    own, logits = buffers.floats[thread], buffers.logits[0]
    margin = _input_of_screen(thread, sizes, tables, buffers)
    panels = tables.linears[sizes.head, PADDED_OUTPUTS] // PANEL
    _approximate(panels, thread, sizes, tables, buffers)
    meet(control, thread, threads)
    least = own[HIGHEST, 1]
    for other in range(threads):
        least = max(least, buffers.floats[other, HIGHEST, 1])
    least -= margin

    codes, scales, sums = buffers.codes[thread, 0], own[X_SCALES], buffers.integers[thread, X_SUMS]
    highest, token, computed = -np.float32(np.inf), 0, 0
    # In turn, for tokens with low numbers are frequent ones in most vocabularies: they would all be one thread's.
    for panel in range(thread, panels, threads):
        first, last = panel * PANEL, min(panel * PANEL + PANEL, sizes.vocabulary)
        if largest(load_f32(logits, first)) < least:
            continue
        computed += 1
        dot_panels(tables.arena, tables.linears, sizes.head, panel, panel + 1, own[X], codes, scales, sums, logits)
        gather(sizes.head, first, last, tables, buffers.logits, logits[first:])
        if sizes.logit_scale != 1:
            rescale(sizes.logit_scale, logits, first, last)
        if sizes.final_softcap > 0:
            cap(sizes.final_softcap, logits, first, last)
        best = find_highest(logits, first, last)
        if logits[best] > highest:
            highest, token = logits[best], best
    buffers.counts[thread, sizes.head] += computed
    own[HIGHEST, 0] = highest
    buffers.integers[thread, TOKEN, 0] = token


@compiled
def _input_of_screen(thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> Any:
    """Set the thread's masked input to the screen's coordinates of x, rounded; returns the margin."""
    own = buffers.floats[thread]
    x, y, basis = own[X], own[MASKED], sizes.screen_basis
    threads = buffers.control[MEMBERS]
    project(basis, thread, threads, 1, tables, buffers, buffers.outputs[Q])
    meet(buffers.control, thread, threads)
    n, padded = tables.linears[basis, OUTPUTS], tables.linears[sizes.screen, PADDED_INPUTS]
    gather(basis, 0, n, tables, buffers.outputs[Q], y)
    kept = total_of_squares(y, n, np.float32(0))
    for j in range(n, padded):
        y[j] = np.float32(0)
    centred = own[NEURONS]
    for j in range(sizes.hidden):
        centred[j] = x[j] - tables.vectors[sizes.screen_mean + j]
    everything = total_of_squares(centred, sizes.hidden, np.float32(0))
    quantise_input(y, padded, buffers.codes[thread, 1], own[MASKED_SCALES], buffers.integers[thread, MASKED_SUMS])
    left_out, rounding = tables.thresholds[sizes.screen], tables.thresholds[basis]
    rest = max(everything - kept, np.float32(0))
    return np.sqrt(left_out * left_out * rest + rounding * rounding * kept)


@compiled
def _approximate(panels: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """The thread's approximate logits, and the highest of them."""
    own, logits = buffers.floats[thread], buffers.logits[0]
    first, last = share(panels, thread, buffers.control[MEMBERS])
    codes, sums = buffers.codes[thread, 1], buffers.integers[thread, MASKED_SUMS]
    dot_panels(
        tables.arena,
        tables.linears,
        sizes.screen,
        first,
        last,
        own[MASKED],
        codes,
        own[MASKED_SCALES],
        sums,
        logits,
    )
    first, last = first * PANEL, min(last * PANEL, sizes.vocabulary)
    gather(sizes.screen, first, last, tables, buffers.logits, logits[first:])
    best = find_highest(logits, first, last)
    own[HIGHEST, 1] = logits[best] if last > first else -np.float32(np.inf)
