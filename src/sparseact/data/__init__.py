"""Prompts and text: built-in questions, files, data sets of the hub; and prompts as token ids."""

from sparseact.data.encode import check_context, check_room, context_of, prompt_ids
from sparseact.data.load import builtin_questions, load_prompts, load_text
from sparseact.data.overlap import shared_passages, sketch_passages
from sparseact.data.tensors import encode_prompt

__all__ = [
    "builtin_questions",
    "check_context",
    "check_room",
    "context_of",
    "encode_prompt",
    "load_prompts",
    "load_text",
    "prompt_ids",
    "shared_passages",
    "sketch_passages",
]
