"""What a training is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch

from sparseact.calibration.policy import GatePolicy
from sparseact.errors import InputError, unknown_name
from sparseact.policies import known_policies, make_policy, summary
from sparseact.policies.griffin import Griffin
from sparseact.training.text import HELD_OUT

Objective = Literal["distil", "lm", "both"]
DType = Literal["auto", "float32", "bfloat16"]

LEAST_MEASURED = 2
"""Held-out windows of a text that are measured however short the run."""

METHODS_WITHOUT_RULE = {"dense": "Dense twin: no mask; what the same tokens do to the model without one."}
"""Methods that leave no recipe."""


def methods() -> dict[str, str]:
    """What can be trained, by name, with a line about each: all policies that decide token by token, and `dense`."""
    rules = {
        name: summary(kind)
        for name, kind in known_policies().items()
        if isinstance(kind, type) and issubclass(kind, GatePolicy) and not issubclass(kind, Griffin)
    }
    return METHODS_WITHOUT_RULE | rules


@dataclass(frozen=True)
class Options:
    """How to train. What it says is part of a run: a checkpoint of other options is not gone on from.

    Attributes:
        method: a policy, or `dense`.
        sparsity: of the policy.
        policy_options: more of the policy's options.
        tokens: to train on; 0 writes the untrained start.
        local_tokens: to train on before that, each layer on its own (`local_loss`); half of them with what enters the
            dense model's layers, half with what enters its own.
        objective: `distil` from the dense model itself, `lm` on the text, `both` half and half.
        proportions: of the texts, one number each; equal if empty.
        lora: rank of the adapters that are trained, merged at the end; 0 trains the whole model without embeddings.
        lr: learning rate of AdamW, after the warm-up; it falls in a straight line to 5% of that. A mask that
            costs little at the start loses by a high one, see docs/howto/train.md.
        constants_lr: learning rate of the constants in place of what is off; 0 leaves them out.
        router_lr: learning rate of routers; 0 leaves them as they were calibrated.
        batch: windows of a step.
        window: tokens of a window.
        seed: of the windows and the adapters.
        dtype: of the products: bfloat16, float32, or auto, which is bfloat16 where the processor multiplies in it.
        gradient_checkpointing: compute activations twice to keep fewer.
    """

    method: str = "first-look"
    sparsity: float = 0.5
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 100_000
    local_tokens: int = 0
    objective: Objective = "distil"
    proportions: tuple[float, ...] = ()
    lora: int = 0
    lr: float = 5e-5
    constants_lr: float = 5e-4
    router_lr: float = 1e-3
    batch: int = 2
    window: int = 512
    seed: int = 0
    dtype: DType = "auto"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            InputError: names the option.
        """
        _check_method(self.method)
        if self.objective not in get_args(Objective):
            raise unknown_name("objective", self.objective, get_args(Objective))
        if self.dtype not in get_args(DType):
            raise unknown_name("dtype: unknown type", self.dtype, get_args(DType))
        rates = {"lr": self.lr, "constants_lr": self.constants_lr, "router_lr": self.router_lr}
        for name, value in rates.items():
            if not (math.isfinite(value) and value >= 0) or (name == "lr" and value == 0):
                raise InputError(f"{name}: {value} is not a positive number")
        for name, least in (("batch", 1), ("window", 8), ("lora", 0), ("tokens", 0), ("local_tokens", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: {getattr(self, name)} is less than {least}")
        self._check_steps()
        if self.method != "dense":
            make_policy(self.method, self.sparsity, self.policy_options)

    def _check_steps(self) -> None:
        for name in ("tokens", "local_tokens"):
            if 0 < getattr(self, name) < self.batch * self.window:
                raise InputError(
                    f"{name}: {getattr(self, name)} are fewer than one step's, {self.batch} windows of {self.window} "
                    "tokens; give more, or a smaller `batch` or `window`"
                )
        if self.method == "dense" and self.local_tokens:
            raise InputError(f"local_tokens: {self.local_tokens}, but the dense twin has no mask to make up for; use 0")
        if self.method == "dense" and self.objective == "distil":
            raise InputError("objective: distil, but the dense twin is the model that it would learn from; use lm")

    @property
    def steps(self) -> int:
        """How often the weights are changed."""
        return self.local_steps + self.tokens // (self.batch * self.window)

    @property
    def local_steps(self) -> int:
        """How many of the steps, the first ones, are local."""
        return self.local_tokens // (self.batch * self.window)

    def measured_windows(self, texts: int) -> int:
        """Held-out windows of each of so many texts that are measured.

        A measured token costs as much as a trained one: four passes forward, or two forward and one backward. So all
        texts together have a quarter of the tokens that are trained on, each of them `LEAST_MEASURED` windows at least.
        """
        quarter = self.tokens // (4 * self.window * texts)
        return min(HELD_OUT, max(LEAST_MEASURED, quarter))

    def record(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self) | {
            "policy_options": dict(self.policy_options),
            "proportions": list(self.proportions),
        }

    def autocast_dtype(self, device: torch.device) -> torch.dtype:
        """What products are computed in on a device."""
        if self.dtype == "auto":
            return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32


def _check_method(method: str) -> None:
    if method in methods():
        return
    if method in known_policies():
        raise InputError(
            f"method: {method} chooses its units from a prompt, or is no gate per site, so it cannot be trained; "
            "sparseact train --list names those that can"
        )
    raise unknown_name("method: unknown method", method, methods())


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torches do not say
    return device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
