"""Small vocabularies of the two kinds, trained on the built-in questions, and the GGUF files that hold them."""

import json

import gguf
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from sparseact.data import builtin_questions

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TYPES = {"<unk>": 2, "<s>": 3, "</s>": 3, "<|user|>": 3, "<|end|>": 3, "<tool>": 4}
"""gguf's types of the tokens that come first in each vocabulary."""

ADDERS = {bool: "add_bool", int: "add_uint32", str: "add_string", list: "add_array"}


def _trained(pre_tokenizer, size, first, alphabet=()):
    """(tokens, merges) of BPE; `first` are the first tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    extra = " In 1984, 37 of 2001  people'd  say:\n\n\tno! def f(x):    return 12"
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=list(alphabet), special_tokens=first, show_progress=False
    )
    tokenizer.train_from_iterator([question["question"] + extra for question in builtin_questions()], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(merge) for merge in model["merges"]]


@pytest.fixture(scope="session")
def bytes_vocabulary():
    """(tokens, merges) of byte-level BPE."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return _trained(pre_tokenizers.ByteLevel(add_prefix_space=False), 700, list(TYPES), alphabet)


@pytest.fixture(scope="session")
def pieces_vocabulary():
    """Tokens of SentencePiece's BPE: special ones, bytes, pieces from the best on, characters last."""
    first = [*TYPES, *BYTES]
    tokens, _ = _trained(pre_tokenizers.Metaspace(), 700, first)
    return first + sorted(tokens[len(first) :], key=lambda piece: len(piece) == 1)


@pytest.fixture(scope="session")
def write_gguf():
    """A function that writes a GGUF file of a tokenizer.

    `users` are the tokens that a user defined; other keyword arguments are more values of tokenizer.ggml.
    """

    def write(path, model, tokens, merges=None, *, family="llama", users=(), **about):
        writer = gguf.GGUFWriter(path, family)
        for key in ("block_count", "embedding_length", "attention.head_count", "context_length"):
            writer.add_uint32(f"{family}.{key}", 8)
        writer.add_tokenizer_model(model)
        writer.add_token_list(tokens)
        types = TYPES | dict.fromkeys(BYTES, 6) | dict.fromkeys(users, 4)
        writer.add_token_types([types.get(token, 1) for token in tokens])
        if merges is None:
            first = len(TYPES) + len(BYTES)
            writer.add_token_scores([0.0] * first + [-float(place) for place in range(len(tokens) - first)])
        else:
            writer.add_token_merges([" ".join(merge) for merge in merges])
        for key, value in ({"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | about).items():
            getattr(writer, ADDERS[type(value)])(f"tokenizer.ggml.{key}", value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write
