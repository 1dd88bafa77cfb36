"""GGUF files: checked before they are loaded, then read by transformers into a plain dense model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseact.errors import InputError
from sparseact.models.hf import check_whole
from sparseact.models.quiet import first_line, quiet

if TYPE_CHECKING:
    import torch


def load_gguf(path: Path, dtype: "torch.dtype") -> tuple[Any, Any]:
    """Read a GGUF file: its weights unpacked to `dtype`, its tokenizer.

    Returns:
        (model, tokenizer) of transformers; the model on the CPU.

    Raises:
        InputError: not a GGUF file, cut short, or of an architecture that transformers cannot read.
    """
    pre_tokenizer = check_gguf(path)

    import transformers

    # Newer versions would keep the weights packed where a kernel is at hand; units need dense ones.
    dense = {"quantization_config": config(dequantize=True)} if (config := _gguf_config()) else {}
    with _reading(path):
        tokenizer = _read_tokenizer(path, pre_tokenizer)
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, output_loading_info=True, **dense
        )
    check_whole(str(path), loaded)
    return model, tokenizer


def load_gguf_tokenizer(path: Path) -> tuple[Any, frozenset[int]]:
    """Read the tokenizer of a GGUF file, and the token ids that end a text.

    Raises:
        InputError: not a GGUF file, cut short, or with a tokenizer that transformers cannot read.
    """
    pre_tokenizer = check_gguf(path)
    with _reading(path):
        tokenizer = _read_tokenizer(path, pre_tokenizer)
    return tokenizer, frozenset({tokenizer.eos_token_id} - {None})


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with quiet():
            yield
    except Exception as error:
        raise InputError(f"{path}: transformers cannot read this GGUF file: {first_line(error)}") from error


def check_gguf(path: Path) -> str:
    """Check that a file is a GGUF file and that every tensor it lists lies inside it.

    Returns:
        The name of its pre-tokenizer, or "" if it has none.

    Raises:
        InputError: it is not a GGUF file, or is cut short or damaged.
    """
    from gguf import GGUFReader

    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise InputError(f"{path}: not a GGUF file (it starts with {magic!r}, not b'GGUF')")
    try:
        reader = GGUFReader(path)
        field = reader.get_field("tokenizer.ggml.pre")
        return str(field.contents()) if field else ""
    except Exception as error:
        # The reader maps each tensor as it lists them; one that ends behind the end of the file,
        # or lengths that make no sense, surface as errors of NumPy of many types.
        raise InputError(f"{path}: this GGUF file is cut short or damaged") from error


def _gguf_config() -> Any:
    import transformers

    return getattr(transformers, "GgufConfig", None)


def _read_tokenizer(path: Path, pre_tokenizer: str) -> Any:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if pre_tokenizer == "smollm":
        _split_digits(tokenizer)
    return tokenizer


def _split_digits(tokenizer: Any) -> None:
    """Add the step that SmolLM's tokenizer has before the byte level: every digit on its own.

    transformers does not read it from the file. Without it, white space before a number is cut
    differently from what the model was trained on.
    """
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )
