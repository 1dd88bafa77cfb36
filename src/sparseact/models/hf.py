"""Reading a model in the format of transformers, from a folder or from the hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseact.errors import InputError, MissingExtraError, unknown_name
from sparseact.models.builtin import BUILTIN
from sparseact.models.quiet import first_line, quiet

if TYPE_CHECKING:
    import torch

    from sparseact.models.tokenizer import Tokenizer


def load_folder(folder: Path, dtype: "torch.dtype") -> tuple[Any, Any]:
    """Read the model and the tokenizer in a folder; the model on the CPU.

    Raises:
        InputError: the folder does not hold a whole causal language model.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"model: the folder {folder} has no config.json, so it holds no transformers model")
    with quiet():
        return _load(str(folder), dtype)


def load_from_hub(name: str, dtype: "torch.dtype") -> tuple[Any, Any]:
    """Read a model and a tokenizer of the hub, or their copies in the hub's cache without a network.

    Raises:
        InputError: there is no such model, it cannot be reached, or is not a causal language model.
    """
    with quiet(progress=True):
        reachable = _is_on_hub(name)
        try:
            return _load(name, dtype, local_files_only=not reachable)
        except _NotFoundError as error:
            # Either the network is missing, or a file of the model is.
            reason = first_line(error) if reachable else "the hub cannot be reached and its cache has no copy"
            raise _unknown_model(name, reason) from error


def load_folder_tokenizer(folder: Path) -> Any:
    """Read the tokenizer in a folder with transformers, for the kinds that `models.tokenizer` does not read.

    Raises:
        InputError: the folder holds none that transformers can read.
        MissingExtraError: transformers is not installed.
    """
    try:
        import transformers  # noqa: F401 - asked for before it is used, for its own errors of import are another matter
    except ImportError as error:
        raise MissingExtraError(
            f"{folder} has no tokenizer.json; transformers, which reads others,", "torch"
        ) from error
    try:
        with quiet():
            return _tokenizer(str(folder))
    except Exception as error:
        raise InputError(f"model: {folder}: transformers cannot read its tokenizer: {first_line(error)}") from error


def as_transformers(tokenizer: "Tokenizer") -> Any:
    """An ordinary tokenizer of transformers that is the same one."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, chat_template=tokenizer.chat_template, **tokenizer.special_tokens
    )


def _tokenizer(place: str, **where: Any) -> Any:
    """A tokenizer of transformers: tokenizer.json as it is, where there is one, as `read_folder_tokenizer` takes it."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import cached_file

    whole = cached_file(place, "tokenizer.json", _raise_exceptions_for_missing_entries=False, **where)
    return (AutoTokenizer if whole is None else PreTrainedTokenizerFast).from_pretrained(place, **where)


def snapshot(name: str) -> Path:
    """The folder of a model of the hub in the hub's cache, fetched if need be and if there is a network.

    Raises:
        InputError: there is no such model, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download

    kinds = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    with quiet(progress=True):
        reachable = _is_on_hub(name)
        try:
            return Path(
                snapshot_download(name, allow_patterns=kinds, ignore_patterns=["*/*"], local_files_only=not reachable)
            )
        except Exception as error:
            reason = first_line(error) if reachable else "the hub cannot be reached and its cache has no copy"
            raise _unknown_model(name, reason) from error


class _NotFoundError(InputError):
    """A file that transformers looked for was not there."""


def _load(place: str, dtype: "torch.dtype", **where: Any) -> tuple[Any, Any]:
    """Read a model and a tokenizer, refusing weights that do not fit the model."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(place, **where)
        _check_causal(config, place)
        tokenizer = _tokenizer(place, **where)
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            place, config=config, dtype=dtype, output_loading_info=True, **where
        )
    except InputError:
        raise
    except Exception as error:
        kind = _NotFoundError if isinstance(error, OSError) else InputError
        raise kind(f"model: {place}: transformers cannot load it: {first_line(error)}") from error
    check_whole(place, loaded)
    return model, tokenizer


def check_whole(place: str, loaded: dict[str, Any]) -> None:
    """Refuse weights that lack some of the model's: transformers would go on with random numbers.

    Args:
        place: where the weights are, for the error.
        loaded: what `from_pretrained` gives with `output_loading_info=True`.
    """
    if missing := sorted(loaded["missing_keys"]):
        raise InputError(f"model: {place}: the weights lack {len(missing)} tensors of the model, such as {missing[0]}")


def _check_causal(config: Any, place: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or encoder or getattr(config, "is_encoder_decoder", False):
        raise InputError(f"model: {place}: a {config.model_type} model is not a causal (decoder-only) language model")


def _is_on_hub(name: str) -> bool:
    """Ask the hub for the model once, because transformers retries for half a minute without a network.

    Returns:
        True if the model is there, False if the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=10)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _unknown_model(name, "the hub has no such model either") from error
    except HfHubHTTPError as error:
        raise InputError(f"model: {name}: the hub refuses it: {first_line(error)}") from error
    except Exception:  # noqa: BLE001 - the type depends on which HTTP client the hub's library uses
        return False
    return True


def _unknown_model(name: str, reason: str) -> InputError:
    return unknown_name(f"model: no such file or folder, and {reason}; unknown built-in model", name, BUILTIN)
