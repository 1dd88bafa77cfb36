"""A measurement: engines are admitted by their perplexity, then timed in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparseact.bench.rates import Check, is_disturbed
from sparseact.bench.runner import Phase, Runner, Spec


@dataclass(frozen=True)
class Work:
    """What every engine does.

    Attributes:
        ids: tokens of a text, the BOS token first if the model has one: perplexity is that of ids[prompt:].
        prompt: how many of them are the prompt that is read before decoding.
        tokens: how many tokens are decoded after it.
    """

    ids: Sequence[int]
    prompt: int
    tokens: int

    @property
    def context(self) -> int:
        """Tokens that an engine must have room for."""
        return max(len(self.ids), self.prompt + self.tokens)


class References:
    """Perplexities of transformers in float32, each computed once: the truth for the same weights and recipe."""

    def __init__(self, work: Work, python: Path | str, threads: int) -> None:
        self.work, self.python, self.threads = work, python, threads
        self.found: dict[tuple[str, str | None], dict[Phase, float]] = {}

    def of(self, model: Path | str, recipe: str | None) -> dict[Phase, float]:
        """Perplexity by phase. model: what `sparseact.load` takes; recipe: a folder, or None.

        Raises:
            RunnerError: it cannot be loaded or run.
        """
        key = str(model), recipe
        if key not in self.found:
            spec = Spec("transformers", "f32", recipe)
            with Runner(
                spec, model, python=self.python, threads=self.threads, context=self.work.context
            ) as runner:  # fmt: skip
                phases: tuple[Phase, ...] = "decode", "prefill"
                self.found[key] = {phase: perplexity(runner, self.work, phase) for phase in phases}
        return self.found[key]


def admit(runner: Runner, work: Work, reference: dict[Phase, float]) -> dict[str, Any]:
    """Run everything once and check both perplexities.

    Returns:
        A row: load_seconds; first_seconds (of the first prompt and token, with what is done at first use);
        peak_memory_bytes (until then); bytes_per_token; the check; `refused` (why, or None); versions.

    Raises:
        RunnerError: it failed.
    """
    first = first_use(runner, work)
    runner.prefill(work.ids[: work.prompt])
    runner.decode(work.tokens)
    peak = runner.usage()["peak_memory_bytes"]  # before the perplexity, which keeps the logits of many tokens
    decode = perplexity(runner, work, "decode")
    bytes_per_token = runner.usage()["bytes_per_token"]  # of a sparse engine: of the text's own tokens
    check = Check(
        decode=decode,
        decode_reference=reference["decode"],
        prefill=perplexity(runner, work, "prefill"),
        prefill_reference=reference["prefill"],
    )
    return {
        "load_seconds": runner.load_seconds,
        "first_seconds": first,
        "peak_memory_bytes": peak,
        "bytes_per_token": bytes_per_token,
        "versions": runner.versions,
        **asdict(check),
        "refused": check.refusal(),
    }


def first_use(runner: Runner, work: Work) -> float:
    """Seconds of the prompt and a token."""
    return runner.prefill(work.ids[: work.prompt]).wall + runner.decode(1)[0].wall


def sample(runner: Runner, work: Work, threads: int) -> dict[str, Any]:
    """One prompt and what follows it.

    Returns:
        prefill and decode, tokens per second; `disturbed`: those of the two that shared the cores.
    """
    times = {"prefill": runner.prefill(work.ids[: work.prompt]), "decode": runner.decode(work.tokens)[0]}
    counts = {"prefill": work.prompt, "decode": work.tokens}
    rates = {phase: counts[phase] / times[phase].wall for phase in times}
    return rates | {"disturbed": [phase for phase in times if is_disturbed(times[phase], threads)]}


def perplexity(runner: Runner, work: Work, phase: Phase) -> float:
    """The exponential of the mean negative log-likelihood; infinite rather than an error where it is too large."""
    nll = runner.nll(work.ids, prompt=work.prompt, phase=phase)
    return math.exp(nll) if nll < math.log(1e300) else math.inf
