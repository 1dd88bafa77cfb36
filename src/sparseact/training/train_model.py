"""`train`: from a model, a method and texts to a folder with a model that wants to be sparse, and its recipe."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from sparseact.calibration.fit import read_text
from sparseact.calibration.policy import GatePolicy
from sparseact.data import context_of, load_text, sketch_passages
from sparseact.errors import InputError, require
from sparseact.models.builtin import cache_folder
from sparseact.models.quiet import quiet
from sparseact.policies import make_policy
from sparseact.recipes.recipe import Recipe
from sparseact.training.checkpoint import NAME as CHECKPOINT
from sparseact.training.gates import LiveGates
from sparseact.training.loop import Training, optimiser_over, run
from sparseact.training.options import Options
from sparseact.training.own_text import write_own_text
from sparseact.training.page import write_page
from sparseact.training.parameters import add_lora, dense_teacher, trainable
from sparseact.training.quality import HeldOut, held_out
from sparseact.training.text import Mix, as_text, shares_of, split_text
from sparseact.utils.environment import describe
from sparseact.utils.plain_json import write_json
from sparseact.utils.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OWN = "own"
"""The name of the text that the dense model writes itself."""


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        out: the folder: a model of transformers, `recipe` where the method is a rule, train.json, report.html.
        recipe: for the trained weights; None of the dense twin.
        quality: of the dense model's `perplexity_dense`, the start and the end, by the text's name.
        seconds: that the steps took.
    """

    out: Path
    recipe: Recipe | None
    quality: dict[str, dict[str, HeldOut]]
    seconds: float


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str | Path | Sequence[str | Path] = OWN,
    *,
    out: str | Path,
    twin: bool = False,
    checkpoint_every: int = 50,
    name: str = "",
    threads: int | None = None,
    **options: Any,
) -> Trained:
    """Train a model under a policy's masks, and write it and the recipe for its new weights.

    A run that was stopped goes on from its last checkpoint when the same is asked again, to the same weights.

    Args:
        model: of transformers, in float32; it is changed.
        tokenizer: its own.
        text: files as for `sparseact.data.load_text`, or "own": what the dense model writes itself. The tail of each is
            kept for measuring.
        out: the folder; a new one, or one of the same run.
        twin: train the dense twin on the same tokens afterwards, in `out/twin`.
        checkpoint_every: steps between two checkpoints.
        name: of the model, for what is written about it.
        threads: of the engine that writes the model's own text.
        options: see `sparseact.training.Options`.

    Raises:
        InputError: an option is out of range, a text too short, the method not for this model, the folder another
            run's, the loss not a number, or memory short.
    """
    require("train", "pandas", "matplotlib", "jinja2")  # of the page, before hours of work
    asked = _read_options(options)
    if model.dtype != torch.float32:
        raise InputError(f"model: its weights are {model.dtype}; training needs torch.float32, as `sa.load` gives")
    out = Path(out)
    _check_folder(out)
    texts = [text] if isinstance(text, (str, Path)) else list(text)
    shares = shares_of(asked.proportions, len(texts))
    if asked.method != "dense":
        _policy(asked).gates(model)  # a method that is not for this model is refused before a text is written
    key = _weights_key(model)
    mixed = _read_texts(model, tokenizer, texts, shares, asked, key, threads)
    identity = {"model": key, "options": asked.record(), "texts": [source.sha256 for source in mixed.sources]}
    untrained = dense_teacher(model, shared=False) if twin else None
    trained = _train(model, tokenizer, mixed, asked, out, identity, checkpoint_every, name)
    if untrained is not None:
        seen = {"tokens": asked.tokens + asked.local_tokens, "local_tokens": 0}
        dense = {**options, **seen, "method": "dense", "objective": "lm", "policy_options": {}}
        twin_options = _read_options(dense)
        twin_identity = identity | {"options": twin_options.record()}
        _train(untrained, tokenizer, mixed, twin_options, out / "twin", twin_identity, checkpoint_every, name)
        write_page(out)
    return trained


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    mixed: Mix,
    options: Options,
    out: Path,
    identity: dict[str, Any],
    checkpoint_every: int,
    name: str,
) -> Trained:
    """One run, from the calibrated start to the page."""
    began = time.monotonic()
    model.eval()
    model.config.use_cache = False
    gates, windows = _start(model, tokenizer, mixed, options)
    teacher = dense_teacher(model, shared=options.lora > 0)
    dtype = options.autocast_dtype(model.device)
    before = _measure(model, teacher, mixed, options, gates.running(model) if gates else nullcontext(), "before")

    adapters = add_lora(model, options.lora, options.seed) if options.lora else None
    parameters = {key: p for key, p in model.named_parameters() if p.requires_grad} if adapters else trainable(model)
    if options.gradient_checkpointing:
        _checkpoint_activations(model)
    optimiser = optimiser_over(parameters, gates, options)
    named = parameters | (gates.learned if gates else {})
    training = Training(model, teacher, gates, mixed, options, named, optimiser)
    run(training, out / "checkpoint", identity, checkpoint_every=checkpoint_every)

    if options.gradient_checkpointing:
        (getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable)()
    model.eval()
    if adapters is not None:
        teacher = dense_teacher(teacher, shared=False)  # merging changes the weights that it shared
        model = adapters.merge_and_unload()
    model.requires_grad_(requires_grad=False)
    model.config.use_cache = True
    recipe = None
    if gates is not None:
        seen = "\n\n".join(tokenizer.decode(source.ids.tolist()) for source in mixed.sources)
        meta = {"trained": options.record() | {"texts": [source.name for source in mixed.sources]}, "model": str(out)}
        say(f"fitting {options.method} to the new weights")
        recipe = gates.recipe(model, windows, meta)
        recipe.meta["calibration"] |= {"source": "what it was trained on", "passages": sketch_passages(seen)}
    after = _measure(model, teacher, mixed, options, recipe(model) if recipe else nullcontext(), "after")
    seconds = training.seconds
    if training.accelerator.is_main_process:
        _save_model(model, tokenizer, out)
        if recipe is not None:
            recipe.save(out / "recipe")
        record = {
            "model": name or model.config.model_type,
            "identity": identity,
            "options": options.record(),
            "texts": {s.name: {"tokens": len(s.ids), "held_out_tokens": s.held_out.numel()} for s in mixed.sources},
            "before": {key: found.record() for key, found in before.items()},
            "after": {key: found.record() for key, found in after.items()},
            "levels": gates.levels if gates else {},
            "products": str(dtype).removeprefix("torch."),
            "seconds": round(seconds, 1),
            "seconds_in_all": round(seconds + time.monotonic() - began, 1),
            "environment": describe(model.device, model.dtype),
            "log": training.log,
        }
        write_json(out / "train.json", record, indent=1)
        write_page(out)
    return Trained(out, recipe, {"before": before, "after": after}, seconds)


def _start(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, mixed: Mix, options: Options
) -> tuple[LiveGates | None, Tensor]:
    """The calibrated gates, and the windows that they are fitted on."""
    text = as_text(mixed.sources, tokenizer)
    windows = read_text(model, tokenizer, text).windows
    if options.method == "dense":
        return None, windows
    say(f"calibrating {options.method} on {windows.numel():,} tokens of what is trained on")
    policy = _policy(options)
    gates = LiveGates(policy, policy.calibrate(model, tokenizer, text), model)
    if options.constants_lr:
        gates.learn_constants(model, windows)
    if options.router_lr:
        gates.learn_routers()
    return gates, windows


def _measure(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    mixed: Mix,
    options: Options,
    masked: AbstractContextManager[Any],
    when: str,
) -> dict[str, HeldOut]:
    windows = options.measured_windows(len(mixed.sources))
    say(f"measuring {when} training, on {windows} windows of {mixed.window} tokens of each text at most")
    return held_out(model, teacher, mixed.sources, masked, options.autocast_dtype(model.device), windows=windows)


def _policy(options: Options) -> GatePolicy:
    return cast(GatePolicy, make_policy(options.method, options.sparsity, options.policy_options))


def _read_options(options: dict[str, Any]) -> Options:
    known = Options.__dataclass_fields__
    if unknown := next((option for option in options if option not in known), None):
        raise InputError(f"{unknown}: unknown option. Valid: {', '.join(known)}.")
    if options.get("method") == "dense":
        options = {"objective": "lm"} | options
    return Options(**options)


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"out: {out}: this is a file, not a folder")
    ours = (out / "checkpoint" / CHECKPOINT).exists() or (out / "train.json").exists()
    if (out / "config.json").exists() and not ours:
        raise InputError(f"out: {out}: holds a model that no training put there; choose another folder")


def _read_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | Path],
    shares: Sequence[float],
    options: Options,
    key: str,
    threads: int | None,
) -> Mix:
    longest = context_of(model.config) or options.window
    if options.window > longest:
        raise InputError(f"window: {options.window} tokens are more than the model's {longest} positions")
    read = [(str(text), load_text(text)) if str(text) != OWN else (OWN, None) for text in texts]
    bos, sources = tokenizer.bos_token_id, []
    for (text, content), share in zip(read, shares, strict=True):
        if content is None:
            wanted = int((options.tokens + options.local_tokens) * share)
            wanted += (options.measured_windows(len(texts)) + 1) * options.window
            folder = cache_folder() / "own-text" / f"{key[:16]}-{options.seed}"
            ids = write_own_text(model, tokenizer, folder, tokens=wanted, seed=options.seed, threads=threads)
        else:
            ids = tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"]
        sources.append(split_text(text, ids, window=options.window, bos=bos))
    return Mix(tuple(sources), tuple(shares), options.window, bos, options.seed)


def _weights_key(model: PreTrainedModel) -> str:
    """A hash of some values of every weight."""
    digest = hashlib.sha256(model.config.model_type.encode())
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()[:: max(1, parameter.numel() // 64)].float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)} {values.tolist()}".encode())
    return digest.hexdigest()


def _checkpoint_activations(model: PreTrainedModel) -> None:
    """In training mode only, says transformers; what draws at random stays off."""
    # The older name is deprecated where there is the newer one.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    for module in model.modules():
        module.training = hasattr(module, "gradient_checkpointing") or module is model


def _save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """An ordinary folder of transformers; each file appears whole."""
    part = out / ".partial-model"
    shutil.rmtree(part, ignore_errors=True)
    try:
        with quiet():
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
        for file in sorted(part.iterdir()):
            file.replace(out / file.name)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}; the checkpoint is kept") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
