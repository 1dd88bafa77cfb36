"""A model and its tokenizer, from a built-in name, a folder, a GGUF file or a hub id."""

from sparseact.models.builtin import cache_folder
from sparseact.models.fetching import builtin_models, cached_folder, fetch, gguf_path
from sparseact.models.loading import describe_model, load, load_tokenizer, weights_path

__all__ = [
    "builtin_models",
    "cache_folder",
    "cached_folder",
    "describe_model",
    "fetch",
    "gguf_path",
    "load",
    "load_tokenizer",
    "weights_path",
]
