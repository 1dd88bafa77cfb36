"""How fast the compiled kernels read weights from memory: GB/s on one thread, by format, layout and density.

    python benchmarks/kernel_bandwidth.py [--megabytes 400] [--inputs 576] [--rows 3072]
    python benchmarks/kernel_bandwidth.py --inputs 640 --rows 262144 --layouts panels,columns,long   # a head

Each call reads other weights than the calls before it, out of more than the caches hold. A call is
counted if its thread had the processor all the time (CPU time against wall time); of those, the table
gives the best and the median. GB/s counts the bytes of the weights that the call needs. "long" is the
layout columns, read as that of a head is.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite
import numba
import numpy as np

from sparseact.engine.quant.arena import CODES, MINS, SCALES, Arena, Linear
from sparseact.engine.quant.layouts import PANEL, shape_of
from sparseact.engine.simd.entry import Call, Entry
from sparseact.models.formats import FORMATS

DENSITIES = (1.0, 0.75, 0.5, 0.25)
UNDISTURBED = 0.97


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400, help="weights to cycle through")
    parser.add_argument("--inputs", type=int, default=576)
    parser.add_argument("--rows", type=int, default=3072, help="outputs of one linear")
    parser.add_argument("--calls", type=int, default=300, help="calls of each kind")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--layouts", default="panels,columns,rows")
    options = parser.parse_args()
    print(f"{_processor()}, {os.cpu_count()} cores, 1 thread used, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, ", end="")
    print(f"Numba {numba.__version__}, llvmlite {llvmlite.__version__}")
    print(f"linears of {options.rows} x {options.inputs}, {options.megabytes} MB of weights\n")
    print("format  layout    density  GB/s best  median   us/call  calls counted")
    for layout in options.layouts.split(","):
        for form in options.formats.split(","):
            for density in (1.0,) if layout == "panels" else DENSITIES:
                _measure(form, layout, density, options)


def _measure(form: str, layout: str, density: float, options: argparse.Namespace) -> None:
    read, samples = timed_calls(form, layout, density, options)
    best, median = np.min(samples), np.median(samples)
    print(
        f"{form:7} {layout:9} {density:7.2f} {read / best:9.1f} {read / median:8.1f} {best / 1e3:9.1f} "
        f"{len(samples):6d} of {options.calls}",
        flush=True,
    )


def timed_calls(form: str, layout: str, density: float, options: argparse.Namespace) -> tuple[float, list[int]]:
    """Bytes that a call reads, and the nanoseconds of the calls that had the processor.

    Args:
        form, layout: of the weights.
        density: share of the rows or columns that are on.
        options: rows, inputs, megabytes and calls.
    """
    linear = Linear("", form, "columns" if layout == "long" else layout, options.rows, options.inputs)
    size = sum((linear.shape.codes, linear.shape.scales, linear.shape.mins))
    arena = _random_arena([linear] * max(2, options.megabytes * 1_000_000 // size))
    call = _call(arena, layout, density, options)
    samples = []
    for n in range(options.calls + 2):
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        call(n % len(arena.linears))
        cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
        if n >= 2 and cpu / wall > UNDISTURBED:
            samples.append(wall)
    # The scales of a block along the inputs serve all its columns: those of the layout columns are read whole.
    return linear.shape.codes * density + (size - linear.shape.codes) * (
        1 if linear.layout == "columns" else density
    ), samples


def _random_arena(linears: list[Linear]) -> Arena:
    """An arena of codes without meaning. Floats are all 1: others could be slow subnormal numbers."""
    arena = Arena.allocate(linears)
    rng = np.random.default_rng(0)
    for i, linear in enumerate(linears):
        shape, row = linear.shape, arena.table[i]
        codes = arena.data[row[CODES] : row[CODES] + shape.codes]
        if linear.format == "f32":
            codes.view(np.float32)[:] = 1
        elif linear.format == "bf16":
            codes.view(np.uint16)[:] = 0x3F80
        else:
            codes[:] = rng.integers(0, 256, shape.codes, np.uint8)
        if linear.layout == "rows" and linear.format[0] == "q":
            # A row's scales follow its codes.
            whole = shape_of(linear.format, "panels", linear.outputs, shape.padded_inputs)
            width = whole.codes // whole.padded_outputs
            codes.reshape(linear.outputs, -1)[:, width:].view(np.float16)[:] = 1
        for field, part in ((SCALES, shape.scales), (MINS, shape.mins)):
            arena.data[row[field] : row[field] + part].view(np.float16)[:] = 1
    return arena


def _call(arena: Arena, layout: str, density: float, options: argparse.Namespace) -> Callable[[int], None]:
    """What is measured: the kernel of a layout on linear i, with another set of active inputs or rows each time."""
    rng = np.random.default_rng(1)
    rows, inputs = options.rows, options.inputs
    x = np.zeros(inputs + 64, np.float32)
    x[:inputs] = rng.standard_normal(inputs)
    aq, ascale, asum = np.zeros(len(x), np.int8), np.zeros(len(x) // 32, np.float32), np.zeros(len(x) // 32, np.int32)
    y, acc = np.zeros(rows + 64, np.float32), np.zeros(rows + 64, np.int32)
    Entry("quant.activations.quantise_input")(x, inputs, aq, ascale, asum)
    many = rows if layout == "rows" else inputs
    sets = [np.sort(rng.permutation(many)[: round(many * density)]).astype(np.int32) for _ in range(64)]
    active, count, end = sets[0], len(sets[0]), arena.linears[0].shape.padded_outputs
    path, arguments = {
        "panels": ("kernels.gemv_panels.dot_panels", (0, rows // PANEL, x, aq, ascale, asum, y)),
        "columns": ("kernels.axpy_columns.axpy_columns", (active, 0, count, x, aq, ascale, acc, y)),
        "long": ("kernels.axpy_long_columns.axpy_long_columns", (active, count, 0, end, x, aq, ascale, y)),
        "rows": ("kernels.gemv_rows.dot_rows", (active, 0, count, x, aq, ascale, asum, y)),
    }[layout]
    call = Call(Entry(path), (arena.data, arena.table, 0, *arguments))

    def run(i: int) -> None:
        call.set(2, i)
        if layout != "panels":
            call.set(3, sets[i % 64])
        call()

    return run


def _processor() -> str:
    """Its name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
