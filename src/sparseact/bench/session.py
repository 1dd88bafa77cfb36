"""A measurement: engines are admitted by their perplexity, then timed in turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

from sparseact.bench.bandwidth import Bandwidth
from sparseact.bench.energy import Meter, open_meter
from sparseact.bench.peers import Setup
from sparseact.bench.rates import Check, is_disturbed, perplexity
from sparseact.bench.runner import Phase, Runner, RunnerError
from sparseact.bench.spec import Spec
from sparseact.bench.worker import PIECE
from sparseact.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PHASES: tuple[Phase, ...] = ("decode", "prefill")
LEAST_AGREEMENT = 0.99
"""Of the tokens that a screened head chooses with those of the whole one."""
Losses = dict[Phase, list[float]]
Row = dict[str, Any]
Record = Callable[..., None]
"""Takes rows, those of one round together."""


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

    @classmethod
    def of_text(cls, tokenizer: PreTrainedTokenizerBase, text: str, *, context: int, prompt: int, tokens: int) -> Self:
        """From the first `context` tokens of the second half of a text; recipes may know the first half.

        Raises:
            InputError: the text is shorter than that, or nothing is left after the prompt.
        """
        ids: list[int] = tokenizer.encode(text[len(text) // 2 :], add_special_tokens=False, verbose=False)
        if tokenizer.bos_token_id is not None:
            ids = [tokenizer.bos_token_id, *ids]
        if len(ids) < context:
            raise InputError(f"text: {len(ids)} tokens in its second half; `context` {context} is more than that")
        if context < prompt + 2 * PIECE:
            raise InputError(
                f"context: {context} tokens are too few to check perplexity after a prompt of {prompt}; "
                f"at least {prompt + 2 * PIECE}"
            )
        return cls(ids[:context], prompt, tokens)

    @property
    def context(self) -> int:
        """Tokens that an engine must have room for."""
        return max(len(self.ids), self.prompt + self.tokens)


class References:
    """Losses of transformers in float32, each computed once: the truth for the same weights and recipe."""

    def __init__(self, setup: Setup, work: Work, threads: int) -> None:
        self.setup, self.work, self.threads = setup, work, threads
        self.found: dict[tuple[str, str | None, str | None], Losses] = {}

    def of(self, spec: Spec) -> Losses:
        """Losses by phase of a runner's weights and recipe. Those of llama.cpp and its fork are in their file; our
        4 bits are another model than the one that they are made of, and compared with themselves.

        Raises:
            RunnerError: it cannot be loaded or run.
        """
        rounded = spec.dtype if (spec.engine, spec.dtype) == ("engine", "q4") else None
        key = self.setup.weights_of(spec), spec.recipe, rounded
        if key not in self.found:
            truth = Spec("transformers", "f32", spec.recipe)
            own = replace(self.setup, model=key[0])
            with own.start(truth, threads=self.threads, context=self.work.context, rounded=rounded) as runner:
                self.found[key] = {phase: losses(runner, self.work, phase) for phase in PHASES}
        return self.found[key]

    def of_the_model(self) -> float:
        """Perplexity of the dense model as it is shipped, through the decode path."""
        return perplexity(self.of(Spec("transformers", "f32"))["decode"])


def check_all(
    specs: Sequence[Spec],
    references: References,
    threads: int,
    record: Record,
    stack: ExitStack,
    *,
    strict: bool = False,
) -> list[Runner]:
    """Start every engine and keep those whose perplexity is right.

    Args:
        specs: what to start.
        references: which hold the setup and the work too.
        threads: of each.
        record: gets a row of each: its names, what `admit` gives, or in place of that only why it was `refused`.
        stack: ends them.
        strict: what the user can mend is raised.

    Raises:
        InputError: see `strict`.
    """
    kept, work = [], references.work
    for spec in tqdm(specs, desc=f"perplexity, {threads} thread(s)", disable=None):
        row: Row = {"kind": "check", "threads": threads, "runner": str(spec), **asdict(spec)}
        try:
            row["label"] = spec.label()
            runner = stack.enter_context(references.setup.start(spec, threads=threads, context=work.context))
            row["dense_perplexity"] = references.of_the_model()
            row |= admit(runner, work, references.of(spec))
            if row["refused"] is None:
                kept.append(runner)
            else:
                runner.close()
        except InputError as error:
            if strict:
                raise
            row["refused"] = str(error)
        except RunnerError as error:
            row["refused"] = str(error)
        record(row)
    return kept


def time_all(
    runners: Sequence[Runner], work: Work, threads: int, rounds: Iterable[int], seed: int, record: Record
) -> None:
    """Rounds of all engines and of the memory's bandwidth, each in an order of its own.

    Args:
        runners: which were admitted.
        work: what they do in each round.
        threads: of each.
        rounds: their numbers.
        seed: draws the orders.
        record: gets a row for each runner, and for the bandwidth, after a round.
    """
    bandwidth, meter = Bandwidth(threads), open_meter()
    for number in tqdm(rounds, desc=f"rounds, {threads} thread(s)", disable=None):
        order: list[Runner | Bandwidth] = [bandwidth, *runners]
        random.Random(f"{seed} {threads} {number}").shuffle(order)  # noqa: S311 - an order, not a secret
        rows: list[Row] = []
        for what in order:
            if isinstance(what, Runner):
                row = {"kind": "sample", "runner": str(what.spec), **sample(what, work, threads, meter)}
            else:
                row = {"kind": "bandwidth", "bytes_per_second": what.measure()}
            rows.append({"threads": threads, "round": number} | row)
        record(*rows)


def admit(runner: Runner, work: Work, reference: Losses) -> Row:
    """Run everything once and check perplexity through both paths.

    Returns:
        A row: load_seconds; first_seconds (of the first prompt and token, with what is done at first use);
        peak_memory_bytes (until then); bytes_per_token; the checks of `decode` and `prefill`; `refused` (why, or
        None); versions.

    Raises:
        RunnerError: it failed.
    """
    first = first_use(runner, work)
    runner.prefill(work.ids[: work.prompt])
    _, found = runner.decode(work.tokens)
    usage = runner.usage()  # before the perplexity, which keeps the logits of many tokens
    decode = Check.of(losses(runner, work, "decode"), reference["decode"])
    # Of a sparse engine: of the text's own tokens. A screen serves greedy tokens only.
    bytes_per_token = (usage if runner.spec.screen else runner.usage())["bytes_per_token"]
    checks = {"decode": decode, "prefill": Check.of(losses(runner, work, "prefill"), reference["prefill"])}
    sparse = runner.spec.recipe is not None
    wrong = [f"{phase} {reason}" for phase, check in checks.items() if (reason := check.refusal(sparse=sparse))]
    if runner.spec.screen:
        same = runner.agreement([*work.ids[: work.prompt], *found], prompt=work.prompt)
        if same < LEAST_AGREEMENT:
            wrong.append(f"{same:.1%} of its tokens have the highest of all logits")
    return {
        "load_seconds": runner.load_seconds,
        "first_seconds": first,
        "peak_memory_bytes": usage["peak_memory_bytes"],
        "bytes_per_token": bytes_per_token,
        "versions": runner.versions,
        **{phase: asdict(check) for phase, check in checks.items()},
        "refused": "; ".join(wrong) or None,
    }


def first_use(runner: Runner, work: Work) -> float:
    """Seconds of the prompt and a token."""
    return runner.prefill(work.ids[: work.prompt]).wall + runner.decode(1)[0].wall


def sample(runner: Runner, work: Work, threads: int, meter: Meter) -> dict[str, Any]:
    """One prompt and what follows it.

    Returns:
        prefill and decode, tokens per second; `processor_seconds` and `joules` (None where the machine does not tell)
        of a decoded token; `disturbed`: those of the two phases that shared the cores.
    """
    prefill = runner.prefill(work.ids[: work.prompt])
    before = meter.joules() if meter.joules else 0.0
    decode, _ = runner.decode(work.tokens)
    joules = (meter.joules() - before) / work.tokens if meter.joules else None
    times = {"prefill": prefill, "decode": decode}
    return {
        "prefill": work.prompt / prefill.wall,
        "decode": work.tokens / decode.wall,
        "processor_seconds": decode.cpu / work.tokens,
        "joules": joules,
        "disturbed": [phase for phase in times if is_disturbed(times[phase], threads)],
    }


def losses(runner: Runner, work: Work, phase: Phase) -> list[float]:
    """Negative log-likelihoods (nats) of the text's tokens after the prompt."""
    return runner.nll(work.ids, prompt=work.prompt, phase=phase)
