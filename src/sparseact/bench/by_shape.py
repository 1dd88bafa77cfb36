"""Tokens per second of a shape with random weights, dense and by rule: where sparse decoding begins to pay."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from typing import Any

from sparseact.bench.energy import open_meter
from sparseact.bench.random_weights import check_memory, random_weights
from sparseact.bench.rules import rule_gates, rules_at
from sparseact.bench.runner import Runner
from sparseact.bench.session import Row, Work, first_use, time_all
from sparseact.bench.shapes import shape_of
from sparseact.bench.spec import Spec
from sparseact.bench.summary import Group, summarise
from sparseact.errors import InputError
from sparseact.models.architecture import Architecture
from sparseact.utils.environment import cpu_name
from sparseact.utils.processors import processors

NO_PERPLEXITY = {"perplexity": math.nan, "reference": math.nan}


def measure_shape(
    shape: str,
    *,
    densities: Sequence[float] = (0.5,),
    dtypes: Sequence[str] = ("q8",),
    threads: int,
    rounds: int = 5,
    prompt: int = 16,
    tokens: int = 64,
    seed: int = 0,
) -> Group:
    """Time the dense engine and every rule at every density, in turn, on weights drawn at random.

    At one density after the other: the dense engine, and each rule of `rules_at`, all in processes of their own.

    Args:
        shape: a name of `SHAPES`.
        densities: shares of the rule's units that are on for a token, each between 0 and 1.
        dtypes: the engine's types, one after the other.
        threads: of each engine.
        rounds: how often all are timed at each density.
        prompt: tokens that are read before decoding.
        tokens: that are decoded in each round.
        seed: draws the prompt and the order in a round.

    Returns:
        Results whose check has no perplexity: there is none.

    Raises:
        InputError: an unknown shape or type, a density out of range, or more than the memory holds.
        RunnerError: an engine failed.
    """
    architecture = shape_of(shape)
    _check(architecture, densities, dtypes, prompt + tokens)
    ids = random.Random(seed).choices(range(architecture.vocabulary), k=prompt)  # noqa: S311 - no secret
    work = Work(ids, prompt, tokens)
    settings = {"model": shape, "text_sha256": "", "prompt": prompt, "tokens": tokens, "context": 0}
    environment = {"cpu": cpu_name(), "cores": processors(), "energy": open_meter().said}
    of_all = {"run": "", **settings}
    rows: list[Row] = [{"kind": "run", **of_all, "environment": environment}]

    def record(*new: Row) -> None:
        rows.extend(of_all | row for row in new)

    def start(stack: ExitStack, dtype: str, rule: str | None = None, density: float = 1.0) -> Runner:
        spec = Spec("engine", dtype, recipe=rule and f"{rule} {density:.0%}")
        options: dict[str, Any] = {"shape": True, "rule": rule, "density": density}
        runner = stack.enter_context(
            Runner(spec, shape, threads=threads, context=prompt + tokens + 1, python=sys.executable, **options)
        )
        of_runner = {"threads": threads, "runner": str(spec), "rule": rule, "density": density}
        record(of_runner | asdict(spec) | _first(runner, work))
        return runner

    for dtype in dict.fromkeys(dtypes):
        with ExitStack() as all_densities:
            dense = start(all_densities, dtype)
            for place, density in enumerate(dict.fromkeys(densities)):
                with ExitStack() as stack:
                    runners = [dense, *(start(stack, dtype, rule, density) for rule in rules_at(dtype))]
                    time_all(runners, work, threads, range(place * rounds, (place + 1) * rounds), seed, record)
    (group,) = summarise(rows, disturbed=True)
    return group


def _check(architecture: Architecture, densities: Sequence[float], dtypes: Sequence[str], tokens: int) -> None:
    """Say what cannot be measured before anything is."""
    if tokens >= architecture.context:
        raise InputError(f"tokens: a prompt and {tokens} tokens are more than the shape's {architecture.context}")
    for dtype, density in product(dtypes, densities):
        random_weights(architecture, dtype)
        for rule in rules_at(dtype):
            rule_gates(architecture, rule, density)
        check_memory(architecture, dtype, 1 + len(rules_at(dtype)))


def _first(runner: Runner, work: Work) -> dict[str, Any]:
    """What a check of the perplexity would record, without one."""
    first = first_use(runner, work)
    runner.prefill(work.ids)
    runner.decode(work.tokens)
    name = f"{runner.spec.dense_name} {runner.spec.recipe or 'dense'}"
    return {
        "kind": "check",
        "label": name,
        "dense_perplexity": math.nan,
        "decode": NO_PERPLEXITY,
        "refused": None,
        "load_seconds": runner.load_seconds,
        "first_seconds": first,
        "versions": runner.versions,
        **runner.usage(),
    }
