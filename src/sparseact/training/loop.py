"""The steps of a training: draw, forward, backward, clip, step, steer; a checkpoint every so often."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from sparseact.errors import InputError
from sparseact.masked.density import Density
from sparseact.training.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from sparseact.training.gates import LiveGates
from sparseact.training.local import local_loss
from sparseact.training.objectives import Loss
from sparseact.training.options import Options
from sparseact.training.text import Mix
from sparseact.utils.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WARM_UP = 10
"""Steps in which the learning rate rises."""

LOG_EVERY = 5
"""Steps between two rows of the log, means over them."""


@dataclass
class Training:
    """A model in training.

    Attributes:
        model: that learns.
        teacher: the dense model, another one.
        gates: that mask it, None for the dense twin.
        texts: what it is trained on.
        options: how.
        parameters: that are trained, by name, constants and routers among them.
        optimiser: over them.
        log: a row each `LOG_EVERY` steps: step, tokens, loss, density, layers, seconds, and whether they were local.
        step: how many are done.
        seconds: that they took, over all runs.
        saved: the step of the last checkpoint, 0 if there is none.
    """

    model: PreTrainedModel
    teacher: PreTrainedModel
    gates: LiveGates | None
    texts: Mix
    options: Options
    parameters: dict[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    log: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    saved: int = 0

    def __post_init__(self) -> None:
        """Take the devices that accelerate knows of; one process each, of which the first writes."""
        self.accelerator = Accelerator(cpu=self.model.device.type == "cpu")
        self.running_model: nn.Module = self.accelerator.prepare_model(self.model)
        if self.options.batch < self.accelerator.num_processes:
            raise InputError(
                f"batch: {self.options.batch} windows are fewer than the {self.accelerator.num_processes} processes"
            )
        self.dtype = self.options.autocast_dtype(self.model.device)

    @property
    def is_local(self) -> bool:
        """Whether the next step is of the local stage, which comes first."""
        return self.step < self.options.local_steps


def optimiser_over(
    parameters: dict[str, nn.Parameter], gates: LiveGates | None, options: Options
) -> torch.optim.Optimizer:
    """AdamW without decay; constants and routers have learning rates of their own."""
    rates = [(parameters, options.lr)]
    if gates is not None:
        rates += [(gates.constants, options.constants_lr), (gates.routers, options.router_lr)]
    groups = [{"params": list(held.values()), "lr": lr, "base": lr} for held, lr in rates if held]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)


def run(training: Training, folder: Path, identity: dict[str, Any], *, checkpoint_every: int) -> None:
    """Train to the end of the tokens, going on from the checkpoint in the folder if there is one.

    Raises:
        InputError: the checkpoint is another run's, the loss is not a number, or memory is short.
    """
    _resume(training, folder, identity)
    if training.step == training.options.steps:
        return
    masked: AbstractContextManager[Any] = training.gates.running(training.model) if training.gates else nullcontext()
    devices = [training.model.device] if training.model.device.type == "cuda" else []
    try:
        with masked as counts, torch.random.fork_rng(devices):
            _steps(training, counts, folder, identity, checkpoint_every)
    except KeyboardInterrupt as stop:
        if training.saved:
            stop.add_note(f"the same command goes on from the checkpoint of step {training.saved} in {folder}")
        raise


def _steps(
    training: Training, counts: Density | None, folder: Path, identity: dict[str, Any], checkpoint_every: int
) -> None:
    steps, of_a_step = training.options.steps, training.options.batch * training.options.window
    with tqdm(
        total=steps * of_a_step,
        initial=training.step * of_a_step,
        desc="train",
        unit="token",
        unit_scale=True,
        file=sys.stderr,
        disable=None if training.accelerator.is_main_process else True,
    ) as bar:
        began, before, first = time.monotonic(), training.seconds, training.step
        rows: list[dict[str, Any]] = []
        while training.step < steps:
            with _memory_said(training.options):
                rows.append(_one_step(training, counts))
            training.seconds = before + time.monotonic() - began
            if training.step == first + 1 < steps and training.accelerator.is_main_process:
                _say_how_long(training, training.seconds - before)
            bar.update(of_a_step)
            bar.set_postfix(_shown(rows[-1]))
            if len(rows) == LOG_EVERY or training.step in (training.options.local_steps, steps):
                training.log.append(_mean(rows, training))
                rows = []
            if training.step % checkpoint_every == 0 or training.step == steps:
                _save(training, folder, identity)


def _one_step(training: Training, counts: Density | None) -> dict[str, Any]:
    """Change the weights once."""
    options = training.options
    torch.manual_seed(options.seed * 1_000_003 + training.step)  # so that a resumed run draws what it would have drawn
    if training.gates is not None:
        training.gates.refresh(training.model)
    local, begun = training.is_local, 0 if training.is_local else options.local_steps
    done, of = training.step - begun, (options.local_steps if local else options.steps) - begun
    share = min(1.0, (done + 1) / WARM_UP) * (1 - 0.95 * done / of)
    for group in training.optimiser.param_groups:
        group["lr"] = group["base"] * share
    loss, density = _forward_and_backward(training, counts)
    learned = training.gates.learned if training.gates else {}
    for held in learned.values():
        if held.grad is not None:
            held.grad = training.accelerator.reduce(held.grad, "mean")
    body = [parameter for name, parameter in training.parameters.items() if name not in learned]
    norm = training.accelerator.clip_grad_norm_(body, 1.0)
    if not (math.isfinite(loss) and math.isfinite(float(norm if norm is not None else 0.0))):
        kept = f"the checkpoint of step {training.saved} is kept" if training.saved else "there is no checkpoint yet"
        raise InputError(
            f"lr: the loss, or its gradient, is not a number at step {training.step + 1}; {kept}; try a smaller `lr` "
            "in another folder"
        )
    training.optimiser.step()
    training.optimiser.zero_grad()
    if training.gates is not None:
        training.gates.steer(density)
    training.step += 1
    by_layer: dict[str, list[float]] = {}
    for site, value in density.items():
        by_layer.setdefault("head" if site.is_head else str(site.layer), []).append(value)
    layers = {layer: sum(values) / len(values) for layer, values in by_layer.items()}
    overall = sum(density.values()) / len(density) if density else 1.0
    return {"loss": loss, "density": overall, "layers": layers, "local": local}


def _forward_and_backward(training: Training, counts: Density | None) -> tuple[float, dict[Any, float]]:
    """The loss of the step's windows, and the densities; gradients are in the parameters."""
    accelerator, options, device = training.accelerator, training.options, training.model.device
    windows = training.texts.draw(training.step, options.batch)
    windows = windows[accelerator.process_index :: accelerator.num_processes].to(device)
    if counts is not None:
        counts.reset()
    with torch.autocast(device.type, training.dtype, enabled=training.dtype != torch.float32):
        loss = _loss(training, windows)
    accelerator.backward(loss)
    mean = float(accelerator.reduce(loss.detach(), "mean"))
    if training.gates is None or counts is None:
        return mean, {}
    found = training.gates.densities(counts)
    shared = accelerator.reduce(torch.tensor(list(found.values()), device=device), "mean").tolist()
    return mean, dict(zip(found, shared, strict=True))


def _loss(training: Training, windows: torch.Tensor) -> torch.Tensor:
    """Of windows [batch, tokens] in this step's stage."""
    model, teacher = training.running_model, training.teacher
    if training.is_local:
        later = 2 * training.step >= training.options.local_steps
        return local_loss(training.model, teacher, windows, own_inputs=later, run=model)
    output = model(input_ids=windows, use_cache=False)
    dense = Loss(training.options.objective, lambda ids: teacher(input_ids=ids, use_cache=False).logits)
    return dense(output, windows)


@contextmanager
def _memory_said(options: Options) -> Iterator[None]:
    """Turn a shortage of memory into a line for the user."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error)):
            raise
        raise InputError(
            f"batch: no memory for a step of {options.batch} windows of {options.window} tokens; use a smaller "
            "`batch` or `window`, `gradient_checkpointing`, or `lora`"
        ) from error


def _say_how_long(training: Training, seconds: float) -> None:
    """Say how long the steps that are left will take if each takes so many seconds."""
    options, steps = training.options, training.options.steps - training.step
    of_a_step = options.batch * options.window
    say(
        f"training {options.method}: {steps * of_a_step:,} more tokens in {steps} steps, about "
        f"{_duration(steps * seconds)} by the first step ({of_a_step / seconds:.0f} tokens/s)"
    )


def _resume(training: Training, folder: Path, identity: dict[str, Any]) -> None:
    record = read_checkpoint(folder, identity)
    if record is None:
        return
    load_checkpoint(folder, record, training.parameters, training.optimiser)
    training.step, training.log, training.seconds = record["step"], record["log"], record["seconds"]
    training.saved = training.step
    if training.gates is not None:
        training.gates.set_numbers(record["numbers"])


def _save(training: Training, folder: Path, identity: dict[str, Any]) -> None:
    if training.accelerator.is_main_process:
        record = {
            "identity": identity,
            "step": training.step,
            "seconds": training.seconds,
            "numbers": training.gates.numbers() if training.gates else {},
            "log": training.log,
        }
        save_checkpoint(folder, record, training.parameters, training.optimiser)
    training.saved = training.step
    training.accelerator.wait_for_everyone()


def _mean(rows: list[dict[str, Any]], training: Training) -> dict[str, Any]:
    """One row of the log from several steps."""
    count, tokens = len(rows), training.step * training.options.batch * training.options.window
    layers = {layer: sum(row["layers"][layer] for row in rows) / count for layer in rows[0]["layers"]}
    means = {key: sum(row[key] for row in rows) / count for key in ("loss", "density")}
    seconds = round(training.seconds, 1)
    about = {"layers": layers, "seconds": seconds, "local": rows[0]["local"]}
    return {"step": training.step, "tokens": tokens, **means, **about}


def _shown(row: dict[str, Any]) -> dict[str, str]:
    return {"loss": f"{row['loss']:.4f}"} | ({"density": f"{row['density']:.3f}"} if row["layers"] else {})


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
