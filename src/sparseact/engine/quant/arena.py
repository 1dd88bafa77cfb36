"""All weights of a model in one block of memory, and the table that says what lies where.

The compiled kernels get the arena (bytes), the table and the number of a linear; there are no objects
in compiled code. Both are made here, and every size is checked here: compiled code checks none.
"""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from sparseact.engine.quant.layouts import CACHE_LINE, CHUNK, LAYOUTS, Shape, bytes_of_low_row, shape_of
from sparseact.engine.quant.pack import pack
from sparseact.models.formats import FORMATS, Quantised

FIELDS = 18
"""Columns of the table of linears, int64 [linears, FIELDS]. Offsets of what is not there are -1."""
(
    FORMAT,  # place in formats.FORMATS
    LAYOUT,  # place in formats.LAYOUTS
    OUTPUTS,
    INPUTS,
    PADDED_OUTPUTS,
    PADDED_INPUTS,
    CODES,  # byte offset in the arena
    SCALES,  # byte offset in the arena
    MINS,  # byte offset in the arena
    BIAS,  # element offset in the model's float32 vectors
    SELECTOR,  # how inputs are switched off: a rule of selectors.py
    SCALE,  # element offset: |x - shift| * scale is an input's score
    SHIFT,  # element offset: what an input that is off counts as
    OFFSET,  # element offset: W @ shift, added to the output
    GROUP,  # inputs of which `KEEP` are on, for the rule that takes the highest of each group
    KEEP,
    STRIDE,  # bytes from one column's codes to the next in `columns`, from one row of the low plane in `planes`
    LOW,  # byte offset in the arena of the low plane, in `planes`
) = range(FIELDS)

PAGE = 2 << 20
"""Bytes of a huge page; the arena is aligned to it."""


@dataclass(frozen=True)
class Linear:
    """What has to be known of a linear to give it a place: no weights.

    Attributes:
        beside: of the layout `planes`, the linear in whose columns the rows of the low plane lie, one in each.
        lead: of the layout `columns`, bytes before each column for those rows.
        part_of: the linear in `planes` whose high plane this is, in 4 bits, in panels: it has no bytes of its own.
    """

    name: str
    format: str
    layout: str
    outputs: int
    inputs: int
    beside: str = ""
    lead: int = 0
    part_of: str = ""

    @property
    def shape(self) -> Shape:
        """Padded sizes and bytes of its own."""
        shape = shape_of(self.format, self.layout, self.outputs, self.inputs)
        if self.part_of:
            # The planes are padded to whole loads of a row.
            return replace(shape, padded_inputs=-(-self.inputs // CHUNK) * CHUNK, codes=0, scales=0)
        if self.beside:
            return replace(shape, low=0)
        return replace(shape, codes=shape.codes + shape.padded_inputs * self.lead)


@dataclass(frozen=True)
class Arena:
    """The weights of a model.

    Attributes:
        linears: in the order of the table.
        data: uint8, one page-aligned allocation.
        table: int64 [linears, FIELDS].
    """

    linears: tuple[Linear, ...]
    data: npt.NDArray[np.uint8]
    table: npt.NDArray[np.int64]

    @classmethod
    def allocate(cls, linears: Sequence[Linear]) -> "Arena":
        """An arena with a place for each linear, still all zeros: fill it with `store`."""
        table = np.full((len(linears), FIELDS), -1, np.int64)
        numbers = {linear.name: i for i, linear in enumerate(linears)}
        size = 0
        for row, linear in zip(table, linears, strict=True):
            shape = linear.shape
            row[: PADDED_INPUTS + 1] = (
                FORMATS.index(linear.format),
                LAYOUTS.index(linear.layout),
                linear.outputs,
                linear.inputs,
                shape.padded_outputs,
                shape.padded_inputs,
            )
            row[SELECTOR] = 0
            for field, wanted in ((CODES, shape.codes), (SCALES, shape.scales), (MINS, shape.mins), (LOW, shape.low)):
                if wanted:
                    row[field] = size
                    size += -(-wanted // CACHE_LINE) * CACHE_LINE
            if linear.layout == "columns":
                row[STRIDE] = shape.codes // shape.padded_inputs
                row[CODES] += linear.lead
            elif linear.layout == "planes":
                row[STRIDE] = bytes_of_low_row(shape.padded_inputs)
        _place_shared(linears, numbers, table)
        return cls(tuple(linears), _pages(size), table)

    def store(self, i: int, weights: Quantised) -> None:
        """Write the weights of linear `i` to their place.

        Raises:
            ValueError: format or sizes are not those that the place was made for.
        """
        linear = self.linears[i]
        found = (weights.format, weights.outputs, weights.inputs)
        if found != (linear.format, linear.outputs, linear.inputs):
            raise ValueError(f"{linear.name}: the arena has a place for {linear}, not for {found}")
        packed, shape = pack(weights, linear.layout), linear.shape
        columns = shape.padded_inputs if linear.layout == "columns" else 1
        parts = (
            (CODES, packed.codes, columns),
            (SCALES, packed.scales, 1),
            (MINS, packed.mins, 1),
            (LOW, packed.low, shape.padded_outputs),
        )
        for field, part, pieces in parts:
            if part is not None:
                start, each = int(self.table[i, field]), part.reshape(pieces, -1)
                step = int(self.table[i, STRIDE]) if pieces > 1 else each.shape[1]
                as_strided(self.data[start:], each.shape, (step, 1))[...] = each

    def parts(self, i: int) -> list[npt.NDArray[np.uint8]]:
        """The bytes of linear `i`, where they lie: its codes, scales and minimums, as far as its format has them."""
        shape, row = self.linears[i].shape, self.table[i]
        sizes = ((CODES, shape.codes), (SCALES, shape.scales), (MINS, shape.mins))
        return [self.data[row[field] : row[field] + size] for field, size in sizes if size]

    def bytes_of(self, i: int) -> int:
        """Bytes that linear `i` takes: codes, scales and minimums."""
        shape = self.linears[i].shape
        return shape.codes + shape.scales + shape.mins + shape.low


def _place_shared(linears: Sequence[Linear], numbers: Mapping[str, int], table: npt.NDArray[np.int64]) -> None:
    """Places in other linears: of low planes in columns, of high planes in whole linears."""
    taken: dict[str, int] = {}
    for row, linear in zip(table, linears, strict=True):
        if linear.beside:
            columns = table[numbers[linear.beside]]
            before = linears[numbers[linear.beside]].lead - taken.get(linear.beside, 0)
            row[LOW], row[STRIDE] = columns[CODES] - before, columns[STRIDE]
            taken[linear.beside] = taken.get(linear.beside, 0) + bytes_of_low_row(linear.shape.padded_inputs)
        elif linear.part_of:
            row[CODES], row[SCALES] = table[numbers[linear.part_of], [CODES, SCALES]]


def _pages(size: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes aligned to a huge page, and in huge pages where the system has them: a quarter faster to stream."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Private: Linux gives no huge pages to shared memory, which is Python's default.
        memory = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(memory, np.uint8)
    else:
        whole = np.zeros(size + PAGE, np.uint8)
    start = -whole.ctypes.data % PAGE
    return whole[start : start + size]
