"""GGUF files: checked before they are loaded, then read by transformers into a plain dense model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseact.errors import InputError
from sparseact.models.hf import as_transformers, check_whole
from sparseact.models.quiet import first_line, quiet
from sparseact.models.sources.gguf_header import read_header
from sparseact.models.tokenizer.ends import end_tokens_of_gguf

if TYPE_CHECKING:
    import torch


def load_gguf(path: Path, dtype: "torch.dtype") -> tuple[Any, Any]:
    """Read a GGUF file: its weights unpacked to `dtype`, its tokenizer.

    Returns:
        (model, tokenizer) of transformers; the model on the CPU.

    Raises:
        InputError: not a GGUF file, cut short, or of an architecture that transformers cannot read.
    """
    check_gguf(path)
    header = read_header(path)

    import transformers

    from sparseact.models.tokenizer.gguf import read_gguf_tokenizer

    tokenizer = as_transformers(read_gguf_tokenizer(path, header))
    # Newer versions would keep the weights packed where a kernel is at hand; units need dense ones.
    dense = {"quantization_config": config(dequantize=True)} if (config := _gguf_config()) else {}
    with _reading(path):
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, output_loading_info=True, **dense
        )
    check_whole(str(path), loaded)
    if len(ends := end_tokens_of_gguf(header.metadata)) > 1:
        model.generation_config.eos_token_id = sorted(ends)
    return model, tokenizer


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with quiet():
            yield
    except Exception as error:
        raise InputError(f"{path}: transformers cannot read this GGUF file: {first_line(error)}") from error


def check_gguf(path: Path) -> None:
    """Check that a file is a GGUF file and that every tensor it lists lies inside it.

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
        GGUFReader(path)
    except Exception as error:
        # The reader maps each tensor as it lists them; one that ends behind the end of the file,
        # or lengths that make no sense, surface as errors of NumPy of many types.
        raise InputError(f"{path}: this GGUF file is cut short or damaged") from error


def _gguf_config() -> Any:
    import transformers

    return getattr(transformers, "GgufConfig", None)
