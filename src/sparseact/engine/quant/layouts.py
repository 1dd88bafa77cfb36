"""The layouts of weights in memory, and what a linear takes in each. Written by `pack`, read by the kernels.

panels   16 rows interleaved, so that the lanes of a vector are rows and no sum runs across lanes: for
         linears of which every row is wanted.
columns  the transpose: the weights of one input lie together, so that an input that is off costs
         nothing. Blocks stay those along the inputs; nothing is quantised anew.
rows     one row after another, its codes, then its scales and minimums: for linears of which some rows
         are wanted.
planes   q8 alone: the high 4 bits of all codes as panels of 4 bits; the low 4 bits by rows, with the scales once
         more: for linears of which the first half of all bits is wanted, and the second of some rows. The low
         plane may lie in the columns of another linear: what is read together lies together.
"""

from dataclasses import dataclass

from sparseact.models.formats import BLOCK

LAYOUTS = ("panels", "columns", "rows", "planes")
"""Names of the layouts; the number of a layout in the table of linears is its place here."""
PANELS, COLUMNS, ROWS, PLANES = range(4)

PANEL = 16
"""Rows that are interleaved in the layout `panels`: the lanes of a 512-bit vector."""
CHUNK = 64
"""Rows of a column that one load takes in the layout `columns`; the inputs that one load takes in `rows`."""
SPREAD = 16 * BLOCK
"""Inputs of 16 blocks, a lane for each, in the low plane: their sums need no scales until they are whole."""
MIDDLE = 7.5
"""What a code of the low plane, 0..15, counts as where it is not read."""

CACHE_LINE = 64
"""Bytes; every part of the arena is aligned to it."""

TILE = 8
"""Tokens of a tile."""
HALF = TILE // 2
"""Tokens of a tile of floats, which have four sums each, and of a few integers."""

_BITS = {"f32": 32, "bf16": 16, "q8": 8, "q4": 4, "q4m": 4}


@dataclass(frozen=True)
class Shape:
    """What a linear takes in the arena: padded sizes, and bytes of its codes, scales and minimums.

    `scales` and `mins` are 0 for formats without them, and in the layout `rows`, where each row's
    scales and minimums follow its codes. `low` is the low plane of the layout `planes`, whose `codes` are the high one.
    """

    padded_outputs: int
    padded_inputs: int
    codes: int
    scales: int
    mins: int
    low: int = 0


def shape_of(format: str, layout: str, outputs: int, inputs: int) -> Shape:  # noqa: A002
    """Sizes of a linear [outputs, inputs] in a format and a layout."""
    rows = _up(outputs, {"panels": PANEL, "columns": CHUNK, "rows": 1, "planes": PANEL}[layout])
    columns = _up(inputs, CHUNK if layout in {"rows", "planes"} else BLOCK)
    codes = rows * columns * _BITS[format] // 8
    low = 0
    if layout == "planes":
        codes, low = codes // 2, rows * bytes_of_low_row(columns)
    scales = 2 * rows * columns // BLOCK if format[0] == "q" else 0
    mins = scales if format == "q4m" else 0
    if layout == "rows":
        codes, scales, mins = codes + scales + mins, 0, 0
    return Shape(rows, columns, codes, scales, mins, low)


def bytes_of_low_row(inputs: int) -> int:
    """Bytes of a row of the low plane: codes and scales, padded such that two rows are whole cache lines."""
    return _up(inputs // 2 + 2 * inputs // BLOCK, BLOCK)


def bytes_of_chunk(format: str, inputs: int) -> int:  # noqa: A002
    """Room for 64 rows of a linear as panels."""
    shape = shape_of(format, "panels", CHUNK, inputs)
    return shape.codes + shape.scales + shape.mins


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
