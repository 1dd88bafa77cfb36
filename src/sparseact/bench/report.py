"""What `sparseact bench` says: a row for each runner, as JSON and for a reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from sparseact.bench.rates import Round, Spread, bandwidth_share
from sparseact.bench.summary import Group, Result


def as_rows(group: Group) -> list[dict[str, Any]]:
    """A dict for each runner that passed, the fastest first.

    Rates and ratios are medians over the rounds; `spread` has [least, most] of each. ratio_to_dense is that to the
    engine's own dense run at the same type, None of other engines; ratio_to has every other engine's runners.
    joules_per_token is None where the machine does not tell, the perplexities where the weights are random.
    """
    return [_row(group, result) for result in group.results]


def _row(group: Group, result: Result) -> dict[str, Any]:
    check, others = result.check, [other for other in group.results if other.engine != "engine"]
    spreads = {
        "decode_tokens_per_second": _spread(result.decode),
        "prefill_tokens_per_second": _spread(result.prefill),
        "ratio_to_dense": group.ratio(result, group.dense(result)),
        "processor_seconds_per_token": _spread(result.processor_seconds),
        "joules_per_token": _spread(result.joules),
    }
    ratio_to = {other.runner: ratio for other in others if (ratio := group.ratio(result, other))}
    perplexities = {
        "perplexity": result.perplexity,
        "perplexity_reference": check["decode"]["reference"],
        "perplexity_dense": check["dense_perplexity"],
    }
    return {
        "runner": result.engine,
        "name": result.runner,
        "dtype": check["dtype"],
        "threads": group.threads,
        "recipe": check["recipe"],
        **{name: check[name] for name in ("rule", "density") if name in check},
        **{name: spread and spread.median for name, spread in spreads.items()},
        "bytes_per_token": check["bytes_per_token"],
        "peak_memory_bytes": check["peak_memory_bytes"],
        "ratio_to": {name: ratio.median for name, ratio in ratio_to.items()},
        "spread": {
            **{name: spread and _ends(spread) for name, spread in spreads.items()},
            "ratio_to": {name: _ends(ratio) for name, ratio in ratio_to.items()},
        },
        **{name: None if math.isnan(value) else value for name, value in perplexities.items()},
        "share_of_bandwidth": _share(group, result),
        "load_seconds": check["load_seconds"],
        "first_seconds": check["first_seconds"],
        "rounds": len(result.decode),
        "model": group.settings["model"],
        "device": "cpu",
        "energy": group.environment.get("energy"),
    }


def _spread(values: Mapping[Round, float]) -> Spread | None:
    return Spread.of([*values.values()]) if values else None


def _share(group: Group, result: Result) -> float | None:
    """Of the bandwidth that was measured in the same rounds."""
    found = bandwidth_share(result.decode, result.check["bytes_per_token"], group.bandwidth)
    return Spread.of(found).median if found else None


def _ends(spread: Spread) -> list[float]:
    return [spread.least, spread.most]


def as_text(group: Group) -> str:
    """Two tables, and what it ran on."""
    others = [result for result in group.results if result.engine != "engine"]
    costs = ["tokens/s", "bandwidth", "prompt tokens/s", "MB/token", "CPU ms/token", "J/token", "memory, MB"]
    rates = [["", "perplexity", *costs]]
    ratios = [["tokens/s over those of", "the engine, dense", *(other.label for other in others)]]
    for result in group.results:
        check, share = result.check, _share(group, result)
        quality = f"{result.perplexity:.2f} ({result.loss:+.1%})"
        milliseconds = {round_: 1000 * seconds for round_, seconds in result.processor_seconds.items()}
        rates.append([
            result.label,
            "random weights" if math.isnan(result.perplexity) else quality,
            _shown(_spread(result.decode), ".1f"),
            "" if share is None else f"{share:.0%}",
            f"{Spread.of([*result.prefill.values()]).median:.0f}",
            f"{check['bytes_per_token'] / 1e6:.0f}",
            _shown(_spread(milliseconds), ".1f"),
            _shown(_spread(result.joules), ".3f"),
            f"{check['peak_memory_bytes'] / 1e6:.0f}",
        ])  # fmt: skip
        bases = [group.dense(result), *others]
        ratios.append([result.label, *(_shown(group.ratio(result, base), ".2f") for base in bases)])
    return "\n".join([*aligned(_filled(rates)), "", *aligned(ratios), "", _note(group)])


def _filled(lines: list[list[str]]) -> list[list[str]]:
    """Without the columns that hold nothing but their name."""
    kept = [place for place, column in enumerate(zip(*lines, strict=True)) if any(column[1:])]
    return [[line[place] for place in kept] for line in lines]


def _note(group: Group) -> str:
    settings, environment = group.settings, group.environment
    if any(math.isnan(result.perplexity) for result in group.results):
        quality = "Random weights: speed only, and nothing about quality."
    else:
        quality = (
            f"Perplexity of {settings['context'] - settings['prompt']} tokens read one by one, and how far it is from "
            "the dense model as it is shipped."
        )
    return (
        f"{settings['model']}, {group.threads} thread(s) of {environment['cpu']}: {settings['tokens']} tokens after a "
        f"prompt of {settings['prompt']}; medians [least, most], ratios of the same round. {quality} "
        f"CPU is the time of all threads, waiting in loops included; {environment.get('energy', 'no energy')}."
    )


def _shown(spread: Spread | None, form: str) -> str:
    if spread is None:
        return ""
    median, least, most, _ = astuple(spread)
    return f"{median:{form}} [{least:{form}}, {most:{form}}]"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return [
        "  ".join([line[0].ljust(widths[0]), *cells[1:]]).rstrip() for line, cells in zip(lines, aligned, strict=True)
    ]
