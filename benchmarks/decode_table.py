"""Tables, bounds and pictures of decode.py's rows.

python benchmarks/decode_table.py runs/decode.jsonl
python benchmarks/decode_table.py docs/results/engine/*.jsonl --page docs/results/engine.md --images docs/images
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from bounds import as_markdown as bounds_as_markdown
from bounds import bounds
from pages import fill, read_rows
from sparseact.bench.rates import Spread, bandwidth_share
from sparseact.bench.summary import Group, Result, summarise

AGAINST = ("llama.cpp:file", "transformers:f32")
PICTURES = {
    "frontier": "Perplexity against tokens per second, every engine, type and recipe",
    "roofline": "Tokens per second against bytes read per token, under the memory's bandwidth",
}


def main() -> None:
    """Print what was measured, or write it into the results page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=Path, default=[Path("runs/decode.jsonl")])
    parser.add_argument("--against", nargs="+", default=AGAINST, help="ratios to these; and the best peer")
    parser.add_argument("--disturbed", action="store_true", help="count samples that shared the cores too")
    parser.add_argument("--page", type=Path, help="fill its places `MODEL THREADS`, `bounds` and `pictures`")
    parser.add_argument("--images", type=Path, help="folder for engine-frontier.png and engine-roofline.png")
    arguments = parser.parse_args()
    groups = read(arguments.rows, disturbed=arguments.disturbed)
    found = _places(groups, arguments.against)
    if arguments.images:
        from decode_plots import write_plots

        write_plots(groups, arguments.images)
    if arguments.page and arguments.images:
        folder = Path(os.path.relpath(arguments.images, arguments.page.parent)).as_posix()
        found["pictures"] = "\n".join(f"![{what}]({folder}/engine-{name}.png)\n" for name, what in PICTURES.items())
    if arguments.page:
        fill(arguments.page, found)
    else:
        print("\n".join(found.values()))


def read(files: Sequence[Path], *, disturbed: bool = False) -> list[Group]:
    """What was measured, by model and number of threads."""
    return summarise(read_rows(files), disturbed=disturbed)


def places(files: Sequence[Path]) -> dict[str, str]:
    """The tables of the page, by the name of their place."""
    return _places(read(files), AGAINST)


def _places(groups: Sequence[Group], against: Sequence[str]) -> dict[str, str]:
    found = {f"{group.settings['model']} {group.threads}": as_markdown(group, against) for group in groups}
    return found | {"bounds": bounds_as_markdown([bound for group in groups for bound in bounds(group)])}


def as_markdown(group: Group, against: Sequence[str]) -> str:
    """A table, what was refused under it, and what it ran on."""
    named = {result.runner: result for result in group.results}
    peer = group.best_peer()
    bases = dict.fromkeys([name for name in against if name in named] + ([peer.runner] if peer else []))
    best = peer.runner if peer else None
    head = [
        "runner",
        "perplexity",
        "to the shipped model",
        "to its reference: decode, prefill",
        "MB / token",
        "decode (tokens/s)",
        "x dense",
        *(f"x {name}" + (" (best peer)" if name == best else "") for name in bases),
        "share of bandwidth",
        "prefill (tokens/s)",
        "first token (ms)",
        "load (s)",
        "first use (s)",
        "peak memory (MB)",
        "samples (dropped)",
    ]
    table = [head, *(cells(group, result, [named[name] for name in bases]) for result in group.results)]
    lines = [f"| {' | '.join(line)} |" for line in table]
    lines = [caption(group), "", lines[0], "|---" * len(head) + "|", *lines[1:]]
    lines += ["", *(f"No row for `{runner}`: {reason}.\n" for runner, reason in sorted(group.refused.items()))]
    if group.compiling:
        first, cached = group.compiling["first"], group.compiling["cached"]
        lines.append(f"engine, from the start of the process to the first token: {first:.1f} s when it is compiled, ")
        lines[-1] += f"{cached:.1f} s later.\n"
    return "\n".join([*lines, machine(group), ""])


def caption(group: Group) -> str:
    """What was done."""
    settings = group.settings
    return (
        f"**{settings['model']}, {group.threads} thread(s)**: {settings['tokens']} tokens after a prompt of "
        f"{settings['prompt']}; perplexity of {settings['context'] - settings['prompt']} tokens; medians "
        "[least, most]; ratios are medians of those of the same round."
    )


def cells(group: Group, result: Result, bases: Sequence[Result]) -> list[str]:
    """A row."""
    check, size = result.check, result.check["bytes_per_token"]
    prefill = Spread.of([*result.prefill.values()])
    return [
        f"`{result.label}`",
        f"{result.perplexity:.2f}",
        f"{result.loss:+.1%}",
        ", ".join(deviation(check[phase]) for phase in ("decode", "prefill")),
        f"{size / 1e6:.0f}",
        shown(Spread.of([*result.decode.values()]), ".1f"),
        *(shown(group.ratio(result, base), ".2f") for base in [group.dense(result), *bases]),
        shown(Spread.of(share), ".0%") if (share := bandwidth_share(result.decode, size, group.bandwidth)) else "–",
        shown(prefill, ".0f"),
        f"{group.settings['prompt'] / prefill.median * 1e3:.0f}",
        f"{check['load_seconds']:.1f}",
        f"{check['first_seconds']:.2f}",
        f"{check['peak_memory_bytes'] / 1e6:.0f}",
        f"{len(result.decode)} ({result.dropped})",
    ]


def deviation(check: dict[str, float]) -> str:
    """From the reference, with twice the standard error where that is seen."""
    apart, error = check["perplexity"] / check["reference"] - 1, 2 * check["error"]
    return f"{apart:+.2%}" + (f" ± {error:.1%}" if error >= 0.0005 else "")


def machine(group: Group) -> str:
    """What it ran on."""
    gigabytes = [value / 1e9 for value in group.bandwidth.values()]
    versions = group.environment["versions"] | {
        name: version for result in group.results for name, version in result.check["versions"].items()
    }
    return (
        f"Memory bandwidth in the same rounds: {shown(Spread.of(gigabytes), '.1f') if gigabytes else '–'} GB/s. "
        f"{group.environment['cpu']}, {group.environment['cores']} cores, {group.threads} thread(s) used, "
        f"{group.environment['platform']}, Python {group.environment['python']}; "
        + ", ".join(f"{name} {text}" for name, text in versions.items())
    )


def shown(spread: Spread | None, form: str) -> str:
    """Median and ends."""
    return f"{spread.median:{form}} [{spread.least:{form}}, {spread.most:{form}}]" if spread else "–"


if __name__ == "__main__":
    main()
