"""Masks in transformers' own Trainer: on while it trains, and thresholds steered after each step."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparseact.masked.density import Density
from sparseact.training.gates import LiveGates

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SparseTraining(TrainerCallback):
    """Keeps a model masked while transformers' Trainer trains it::

        recipe = policy.calibrate(model, tokenizer, text)
        gates = LiveGates(policy, recipe, model)
        gates.learn_constants(model, windows)  # if they shall be
        gates.learn_routers()  # if there are any
        Trainer(model, ..., callbacks=[SparseTraining(model, gates)], compute_loss_func=Loss("distil", teacher)).train()
        recipe = gates.recipe(model, windows, {})

    The masks are off again when the training has ended; after an error, `close` takes them off. `Trainer` does not know
    constants and routers: they have an optimiser of their own here, and are not in its checkpoints.

    Attributes:
        density: mean over the gates of the last step.
    """

    def __init__(
        self, model: PreTrainedModel, gates: LiveGates, *, constants_lr: float = 5e-4, router_lr: float = 1e-3
    ) -> None:
        """The model that the Trainer trains, and the gates that mask it."""
        self.density = 1.0
        self._model, self._gates = model, gates
        self._hooks = ExitStack()
        self._counts: Density | None = None
        rates = ((gates.constants, constants_lr), (gates.routers, router_lr))
        groups = [{"params": list(held.values()), "lr": lr} for held, lr in rates if held]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=0.0) if groups else None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Masks on."""
        self._counts = self._hooks.enter_context(self._gates.running(self._model))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count anew, with what the gates hold of the weights as they are now."""
        assert self._counts is not None
        self._counts.reset()
        self._gates.refresh(self._model)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Steer the thresholds, and move constants and routers."""
        assert self._counts is not None
        density = self._gates.densities(self._counts)
        self.density = sum(density.values()) / len(density)
        self._gates.steer(density)
        if self._optimiser is not None:
            self._optimiser.step()
            self._optimiser.zero_grad()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """The density beside the loss."""
        if logs is not None:
            logs["density"] = round(self.density, 4)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Masks off."""
        self.close()

    def close(self) -> None:
        """Masks off, wherever the training stands."""
        self._hooks.close()
