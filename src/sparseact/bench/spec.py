"""Engines as they are named on the command line: an engine, a type, and how it runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from sparseact.errors import InputError, unknown_name

PEERS: Final = {
    "llama.cpp": "llama-cpp-python",
    "ik_llama.cpp": "ik-llama-cpp-python",
    "onnxruntime-genai": "onnxruntime-genai",
    "openvino-genai": "openvino-genai",
    "mistralrs": "mistralrs",
}
"""The package of each engine that runs what a GGUF file holds, and may stand in an environment of its own."""
LLAMAS: Final = ("llama.cpp", "ik_llama.cpp")
"""Those that read the file itself; for the others their own tools convert it."""
_GGUF_TYPES = ("file", "f32", "bf16", "f16", "q8_0", "q4_0", "q4_1")
TYPES: Final = {
    "engine": ("q8", "q4", "bf16", "f32", "file"),
    "transformers": ("f32", "bf16", "f16"),
    "llama.cpp": _GGUF_TYPES,
    "ik_llama.cpp": _GGUF_TYPES,
    "onnxruntime-genai": ("f32", "q8_0", "q4_0"),
    "openvino-genai": ("file", "f16", "q8_0", "q4_0", "q4_1"),
    "mistralrs": _GGUF_TYPES,
}
"""The types that each engine is measured at; `file` is the GGUF file as it is shipped."""
SAME_TYPE: Final = {"f32": "f32", "bf16": "bf16", "q8": "q8_0", "q4": "q4_1", "file": "file"}
"""The GGUF type that is the engine's."""
_OPTIONS = {
    ("ik_llama.cpp", "q8_0"): ("+rtr",),
    ("ik_llama.cpp", "q4_1"): ("", "+ub16"),
    ("ik_llama.cpp", "file"): ("", "+ub16"),
}
"""How a peer is best run. On some processors ik_llama.cpp's products of more than 16 tokens are wrong at Q4_1;
the check of the perplexity says where."""


@dataclass(frozen=True)
class Spec:
    """An engine, its type, and how it runs.

    Attributes:
        engine: a key of TYPES.
        dtype: one of its types.
        recipe: folder of a recipe, of engine and transformers.
        rtr: ik_llama.cpp repacks the weights at load (its option -rtr).
        ub: tokens of a physical batch of llama.cpp and its fork (their option -ub); None is their default.
        screen: our engine screens the head of the model.
    """

    engine: str
    dtype: str
    recipe: str | None = None
    rtr: bool = False
    ub: int | None = None
    screen: bool = False

    @classmethod
    def parse(cls, text: str, option: str = "runners") -> Self:
        """`engine:dtype`, then `+rtr`, `+ub16`, `+screen` or `@recipe-folder`: `ik_llama.cpp:q8_0+rtr`.

        Args:
            text: the name.
            option: where it was given, for errors.

        Raises:
            InputError: there is no such engine, type or option.
        """
        name, _, recipe = text.partition("@")
        engine, _, rest = name.partition(":")
        dtype, *options = rest.split("+")
        if engine not in TYPES:
            raise unknown_name(f"{option}: unknown engine", engine, TYPES)
        if dtype not in TYPES[engine]:
            raise unknown_name(f"{option}: {text}: unknown type", dtype, TYPES[engine])
        if recipe and engine in PEERS:
            raise InputError(f"{option}: {text}: {engine} runs no recipes")
        read: dict[str, Any] = {}
        for found in options:
            if found == "rtr" and engine == "ik_llama.cpp":
                read["rtr"] = True
            elif found.startswith("ub") and found[2:].isdigit() and engine in LLAMAS:
                read["ub"] = int(found[2:])
            elif found == "screen" and engine == "engine":
                read["screen"] = True
            else:
                raise InputError(f"{option}: {text}: {engine} has no option {found!r}; llama.cpp "
                                 "and ik_llama.cpp have ub and a number, ik_llama.cpp rtr, engine screen")  # fmt: skip
        return cls(engine, dtype, recipe or None, **read)

    @property
    def dense_name(self) -> str:
        """The name without the recipe."""
        options = ("+rtr" if self.rtr else "") + (f"+ub{self.ub}" if self.ub else "") + "+screen" * self.screen
        return f"{self.engine}:{self.dtype}{options}"

    def __str__(self) -> str:
        return self.dense_name + (f"@{self.recipe}" if self.recipe else "")

    def label(self) -> str:
        """The name with what the recipe is in place of its folder: `engine:q8 teal 40% (greedy)`.

        Raises:
            InputError: the folder holds no recipe.
        """
        return self.dense_name + (f" {describe_recipe(self.recipe)}" if self.recipe else "")


def runners(
    dtypes: Iterable[str], recipes: Sequence[str], against: Iterable[str], *, screen: bool = False
) -> list[Spec]:
    """The engine dense and with every recipe at every type, then what it is measured against.

    Args:
        dtypes: types of the engine.
        recipes: folders.
        against: names of other engines, each at those of the types that it has; or runners, as
            `ik_llama.cpp:q4_0+rtr`.
        screen: the dense engine with a screened head too.

    Raises:
        InputError: an unknown type or engine, an engine with none of the types, or a folder without a recipe.
    """
    dtypes = list(dict.fromkeys(dtypes))
    for dtype in dtypes:
        if dtype not in TYPES["engine"]:
            raise unknown_name("dtype: unknown type", dtype, TYPES["engine"])
    for folder in recipes:
        describe_recipe(folder)
    ours = [Spec("engine", dtype, recipe) for dtype in dtypes for recipe in (None, *recipes)]
    screened = [Spec("engine", dtype, screen=True) for dtype in dtypes if screen]
    others = [spec for name in against for spec in _others(name, dtypes)]
    return list(dict.fromkeys([*ours, *screened, *others]))


def _others(name: str, dtypes: Sequence[str]) -> list[Spec]:
    if ":" in name:
        return [Spec.parse(name, "against")]
    if name == "transformers":  # has no types of 8 and 4 bits on a CPU
        return [Spec(name, dtype) for dtype in ("f32", "bf16") if dtype == "f32" or dtype in dtypes]
    if name not in PEERS:
        raise unknown_name("against: unknown engine", name, ["transformers", *PEERS])
    types = [SAME_TYPE[dtype] for dtype in dtypes if SAME_TYPE[dtype] in TYPES[name]]
    if not types:
        known = ", ".join(f"{name}:{dtype}" for dtype in TYPES[name])
        raise InputError(f"against: {name}: it has none of the types {', '.join(dtypes)}; name one of {known}")
    return [
        Spec.parse(f"{name}:{dtype}{options}", "against")
        for dtype in types
        for options in _OPTIONS.get((name, dtype), ("",))
    ]


def describe_recipe(folder: str) -> str:
    """Policy, level and what else was chosen: `teal 40% (greedy)`.

    Raises:
        InputError: the folder holds no recipe.
    """
    try:
        record = json.loads((Path(folder) / "recipe.json").read_text(encoding="utf-8"))
        policy, sparsity, options = record["policy"], float(record["sparsity"]), record["meta"].get("options", {})
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(f"recipe: {folder}: no readable recipe.json here ({error})") from error
    chosen = [
        name if value is True else f"{name}={value}"
        for name, value in options.items()
        if name not in {"sparsity", "phases"} and value not in (False, None)
    ]
    return f"{policy} {100 * sparsity:.4g}%" + (f" ({', '.join(chosen)})" if chosen else "")
