"""Tokenizer and chat template of a model, read from its folder or GGUF file without torch and transformers."""

from sparseact.models.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
