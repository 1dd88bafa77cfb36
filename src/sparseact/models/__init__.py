"""A model and its tokenizer, from a built-in name, a folder, a GGUF file or a hub id.

Everything is imported on first use: the engine wants a few of the modules here, and none that load with transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparseact.models.builtin import cache_folder as cache_folder
    from sparseact.models.fetching import builtin_models as builtin_models
    from sparseact.models.fetching import cached_folder as cached_folder
    from sparseact.models.fetching import fetch as fetch
    from sparseact.models.fetching import gguf_path as gguf_path
    from sparseact.models.loading import describe_model as describe_model
    from sparseact.models.loading import load as load
    from sparseact.models.loading import load_tokenizer as load_tokenizer
    from sparseact.models.loading import weights_path as weights_path
    from sparseact.models.support import support_of as support_of

_HOME_OF_NAME = {
    "builtin_models": "fetching",
    "cache_folder": "builtin",
    "cached_folder": "fetching",
    "describe_model": "loading",
    "fetch": "fetching",
    "gguf_path": "fetching",
    "load": "loading",
    "load_tokenizer": "loading",
    "support_of": "support",
    "weights_path": "loading",
}

__all__ = [
    "builtin_models",
    "cache_folder",
    "cached_folder",
    "describe_model",
    "fetch",
    "gguf_path",
    "load",
    "load_tokenizer",
    "support_of",
    "weights_path",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF_NAME:
        return getattr(import_module(f"sparseact.models.{_HOME_OF_NAME[name]}"), name)
    raise AttributeError(f"module 'sparseact.models' has no attribute {name!r}")
