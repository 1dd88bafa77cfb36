"""The rows of decode.py as what is reported: rates, ratios of the same round, shares of the bandwidth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparseact.bench.rates import Round, Spread, bandwidth_share, ratios

SETTINGS = ("model", "text_sha256", "prompt", "tokens", "context")
PEERS = ("llama.cpp", "ik_llama.cpp")
EQUAL = 1.01
"""Perplexity over the dense model's up to which a peer counts as equally good."""
UNCHECKED = {"refused": "its perplexity was not checked in the run that timed it"}


@dataclass(frozen=True)
class Result:
    """One runner at one number of threads.

    Attributes:
        check: its newest row of the check.
        decode, prefill: tokens per second by round; without disturbed samples unless they were asked for.
        dropped: samples that were disturbed and left out.
    """

    runner: str
    check: Mapping[str, Any]
    decode: Mapping[Round, float]
    prefill: Mapping[Round, float]
    dropped: int

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.runner.partition(":")[0]


@dataclass(frozen=True)
class Group:
    """What was measured under the same settings on the same number of threads.

    Attributes:
        results: the runners that passed, the fastest first.
        refused: reason by runner.
        bandwidth: bytes per second by round.
        compiling: seconds to the first token, {first, cached}, of our engine in the newest run; or None.
        environment: of the newest run.
    """

    settings: Mapping[str, Any]
    threads: int
    results: Sequence[Result]
    refused: Mapping[str, str]
    bandwidth: Mapping[Round, float]
    compiling: Mapping[str, float] | None
    environment: Mapping[str, Any]

    def best_peer(self) -> str | None:
        """The fastest of the others whose perplexity is within 1% of the dense model's."""
        equal = (
            result.runner
            for result in self.results
            if result.engine in PEERS and result.check["decode"] <= EQUAL * result.check["dense_perplexity"]
        )
        return next(equal, None)


def summarise(rows: Sequence[Mapping[str, Any]], *, disturbed: bool = False) -> list[Group]:
    """Rows of one or more runs, grouped by settings and threads.

    Only samples of a run in which that runner's perplexity was checked, on as many threads, and found right count.

    Args:
        rows: what decode.py wrote.
        disturbed: count samples that shared the cores too.
    """
    environments = {row["run"]: row["environment"] for row in rows if row["kind"] == "run"}
    by_group: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["kind"] != "run":
            by_group[*(row[name] for name in SETTINGS), row["threads"]].append(row)
    return [_group(key, of_group, environments, disturbed=disturbed) for key, of_group in by_group.items()]


def _group(
    key: tuple[Any, ...],
    rows: Sequence[Mapping[str, Any]],
    environments: Mapping[str, Mapping[str, Any]],
    *,
    disturbed: bool,
) -> Group:
    checks = {(row["run"], row["runner"]): row for row in rows if row["kind"] == "check"}
    newest = {runner: row for (_, runner), row in checks.items()}  # rows are in the order of time
    samples = [row for row in rows if row["kind"] == "sample"]
    results, refused = [], {runner: row["refused"] for runner, row in newest.items() if row["refused"] is not None}
    for runner in dict.fromkeys(row["runner"] for row in samples):
        of_runner = [row for row in samples if row["runner"] == runner]
        checked = [row for row in of_runner if checks.get((row["run"], runner), UNCHECKED)["refused"] is None]
        if not checked:
            refused.setdefault(runner, UNCHECKED["refused"])
        elif runner not in refused:
            result = _result(runner, newest[runner], checked, disturbed=disturbed)
            if result.decode and result.prefill:
                results.append(result)
            else:
                refused[runner] = f"all of its {len(checked)} samples shared the cores with something else"
    results.sort(key=lambda result: Spread.of([*result.decode.values()]).median, reverse=True)
    bandwidth = {_round(row): row["bytes_per_second"] for row in rows if row["kind"] == "bandwidth"}
    settings = dict(zip(SETTINGS, key[:-1], strict=True))
    compiling = next((row for row in reversed(rows) if row["kind"] == "compile"), None)
    return Group(settings, key[-1], results, refused, bandwidth, compiling, environments[rows[-1]["run"]])


def _result(runner: str, check: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, disturbed: bool) -> Result:
    rates = {
        phase: {_round(row): row[phase] for row in rows if disturbed or phase not in row["disturbed"]}
        for phase in ("decode", "prefill")
    }
    dropped = 2 * len(rows) - sum(map(len, rates.values()))
    return Result(runner, check, rates["decode"], rates["prefill"], dropped)


def _round(row: Mapping[str, Any]) -> Round:
    return row["run"], row["round"]


def as_markdown(groups: Sequence[Group], against: Sequence[str]) -> str:
    """A table for each group, what was refused under it, and what it ran on."""
    return "\n\n".join(_group_as_markdown(group, against) for group in groups)


def _group_as_markdown(group: Group, against: Sequence[str]) -> str:
    best = group.best_peer()
    bases = [name for name in dict.fromkeys([*against, best]) if name is not None]
    head = [
        "runner",
        "perplexity",
        "to its reference: decode, prefill",
        "MB / token",
        "decode (tokens/s)",
        *(f"x {name}" + (" (best peer)" if name == best else "") for name in bases),
        "share of bandwidth",
        "prefill (tokens/s)",
        "first token (ms)",
        "load (s)",
        "first use (s)",
        "peak memory (MB)",
        "samples (dropped)",
    ]
    decode = {result.runner: result.decode for result in group.results}
    settings = group.settings
    caption = (
        f"**{settings['model']}, {group.threads} thread(s)**: {settings['tokens']} tokens after a prompt of "
        f"{settings['prompt']}; perplexity of {settings['context'] - settings['prompt']} tokens; medians "
        "[least, most]; ratios are medians of those of the same round."
    )
    lines = [
        caption,
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for result in group.results:
        check, size = result.check, result.check["bytes_per_token"]
        prefill = Spread.of([*result.prefill.values()])
        cells = [
            f"`{result.runner}`",
            f"{check['decode']:.2f}",
            ", ".join(f"{check[phase] / check[f'{phase}_reference'] - 1:+.2%}" for phase in ("decode", "prefill")),
            f"{size / 1e6:.0f}",
            _spread([*result.decode.values()], ".1f"),
            *(_spread(ratios(result.decode, decode.get(name, {})), ".2f") for name in bases),
            _spread(bandwidth_share(result.decode, size, group.bandwidth), ".0%"),
            _spread([*result.prefill.values()], ".0f"),
            f"{group.settings['prompt'] / prefill.median * 1e3:.0f}",
            f"{check['load_seconds']:.1f}",
            f"{check['first_seconds']:.2f}",
            f"{check['peak_memory_bytes'] / 1e6:.0f}",
            f"{len(result.decode)} ({result.dropped})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"No row for `{runner}`: {reason}." for runner, reason in sorted(group.refused.items()))]
    if group.compiling:
        first, cached = group.compiling["first"], group.compiling["cached"]
        lines += ["", f"engine, from the start of the process to the first token: {first:.1f} s when it is compiled, "]
        lines[-1] += f"{cached:.1f} s later."
    gigabytes = [value / 1e9 for value in group.bandwidth.values()]
    versions = group.environment["versions"] | {
        name: version for result in group.results for name, version in result.check["versions"].items()
    }
    lines += [
        "",
        f"Memory bandwidth in the same rounds: {_spread(gigabytes, '.1f')} GB/s. {group.environment['cpu']}, "
        f"{group.environment['cores']} cores, {group.threads} thread(s) used, {group.environment['platform']}, "
        f"Python {group.environment['python']}; " + ", ".join(f"{name} {text}" for name, text in versions.items()),
    ]
    return "\n".join(lines)


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "–"
    spread = Spread.of(values)
    return f"{spread.median:{form}} [{spread.least:{form}}, {spread.most:{form}}]"
