"""Where sparse decoding begins to pay: speed-up against density, for a shape with random weights.

    python benchmarks/break_even.py --shape qwen3-0.6b --densities 0.7,0.5,0.3,0.2,0.1 --out runs/break-even

Writes SHAPE.json (the rows of `sparseact bench --json`, and the rates) and SHAPE.png, and prints a table. The dashed
line is what the kernels' own rates promise where the gate decides: rows of up and columns of down that are on are
gathered, all else is a stream. The dotted line is what the bytes alone would allow. Random weights: speed only.
"""

import argparse
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kernel_bandwidth import timed_calls
from sparseact.bench.by_shape import measure_shape
from sparseact.bench.random_weights import WEIGHT_BYTES
from sparseact.bench.report import as_rows
from sparseact.bench.shapes import shape_of
from sparseact.models.architecture import Architecture
from sparseact.utils.files import write_atomically

LOOKS = {
    "gate": ("#E0670A", "o", "the gate decides"),
    "guess": ("#3A8F3A", "^", "a guess by half the bits"),
    "inputs": ("#0086E3", "s", "inputs of all linears"),
}
KERNELS = {"q8": "q8", "q4": "q4m", "bf16": "bf16", "f32": "f32"}


def main() -> None:
    """Measure, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen3-0.6b")
    parser.add_argument("--dtype", default="q8", choices=KERNELS)
    parser.add_argument("--densities", default="0.7,0.5,0.3,0.2,0.1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("runs/break-even"))
    options = parser.parse_args()
    densities = [float(part) for part in options.densities.split(",")]
    architecture = shape_of(options.shape)
    group = measure_shape(
        options.shape,
        densities=densities,
        dtypes=[options.dtype],
        threads=options.threads,
        rounds=options.rounds,
        tokens=options.tokens,
    )
    rates = kernel_rates(architecture, KERNELS[options.dtype], densities)
    promised = {density: promise(architecture, options.dtype, density, rates) for density in densities}
    rows = as_rows(group)
    record = {"rows": rows, "gigabytes_per_second": rates, "promised": promised, "environment": group.environment}
    with write_atomically(options.out / f"{options.shape}.json") as path:
        path.write_text(json.dumps(record, indent=1) + "\n")
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    ax = figure.subplots()
    draw(ax, rows, promised, {d: promise(architecture, options.dtype, d, None) for d in densities})
    ax.set_title(f"{options.shape} at {options.dtype}, {options.threads} thread(s), random weights", loc="left")
    with write_atomically(options.out / f"{options.shape}.png") as path:
        figure.savefig(path, dpi=110)
    print(table(rows, promised))
    for rule in dict.fromkeys(row["rule"] for row in rows if row["rule"]):
        print(f"{rule}: pays below a density of {pays_below(speed_ups(rows, rule))}")


def kernel_rates(architecture: Architecture, form: str, densities: list[float]) -> dict[str, Any]:
    """GB/s of one thread: a stream, rows of up and columns of down by density."""
    hidden, neurons = architecture.hidden, architecture.neurons
    of_up = argparse.Namespace(rows=neurons, inputs=hidden, megabytes=200, calls=200)
    of_down = argparse.Namespace(rows=hidden, inputs=neurons, megabytes=200, calls=200)

    def rate(layout: str, density: float, options: argparse.Namespace) -> float:
        read, samples = timed_calls(form, layout, density, options)
        return float(read / np.median(samples))

    return {
        "stream": rate("panels", 1.0, of_up),
        "rows": {density: rate("rows", density, of_up) for density in densities},
        "columns": {density: rate("columns", density, of_down) for density in densities},
    }


def promise(architecture: Architecture, dtype: str, density: float, rates: Mapping[str, Any] | None) -> float:
    """Speed-up where the gate decides, by the rates of the kernels; by the bytes alone where there are none."""
    inside = {name: np.prod(shape) for name, shape in architecture.shapes_of_layer().items() if len(shape) == 2}
    layer, head = sum(inside.values()), architecture.vocabulary * architecture.hidden
    weight = WEIGHT_BYTES[dtype]
    whole = weight * (architecture.layers * layer + head)
    gathered = {
        "rows": weight * architecture.layers * inside["up"],
        "columns": weight * architecture.layers * inside["down"],
    }
    slower = {kind: rates["stream"] / rates[kind][density] if rates else 1.0 for kind in gathered}
    sparse = whole - sum(gathered.values()) + sum(density * size * slower[kind] for kind, size in gathered.items())
    return float(whole / sparse)


def speed_ups(rows: list[dict[str, Any]], rule: str) -> dict[float, float]:
    """Median ratio to the dense engine by density."""
    return {row["density"]: row["ratio_to_dense"] for row in rows if row["rule"] == rule}


def pays_below(ratios: Mapping[float, float]) -> float | None:
    """The highest density that is as fast as dense, between measured ones by interpolation; None if there is none."""
    points = sorted(ratios.items(), reverse=True)
    if points[0][1] >= 1:
        return points[0][0]
    for (dense, slow), (sparse, fast) in pairwise(points):
        if slow < 1 <= fast:
            return round(dense + (1 - slow) / (fast - slow) * (sparse - dense), 3)
    return None


def table(rows: list[dict[str, Any]], promised: Mapping[float, float]) -> str:
    """Markdown: a line for each density."""
    rules = [rule for rule in LOOKS if any(row["rule"] == rule for row in rows)]  # not all run at every type
    heads = ["density", *(LOOKS[rule][2] for rule in rules), "promised by the kernels"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for density in sorted(promised, reverse=True):
        found = [row for rule in rules for row in rows if (row["rule"], row["density"]) == (rule, density)]
        cells = [f"{row['ratio_to_dense']:.2f} [{low:.2f}, {high:.2f}], {row['bytes_per_token'] / 1e6:.0f} MB"
                 for row in found for low, high in [row["spread"]["ratio_to_dense"]]]  # fmt: skip
        lines.append(f"| {density:g} | {' | '.join(cells)} | {promised[density]:.2f} |")
    return "\n".join(lines)


def draw(
    ax: Axes, rows: list[dict[str, Any]], promised: Mapping[float, float], by_bytes: Mapping[float, float]
) -> None:
    """Speed-up against density; bars are the least and the most of the rounds."""
    for rule, (colour, marker, label) in LOOKS.items():
        points = sorted((row for row in rows if row["rule"] == rule), key=lambda row: row["density"])
        if not points:
            continue
        middle = [row["ratio_to_dense"] for row in points]
        ends = np.array([row["spread"]["ratio_to_dense"] for row in points]).T
        bars = np.abs(ends - middle)
        ax.errorbar(
            [row["density"] for row in points], middle, bars, color=colour, marker=marker, label=label, capsize=3
        )
    for line, label, style in (
        (promised, "gate: by the kernels' rates", "--"),
        (by_bytes, "gate: by the bytes alone", ":"),
    ):
        ax.plot(*zip(*sorted(line.items()), strict=True), style, color=LOOKS["gate"][0], alpha=0.7, label=label)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_xlabel("density: share of neurons, or of inputs, that are on")
    ax.set_ylabel("tokens per second over the dense engine's")
    ax.grid(alpha=0.3)
    ax.legend()


if __name__ == "__main__":
    main()
