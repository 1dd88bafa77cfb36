"""Loading a model: `load`, and what a result says about the model that it came from."""

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseact.errors import InputError, unknown_name
from sparseact.models.builtin import BUILTIN
from sparseact.models.end_tokens import end_tokens, in_config
from sparseact.models.hf import as_transformers, load_folder, load_folder_tokenizer
from sparseact.models.hf_gguf import load_gguf
from sparseact.models.resolve import resolve
from sparseact.models.sources.gguf import GGUFTensors
from sparseact.models.sources.gguf_header import read_header
from sparseact.models.tokenizer.folder import read_folder_tokenizer
from sparseact.models.tokenizer.gguf import read_gguf_tokenizer
from sparseact.utils.checksum import sha256_of

if TYPE_CHECKING:
    import torch

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_DEVICES = ("auto", "cpu", "cuda", "mps")


def load(name: str = "smollm2", *, device: str = "auto", dtype: "torch.dtype | str | None" = None) -> tuple[Any, Any]:
    """Load a causal language model of transformers, unchanged, and its tokenizer.

    Args:
        name: a built-in name (fetched on first use), a folder, a .gguf file, or an id on the hub.
        device: auto (cuda, else mps, else cpu), cpu, cuda, cuda:N or mps.
        dtype: type of the weights, as torch's type or its name; float32 if None.

    Returns:
        (model, tokenizer), the model in eval mode, on the device.

    Raises:
        InputError: an unknown name, device or type, or files that do not hold such a model, or hold a
            weight that is not a finite number.
    """
    where, weights_dtype = _device(device), _dtype(dtype)
    files = resolve(name)
    path = files.unpacked
    if path.is_dir():
        model, tokenizer = load_folder(path, weights_dtype)
    else:
        model, tokenizer = load_gguf(path, weights_dtype), as_transformers(read_gguf_tokenizer(path, read_header(path)))
    _refuse_damaged(model, name)
    model.generation_config.eos_token_id = in_config(end_tokens(files.weights, tokenizer.eos_token_id))
    return model.to(where).eval(), tokenizer


def load_tokenizer(name: str = "smollm2") -> tuple[Any, frozenset[int]]:
    """Load the tokenizer of a model, without the model, and without torch and transformers where it can be.

    Args:
        name: as for `load`.

    Returns:
        (tokenizer, the token ids that end a text), equal to what `load` and the model's generation config give. The
        tokenizer is a `models.tokenizer.Tokenizer`, or one of transformers for a folder that has no tokenizer.json.

    Raises:
        InputError: an unknown name, or files that do not hold a tokenizer.
    """
    files = resolve(name)
    path = files.unpacked
    if path.is_dir():
        tokenizer = read_folder_tokenizer(path) or load_folder_tokenizer(path)
    else:
        tokenizer = read_gguf_tokenizer(path, read_header(path))
    return tokenizer, end_tokens(files.weights, tokenizer.eos_token_id)


def weights_path(name: str) -> Path:
    """The .gguf file or the folder that holds a model's weights, fetched if need be.

    Args:
        name: as for `load`.

    Raises:
        InputError: an unknown name, or it cannot be fetched.
    """
    return resolve(name).weights


def describe_model(name: str, model: Any) -> dict[str, Any]:
    """What a result says about its model: name, source, sha256 (where known), parameters, family.

    Args:
        name: what was given to `load`.
        model: what `load` returned.

    Returns:
        A dict ready for JSON. `sha256` is that of the .gguf file, or of a folder's weight files one
        after the other; a model of the hub has its commit in `source` instead.
    """
    files = resolve(name)
    if files.kind == "builtin":
        builtin = BUILTIN[files.name]
        described = {"name": name, "source": f"pypi:{builtin.package}=={builtin.version}", "sha256": builtin.sha256}
    elif files.kind == "hub":
        commit = Path(model.config.name_or_path).name  # of the folder in the hub's cache
        described = {"name": name, "source": f"hub:{name}@{commit}"}
    else:
        path = files.path
        held = [*path.glob("*.safetensors"), *path.glob("*.bin")] if path.is_dir() else GGUFTensors.open(path).files
        described = {
            "name": path.resolve().name,
            "source": f"{files.kind}:{path}",
            "sha256": sha256_of(*sorted(held)),
        }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return described | {"parameters": parameters, "family": model.config.model_type}


def _refuse_damaged(model: Any, name: str) -> None:
    """Refuse weights of which one is not a finite number: all that the model would say is made of it."""
    for tensor, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.numel():
            low, high = (float(bound) for bound in parameter.detach().aminmax())
            if not (isfinite(low) and isfinite(high)):
                dtype = str(parameter.dtype).removeprefix("torch.")
                raise InputError(
                    f"model: {name}: the weight {tensor} holds a number that is not finite in {dtype}; the file is "
                    "damaged, or the type too narrow for it"
                )


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise unknown_name("device: unknown device", str(name), _DEVICES) from None
    if device.type not in _DEVICES:
        raise unknown_name("device: unknown device", str(name), _DEVICES)
    usable = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= usable:
        raise InputError(f"device: {name} is not available; {device.type} devices found here: {usable}")
    return device


def _dtype(dtype: "torch.dtype | str | None") -> "torch.dtype":
    import torch

    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise unknown_name("dtype: unknown type", name, _DTYPES)
    chosen: torch.dtype = getattr(torch, name)
    return chosen
