"""Reading a folder in the format of transformers by transformers, and comparing it with what our readers make of it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseact.errors import InputError, MissingExtraError
from sparseact.models.families import family_where
from sparseact.models.quiet import first_line, quiet
from sparseact.models.tensor_names import is_beside_text, is_harmless
from sparseact.models.weights import Weights, floats, open_weights

if TYPE_CHECKING:
    import torch

    from sparseact.models.tokenizer import Tokenizer

_NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # else transformers asks on standard input

_TEXT_NAMES = {r"^language_model\.": "", r"^model\.language_model\.": "model."}
"""Where the language model stands in a folder with more parts, as published and as transformers 5 saves it."""


def load_folder(folder: Path, dtype: "torch.dtype") -> tuple[Any, Any]:
    """Read the model and the tokenizer in a folder; the model on the CPU.

    Raises:
        InputError: the folder does not hold a whole causal language model, holds more than that, or our readers
            (see `sparseact.models.weights`), which the engine uses, make another model of it.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"model: the folder {folder} has no config.json, so it holds no transformers model")
    with quiet():
        model, tokenizer = _load(folder, dtype)
    try:
        ours = open_weights(folder)
    except InputError:  # a family or a format that the engine refuses, in one line; then there is one reader
        return model, tokenizer
    check_same(ours, model, str(folder))
    _check_rows(ours, model, str(folder))
    return model, tokenizer


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
            return _tokenizer(folder)
    except Exception as error:
        raise InputError(f"model: {folder}: transformers cannot read its tokenizer: {first_line(error)}") from error


def as_transformers(tokenizer: "Tokenizer") -> Any:
    """An ordinary tokenizer of transformers that is the same one."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, chat_template=tokenizer.chat_template, **tokenizer.special_tokens
    )


def _tokenizer(folder: Path) -> Any:
    """A tokenizer of transformers: tokenizer.json as it is, where there is one, as `read_folder_tokenizer` takes it."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    whole = (folder / "tokenizer.json").is_file()
    return (PreTrainedTokenizerFast if whole else AutoTokenizer).from_pretrained(folder, **_NO_CODE)


def _load(folder: Path, dtype: "torch.dtype") -> tuple[Any, Any]:
    """Read a model and a tokenizer, refusing weights that do not fit the model."""
    import transformers

    try:
        config = _text_part(transformers.AutoConfig.from_pretrained(folder, **_NO_CODE))
        _check_causal(config, folder)
        tokenizer = _tokenizer(folder)
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, key_mapping=_TEXT_NAMES, output_loading_info=True, **_NO_CODE
        )
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model: {folder}: transformers cannot load it: {first_line(error)}") from error
    check_whole(str(folder), loaded)
    return model, tokenizer


def check_whole(place: str, loaded: dict[str, Any]) -> None:
    """Refuse weights that lack some of the model's, for which transformers takes random numbers, or that it drops.

    Args:
        place: where the weights are, for the error.
        loaded: what `from_pretrained` gives with `output_loading_info=True`.
    """
    if missing := sorted(loaded["missing_keys"]):
        raise InputError(f"model: {place}: the weights lack {len(missing)} tensors of the model, such as {missing[0]}")
    if unused := sorted(
        name for name in loaded["unexpected_keys"] if not is_harmless(name) and not is_beside_text(name)
    ):
        raise InputError(
            f"model: {place}: the model that its config describes has no use for {len(unused)} tensors of the "
            f"weights, such as {unused[0]}"
        )


def check_same(ours: Weights, model: Any, place: str) -> None:
    """Refuse a model that is not the one that our readers make of the same files.

    Compared are all that an `Architecture` says, rotary frequencies and the head among it, and which tensors there are.

    Raises:
        InputError: the first difference.
    """
    theirs = open_weights(model)
    fields = [field.name for field in dataclasses.fields(ours.architecture)]
    differing = [name for name in fields if getattr(ours.architecture, name) != getattr(theirs.architecture, name)]
    zeros = {name for name in theirs.names if name not in ours and not theirs.floats(name).any()}
    _refuse(differing or sorted(({*theirs.names} - zeros) ^ {*ours.names}), place)


def _check_rows(ours: Weights, model: Any, place: str) -> None:
    """Refuse a model of which a tensor does not begin as in the folder."""
    import torch

    theirs, parameters = open_weights(model), dict(model.named_parameters(remove_duplicate=False))
    for name, held in theirs.places.items():
        stored = ours.places[name]
        row = 0 if held.transposed else held.first
        read = torch.from_numpy(floats(ours.source.read(stored.name, row, row + 1)))
        same = torch.equal(
            torch.nan_to_num(read.to(parameters[held.name].dtype)),
            torch.nan_to_num(parameters[held.name][row : row + 1].detach().cpu()),
        )
        _refuse([] if same else [name], place)


def _refuse(differing: list[str], place: str) -> None:
    if differing:
        raise InputError(
            f"model: {place}: transformers reads another model from these files than the engine: they differ in "
            f"{differing[0]}"
        )


def _text_part(config: Any) -> Any:
    """The config of the language model in that of a model that sees, where that is one of ours."""
    family = family_where(lambda family: bool(family.part_of) and family.part_of == config.model_type)
    text = config.get_text_config(decoder=True)
    if family is None or text.model_type != family.model_type:
        return config
    text.tie_word_embeddings = config.tie_word_embeddings
    return text


def _check_causal(config: Any, folder: Path) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or encoder or getattr(config, "is_encoder_decoder", False):
        raise InputError(f"model: {folder}: a {config.model_type} model is not a causal (decoder-only) language model")
