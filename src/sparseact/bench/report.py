"""What `sparseact bench` says: a row for each runner, as JSON and for a reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from sparseact.bench.rates import Spread, bandwidth_share
from sparseact.bench.summary import Group, Result


def as_rows(group: Group) -> list[dict[str, Any]]:
    """A dict for each runner that passed, the fastest first.

    Rates and ratios are medians over the rounds; `spread` has [least, most] of each. ratio_to_dense is that to the
    engine's own dense run at the same type, None of other engines; ratio_to has every other engine's runners.
    """
    return [_row(group, result) for result in group.results]


def _row(group: Group, result: Result) -> dict[str, Any]:
    check, others = result.check, [other for other in group.results if other.engine != "engine"]
    spreads = {
        "decode_tokens_per_second": Spread.of([*result.decode.values()]),
        "prefill_tokens_per_second": Spread.of([*result.prefill.values()]),
        "ratio_to_dense": group.ratio(result, group.dense(result)),
    }
    ratio_to = {other.runner: ratio for other in others if (ratio := group.ratio(result, other))}
    share = bandwidth_share(result.decode, check["bytes_per_token"], group.bandwidth)
    return {
        "runner": result.engine,
        "name": result.runner,
        "dtype": check["dtype"],
        "threads": group.threads,
        "recipe": check["recipe"],
        **{name: spread and spread.median for name, spread in spreads.items()},
        "bytes_per_token": check["bytes_per_token"],
        "peak_memory_bytes": check["peak_memory_bytes"],
        "ratio_to": {name: ratio.median for name, ratio in ratio_to.items()},
        "spread": {
            **{name: spread and _ends(spread) for name, spread in spreads.items()},
            "ratio_to": {name: _ends(ratio) for name, ratio in ratio_to.items()},
        },
        "perplexity": result.perplexity,
        "perplexity_reference": check["decode"]["reference"],
        "perplexity_dense": check["dense_perplexity"],
        "share_of_bandwidth": Spread.of(share).median if share else None,
        "load_seconds": check["load_seconds"],
        "first_seconds": check["first_seconds"],
        "rounds": len(result.decode),
        "model": group.settings["model"],
        "device": "cpu",
    }


def _ends(spread: Spread) -> list[float]:
    return [spread.least, spread.most]


def as_text(group: Group) -> str:
    """Two tables, and what it ran on."""
    others = [result for result in group.results if result.engine != "engine"]
    rates = [["", "perplexity", "tokens/s", "bandwidth", "prompt tokens/s", "MB/token", "memory, MB"]]
    ratios = [["tokens/s over those of", "the engine, dense", *(other.label for other in others)]]
    for result in group.results:
        check = result.check
        share = bandwidth_share(result.decode, check["bytes_per_token"], group.bandwidth)
        rates.append([
            result.label,
            f"{result.perplexity:.2f} ({result.loss:+.1%})",
            _shown(Spread.of([*result.decode.values()]), ".1f"),
            f"{Spread.of(share).median:.0%}" if share else "",
            f"{Spread.of([*result.prefill.values()]).median:.0f}",
            f"{check['bytes_per_token'] / 1e6:.0f}",
            f"{check['peak_memory_bytes'] / 1e6:.0f}",
        ])  # fmt: skip
        bases = [group.dense(result), *others]
        ratios.append([result.label, *(_shown(group.ratio(result, base), ".2f") for base in bases)])
    settings, environment = group.settings, group.environment
    note = (
        f"{settings['model']}, {group.threads} thread(s) of {environment['cpu']}: {settings['tokens']} tokens after a "
        f"prompt of {settings['prompt']}; medians [least, most], ratios of the same round. Perplexity of "
        f"{settings['context'] - settings['prompt']} tokens read one by one, and how far it is from the dense model "
        "as it is shipped."
    )
    return "\n".join([*_aligned(rates), "", *_aligned(ratios), "", note])


def _shown(spread: Spread | None, form: str) -> str:
    if spread is None:
        return ""
    median, least, most, _ = astuple(spread)
    return f"{median:{form}} [{least:{form}}, {most:{form}}]"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return ["  ".join([line[0].ljust(widths[0]), *cells[1:]]) for line, cells in zip(lines, aligned, strict=True)]
