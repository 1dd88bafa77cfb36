"""Loading a model: `load`, and what a result says about the model that it came from."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseact.errors import InputError, unknown_name
from sparseact.models.builtin import BUILTIN
from sparseact.models.fetching import cached_folder, fetch
from sparseact.models.gguf_file import first_line, load_gguf
from sparseact.models.quiet import quiet

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
        InputError: an unknown name, device or type, or files that do not hold such a model.
    """
    where, weights_dtype = _device(device), _dtype(dtype)
    kind, path = _locate(name)
    if kind == "gguf":
        model, tokenizer = load_gguf(path)
    elif kind == "hub":
        model, tokenizer = _load_pretrained(name, name, weights_dtype)
    else:
        folder = (cached_folder(name) or fetch(name)) if kind == "builtin" else path
        model, tokenizer = _load_pretrained(folder, name, weights_dtype)
    return model.to(device=where, dtype=weights_dtype).eval(), tokenizer


def describe_model(name: str, model: Any) -> dict[str, Any]:
    """What a result says about its model: name, source, sha256 (where known), parameters, family.

    Args:
        name: what was given to `load`.
        model: what `load` returned.

    Returns:
        A dict ready for JSON. `sha256` is that of the .gguf file, or of a folder's weight files one
        after the other; a model of the hub has its commit in `source` instead.
    """
    kind, path = _locate(name)
    described: dict[str, Any] = {"name": name}
    if kind == "builtin":
        builtin = BUILTIN[name]
        described |= {"source": f"pypi:{builtin.package}=={builtin.version}", "sha256": builtin.sha256}
    elif kind == "hub":
        described |= {"source": f"hub:{name}@{getattr(model.config, '_commit_hash', None) or 'unknown'}"}
    else:
        files = [path] if kind == "gguf" else sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
        described |= {"name": path.resolve().name, "source": f"{kind}:{path}", "sha256": _sha256_of_all(files)}
    described["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    described["family"] = model.config.model_type
    return described


def _locate(name: str) -> tuple[str, Path]:
    """Whether `name` is "builtin", "folder", "gguf" or "hub"; and as a path."""
    path = Path(name).expanduser()
    if name in BUILTIN:
        return "builtin", path
    if path.is_dir():
        return "folder", path
    if path.is_file():
        return "gguf", path
    if not name or path.suffix == ".gguf" or name[0] in "./~\\" or name.count("/") > 1:
        raise InputError(f"--model: no such file or folder: {name!r}")
    return "hub", path


def _load_pretrained(place: str | Path, name: str, dtype: "torch.dtype") -> tuple[Any, Any]:
    """Read a model and a tokenizer from a folder or the hub, refusing weights that do not fit the model."""
    import transformers

    if isinstance(place, Path) and not (place / "config.json").is_file():
        raise InputError(f"--model: the folder {place} has no config.json, so it holds no transformers model")
    try:
        with quiet(progress=isinstance(place, str)):
            config = transformers.AutoConfig.from_pretrained(place)
            _check_causal(config, name)
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
            model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
                place, config=config, dtype=dtype, output_loading_info=True
            )
    except InputError:
        raise
    except Exception as error:
        raise _cannot_load(name, error, from_hub=isinstance(place, str)) from error
    if missing := sorted(loaded["missing_keys"]):
        # transformers would go on with random numbers in their place
        raise InputError(f"--model {name}: the weights lack {len(missing)} tensors, {missing[0]} for one")
    return model, tokenizer


def _check_causal(config: Any, name: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or encoder or config.is_encoder_decoder:
        raise InputError(
            f"--model {name}: a {config.model_type} model is not a decoder-only (causal) language model"
        )


def _cannot_load(name: str, error: Exception, *, from_hub: bool) -> InputError:
    if not from_hub:
        return InputError(f"--model {name}: transformers cannot load it: {first_line(error)}")
    hint = unknown_name("--model", name, BUILTIN).args[0].partition("'. ")[2]
    return InputError(f"--model: {name!r} is no file or folder and cannot be loaded from the hub. Built-in: {hint}")


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise unknown_name("--device: unknown device", str(name), _DEVICES) from None
    if device.type not in _DEVICES:
        raise unknown_name("--device: unknown device", str(name), _DEVICES)
    usable = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= usable[device.type]:
        raise InputError(f"--device: {name} is not available here; {usable[device.type]} {device.type} devices found")
    return device


def _dtype(dtype: "torch.dtype | str | None") -> "torch.dtype":
    import torch

    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise unknown_name("--dtype: unknown type", name, _DTYPES)
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def _sha256_of_all(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
