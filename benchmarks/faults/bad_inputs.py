"""Bad inputs over every command and reader: one file of a set that is whole is damaged, or one argument is another."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from faults.child import Child, Ended, command, fork, run_all
from faults.damage import damage_file
from faults.originals import CALIBRATE, SUFFIXES, SWEEP, TRAIN
from faults.table import Row

MODEL = ("model/model.safetensors", "model/config.json", "model/tokenizer.json", "model/generation_config.json")
MODEL += ("model/tokenizer_config.json",)
GENERATE = ("generate", "--prompt", "Why is it so?", "--max-new-tokens", "4", "--threads", "1")
IN_FOLDER, IN_FILE, WITH_RECIPE = ("--model", "model"), ("--model", "model.gguf"), ("--recipe", "recipe")
PROMPTS = ("--prompts", "text.csv", "--column", "question", "--limit", "3", "--no-report")
RECIPE = ("recipe/recipe.json", "recipe/recipe.safetensors")
EVAL = ("eval", "--context", "32", "--limit", "2")
TEXT, OUT = ("--text", "text.txt"), ("--out", "out")
# Of what takes seconds a command of its own, fewer.
BENCH = ("bench", *IN_FOLDER, "--dtype", "f32", "--rounds", "1", "--prompt-tokens", "8", "--tokens", "4")
BENCH += ("--context", "24", "--threads", "1", *WITH_RECIPE, *TEXT)
CHECK = ("check", "model", "--tokens", "32", "--dtype", "f32", "--threads", "1", *TEXT)
VALUES = (
    "",
    " ",
    "-1",
    "0",
    "nan",
    "inf",
    "1e999",
    "1.5",
    "abc",
    "🦙",
    "\udcff",
    "a,b,,c",
    "--",
    "x" * 5000,
    "true",
    "%",
)
VALUES += ("../nowhere", "/dev/null", "/", ",", "1\n2", "null", "text.txt", "model", "99999999999999999999")
LONG_RUNS = {"--rounds", "--threads", "--tokens"}  # a large number is no mistake there, and would run for long


@dataclass(frozen=True)
class Case:
    """A command on whole files, and which of them is damaged; none: an argument is."""

    arguments: tuple[str, ...]
    files: tuple[str, ...] = ()


_READERS = tuple(
    Case(arguments, (f"text.{suffix}",))
    for suffix in SUFFIXES
    for arguments in (
        (*SWEEP, "--prompts", f"text.{suffix}", "--limit", "1", "--no-report", *OUT, *IN_FOLDER),
        (*EVAL, "--text", f"text.{suffix}", *IN_FOLDER),
        (*CALIBRATE, "--text", f"text.{suffix}", *OUT, *IN_FOLDER),
    )
)
_MODELS = (
    Case(("models", "--check", "model"), MODEL[1:2]),
    Case(("models", "--check", "model.gguf"), ("model.gguf",)),
    Case((*GENERATE, "--engine", "cpu", "--dtype", "f32", *IN_FOLDER), MODEL),
    Case((*GENERATE, "--engine", "cpu", "--dtype", "file", *IN_FILE), ("model.gguf",)),
    Case((*GENERATE, "--engine", "torch", *IN_FOLDER), MODEL),
    Case((*GENERATE, "--engine", "torch", *IN_FILE), ("model.gguf",)),
    Case((*EVAL, *TEXT, *IN_FOLDER), MODEL),
    Case((*CALIBRATE, *TEXT, *OUT, *IN_FOLDER), MODEL),
    Case(("score", "--prompt", "Why?", "--max-new-tokens", "2", *OUT, *IN_FOLDER), MODEL),
    Case((*TRAIN, *TEXT, *OUT, *IN_FOLDER), (*MODEL, "text.txt")),
)
_RECIPES = (
    Case((*GENERATE, "--engine", "cpu", "--dtype", "f32", *WITH_RECIPE, *IN_FOLDER), RECIPE),
    Case((*GENERATE, "--engine", "torch", *WITH_RECIPE, *IN_FOLDER), RECIPE),
    Case((*EVAL, *TEXT, *WITH_RECIPE, *IN_FOLDER), RECIPE),
)
_HALF_DONE = (
    Case(
        (*SWEEP, *PROMPTS, "--out", "sweep", *IN_FOLDER),
        (
            *(f"sweep/{name}" for name in ("meta.json", "samples.parquet", "diagnostics.parquet")),
            "sweep/prompts/00000001.json",
        ),
    ),
    Case((*TRAIN, *TEXT, "--out", "train", *IN_FOLDER), ("train/checkpoint/*",)),
)
_ARGUMENTS = (
    Case(
        (
            *GENERATE,
            "--temperature",
            "0.5",
            "--top-k",
            "3",
            "--top-p",
            "0.9",
            "--min-p",
            "0.1",
            "--seed",
            "1",
            *IN_FOLDER,
        )
    ),
    Case((*EVAL, "--stride", "16", "--phase", "decode", "--dtype", "float32", *TEXT, *WITH_RECIPE, *IN_FOLDER)),
    Case((*CALIBRATE, "--option", "greedy=false", *TEXT, *OUT, *IN_FOLDER)),
    Case((*SWEEP, "--heads-sparsity", "0.5", "--correction", "auto", "--ig-steps", "2", *PROMPTS, *OUT, *IN_FOLDER)),
    Case(("score", "--prompt", "Why?", "--metric", "gxo", "--units", "mlp", "--max-new-tokens", "2", *OUT, *IN_FOLDER)),
    Case((*TRAIN, "--lr", "1e-4", "--lora", "2", "--batch", "1", *TEXT, *OUT, *IN_FOLDER)),
    Case(("models", "--check", "model", "--json")),
    Case(("fetch", "nothing")),
)
_SLOW = (Case(CHECK, (*MODEL[:2], "text.txt")), Case(CHECK), Case(BENCH, (*MODEL[:2], *RECIPE)), Case(BENCH))


def case_of(number: int) -> Case:
    """Every kind in turn, and one in 25 of those that take long."""
    if number % 25 == 24:
        return _SLOW[number // 25 % len(_SLOW)]
    kinds = (_READERS, _MODELS, _ARGUMENTS, _MODELS, _RECIPES, _READERS, _HALF_DONE, _ARGUMENTS)
    kind = kinds[number % len(kinds)]
    return kind[number // len(kinds) % len(kind)]


def bad_inputs(place: Path, numbers: list[int], processes: int, tell: Callable[[str], None]) -> Row:
    """Run commands on bad inputs; the same number is always the same input."""
    row = Row("bad inputs to every command and reader")
    done: dict[str, int] = {}
    folders = [place / f"input-{number}" for number in numbers]
    stories: dict[int, tuple[str, tuple[str, ...]]] = {}

    def works() -> Iterator[Callable[[], object]]:
        for number, folder in zip(numbers, folders, strict=True):
            stories[number] = spoil(place / "originals", folder, number)
            yield command(*stories[number][1])

    for index, ended in run_all(works(), folders, processes):
        number, folder = numbers[index], folders[index]
        what, arguments = stories.pop(number)
        fault = ended.fault() or left_behind(folder, ended)
        row.add(fault and f"input {number}: {arguments[0]}, {what}: {fault}", ended.seconds)
        done[arguments[0]] = done.get(arguments[0], 0) + 1
        if fault:
            tell(f"input {number}: {' '.join(arguments)[:200]}: {what}: {fault}")
        shutil.rmtree(folder)
    row.detail = done
    return row


def spoil(originals: Path, folder: Path, number: int) -> tuple[str, tuple[str, ...]]:
    """Copy the originals and damage one of them, or an argument: what was done, and the arguments."""
    random, case = Random(number), case_of(number)
    shutil.copytree(originals, folder)
    if not case.files:
        return _other_arguments(case.arguments, random)
    paths = [
        path for file in case.files for path in sorted(folder.glob(file)) if path.is_file() and path.stat().st_size
    ]
    return damage_file(random.choice(paths), random), case.arguments


def _other_arguments(arguments: tuple[str, ...], random: Random) -> tuple[str, tuple[str, ...]]:
    place = random.randrange(1, len(arguments))
    before, here, after = arguments[:place], arguments[place], arguments[place + 1 :]
    kind = random.choice(["other", "other", "other", "other", "gone", "twice"])
    new = {"gone": (), "twice": (here, here), "other": (random.choice(VALUES),)}[kind]
    option = before[-1]
    unsafe = option == "--out" and new[:1] in {("/",), ("../nowhere",)}
    endless = option in LONG_RUNS and kind == "other" and new[0].isdigit()
    if unsafe or endless:
        new = ("-1",)
    return f"argument {here!r:.30} {kind} {''.join(new)!r:.30}", (*before, *new, *after)


def left_behind(folder: Path, ended: Ended) -> str:
    """What a command that was refused must not leave."""
    if partial := sorted(path.name for path in folder.rglob(".*") if path.is_file()):
        return f"left {partial[0]} behind"
    out = folder / "out"
    files = sorted(path.name for path in out.rglob("*") if path.is_file()) if out.is_dir() else []
    return f"refused, and left {files[0]} in --out" if ended.status and files else ""


def one(place: Path, number: int) -> Child:
    """A single input again, its files kept."""
    _, arguments = spoil(place / "originals", place / f"input-{number}", number)
    return fork(command(*arguments), place / f"input-{number}")
