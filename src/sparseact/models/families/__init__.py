"""The model families: one file each, and those of other packages (entry points of the group `sparseact.families`)."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.architecture import Architecture
from sparseact.models.families.base import GGUF, Family, Layout
from sparseact.models.families.config import LISTED, Config
from sparseact.models.tensor_names import Naming
from sparseact.utils.registry import with_plugins

__all__ = [
    "BUILTIN",
    "GGUF",
    "LISTED",
    "Config",
    "Family",
    "Layout",
    "engine_types",
    "family_where",
    "known_families",
    "read_config",
    "text_config",
    "transformers_naming",
]

BUILTIN: dict[str, Family] = {
    name: import_module(f"sparseact.models.families.{name}").FAMILY
    for name in (
        *("llama", "mobillama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma2", "gemma3", "opt", "gpt2"),
        *("nemotron", "arcee", "bitnet", "apertus"),  # of squared ReLU, or kin to those
        *("smollm3", "granite", "granite_hybrid", "gemma", "vaultgemma", "ministral", "ministral3", "stablelm"),
        *("ernie4_5", "helium", "internlm3", "seed_oss", "cwm", "olmo2", "olmo3", "exaone4", "hunyuan"),
        *("gpt_neox", "cohere", "cohere2"),
        # Not on the engine: hybrids, and blocks with more than attention and an MLP.
        *("lfm2", "gemma3n", "gemma4", "qwen3_5", "falcon_h1", "granite_mamba", "mamba", "mamba2"),
    )
}
"""The families of this package, by their files' names."""


def known_families() -> dict[str, Family]:
    """All families by name, the built-in ones first.

    Raises:
        InputError: a package's family cannot be imported, or is none.
    """
    known = with_plugins("sparseact.families", BUILTIN)
    for name, family in known.items():
        if not isinstance(family, Family):
            raise InputError(f"families: {name} is a {type(family).__name__}, no {Family.__module__}.Family")
    return known


def family_where(wanted: Callable[[Family], bool]) -> Family | None:
    """The first family that is wanted; other packages are asked, which takes time, where no built-in one is."""
    found = next(filter(wanted, BUILTIN.values()), None)
    return found or next(filter(wanted, known_families().values()), None)


def engine_types() -> list[str]:
    """Transformers' names of the families that the engine runs."""
    return list(dict.fromkeys(family.model_type for family in known_families().values() if family.architecture))


def text_config(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the language model in that of a model that sees; any other config as it is."""
    inner, whole = values.get("text_config"), values.get("model_type")
    family = family_where(lambda family: bool(family.part_of) and family.part_of == whole)
    if family is None or not isinstance(inner, Mapping):
        return values
    tied = {name: values[name] for name in ("tie_word_embeddings",) if name in values}
    return {"model_type": family.model_type, **family.text_defaults, **inner, **tied}


def read_config(values: Mapping[str, Any], where: str) -> Architecture:
    """The architecture of a config.json, or of a config object's `to_dict()`.

    Args:
        values: the config, in transformers 4's or 5's words.
        where: its file, for errors.

    Raises:
        UnsupportedModelError: a family, activation or rotary embedding that the engine does not have.
        InputError: a size is missing or senseless.
    """
    config = Config(values, where)
    model_type = config.get("model_type")
    family = family_where(lambda family: family.model_type == model_type and family.architecture is not None)
    if family is None or family.architecture is None:
        named = family_where(lambda family: family.model_type == model_type)
        why = f": it has no {named.engine_lacks}" if named and named.engine_lacks else ""
        raise UnsupportedModelError(f"{where}: the engine does not run models of type {model_type!r}{why}; {LISTED}")
    config.refuse("quantization_config", "use_bidirectional_attention", "add_cross_attention")
    try:
        architecture = family.architecture(config)
    except InputError:
        raise
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: this config is damaged: {type(error).__name__} {error}") from error
    if architecture.heads % architecture.kv_heads:
        raise InputError(
            f"{where}: {architecture.heads} attention heads are not a multiple of {architecture.kv_heads} key heads"
        )
    return architecture


def transformers_naming(model_type: str) -> Naming:
    """Names in a model of transformers, without the path of the decoder in it.

    Raises:
        UnsupportedModelError: the engine does not run such models.
    """
    family = family_where(lambda family: family.model_type == model_type and family.naming is not None)
    if family is None or family.naming is None:
        raise UnsupportedModelError(f"model: the engine knows no tensors of models of type {model_type!r}")
    return family.naming
