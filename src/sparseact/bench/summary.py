"""The rows of a measurement as what is reported: rates by round of every runner whose perplexity was right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparseact.bench.rates import Round, Spread, ratios
from sparseact.bench.spec import PEERS

SETTINGS = ("model", "text_sha256", "prompt", "tokens", "context")
"""What has to be equal for numbers to be comparable."""
EQUAL = 0.01
"""Loss up to which a runner counts as equally good as the dense model."""
UNCHECKED = {"refused": "its perplexity was not checked in the run that timed it"}


@dataclass(frozen=True)
class Result:
    """One runner at one number of threads.

    Attributes:
        runner: its full name.
        label: its name for a reader; that of a recipe is its policy and level, if that is one of its kind.
        check: its newest row of the check.
        decode, prefill: tokens per second by round; without disturbed samples unless they were asked for.
        processor_seconds, joules: of a decoded token, by the rounds of `decode`; without rounds where they were not
            measured.
        dropped: samples that were disturbed and left out.
    """

    runner: str
    label: str
    check: Mapping[str, Any]
    decode: Mapping[Round, float]
    prefill: Mapping[Round, float]
    processor_seconds: Mapping[Round, float]
    joules: Mapping[Round, float]
    dropped: int

    @property
    def engine(self) -> str:
        """The engine's name."""
        name: str = self.check["engine"]
        return name

    @property
    def reads_all(self) -> bool:
        """Whether it is dense, its head too."""
        return self.check["recipe"] is None and not self.check["screen"]

    @property
    def perplexity(self) -> float:
        """Of the text, through the decode path; NaN where the weights are random."""
        value: float = self.check["decode"]["perplexity"]
        return value

    @property
    def loss(self) -> float:
        """Perplexity over that of the dense model as it is shipped, less 1."""
        return self.perplexity / float(self.check["dense_perplexity"]) - 1


@dataclass(frozen=True)
class Group:
    """What was measured under the same settings on the same number of threads.

    Attributes:
        results: the runners that passed, the fastest first.
        refused: reason by runner.
        bandwidth: bytes per second by round.
        samples, disturbed: timings of prompts and of what followed, and those that shared the cores.
        compiling: seconds to the first token, {first, cached}, of our engine in the newest run; or None.
        environment: of the newest run.
    """

    settings: Mapping[str, Any]
    threads: int
    results: Sequence[Result]
    refused: Mapping[str, str]
    bandwidth: Mapping[Round, float]
    samples: int
    disturbed: int
    compiling: Mapping[str, float] | None
    environment: Mapping[str, Any]

    def warnings(self) -> list[str]:
        """What a reader has to know besides the results."""
        said = [f"no speed of {runner}: {reason}" for runner, reason in self.refused.items()]
        if self.disturbed:
            shared = f"in {self.disturbed} of {self.samples} measurements"
            said.append(f"warning: other programs wanted the processors {shared}")
        return said

    def best(self, *engines: str, dense: bool = True) -> Result | None:
        """The fastest of some engines' runners, `dense` or with a recipe or a screened head, whose perplexity is within
        1% of the dense model's.
        """
        equal = (
            result
            for result in self.results
            if result.engine in engines and result.loss <= EQUAL and result.reads_all == dense
        )
        return next(equal, None)

    def best_peer(self) -> Result | None:
        """The best of the other projects' engines; transformers is none."""
        return self.best(*PEERS)

    def dense(self, result: Result) -> Result | None:
        """The engine's dense runner at the type of one of its runners."""
        return self.of("engine", result.check["dtype"]) if result.engine == "engine" else None

    def of(self, engine: str, dtype: str) -> Result | None:
        """The fastest dense runner of an engine at a type."""
        wanted = {"engine": engine, "dtype": dtype, "recipe": None, "screen": False}
        return next((result for result in self.results if result.check.items() >= wanted.items()), None)

    @staticmethod
    def ratio(result: Result, to: Result | None) -> Spread | None:
        """Of their decode rates in the same rounds; None if there are none."""
        found = ratios(result.decode, to.decode) if to else []
        return Spread.of(found) if found else None


def summarise(rows: Sequence[Mapping[str, Any]], *, disturbed: bool = False) -> list[Group]:
    """Rows of one or more runs, grouped by settings and threads.

    Only samples of a run in which that runner's perplexity was checked, on as many threads, and found right count.

    Args:
        rows: of `session`, each with its run and SETTINGS, and a row of kind `run` with the environment.
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
            result = _result(newest[runner], checked, disturbed=disturbed)
            if result.decode and result.prefill:
                results.append(result)
            else:
                refused[runner] = f"all of its {len(checked)} samples shared the cores with something else"
    labels = Counter(result.label for result in results)
    results = [replace(result, label=result.runner) if labels[result.label] > 1 else result for result in results]
    results.sort(key=lambda result: Spread.of([*result.decode.values()]).median, reverse=True)
    bandwidth = {_round(row): row["bytes_per_second"] for row in rows if row["kind"] == "bandwidth"}
    settings = dict(zip(SETTINGS, key[:-1], strict=True))
    compiling = next((row for row in reversed(rows) if row["kind"] == "compile"), None)
    return Group(
        settings=settings,
        threads=key[-1],
        results=results,
        refused=refused,
        bandwidth=bandwidth,
        samples=2 * len(samples),
        disturbed=sum(len(row["disturbed"]) for row in samples),
        compiling=compiling,
        environment=environments[rows[-1]["run"]],
    )


def _result(check: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, disturbed: bool) -> Result:
    def by_round(name: str, phase: str) -> dict[Round, float]:
        of_phase = [row for row in rows if disturbed or phase not in row["disturbed"]]
        return {_round(row): row[name] for row in of_phase if row.get(name) is not None}

    decode, prefill = by_round("decode", "decode"), by_round("prefill", "prefill")
    of_token = by_round("processor_seconds", "decode"), by_round("joules", "decode")
    dropped = 2 * len(rows) - len(decode) - len(prefill)
    return Result(check["runner"], check["label"], check, decode, prefill, *of_token, dropped)


def _round(row: Mapping[str, Any]) -> Round:
    return row["run"], row["round"]
