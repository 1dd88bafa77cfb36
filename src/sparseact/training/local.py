"""Local loss: L = mean over layers and tokens of |y - y_dense|^2 / |y_dense - x|^2, of layers that all get the same x.

Each layer learns what the dense one puts out for the same input: no gradient goes from one layer to another, and there
are no logits. What a layer adds to the residual stream is the measure, so that no layer and no token counts for more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparseact.sites import dissect, skip_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def local_loss(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    ids: Tensor,
    *,
    own_inputs: bool,
    run: Callable[..., Any] | None = None,
) -> Tensor:
    """The loss of a model that learns on tokens [batch, tokens].

    Args:
        model: that learns, in the hooks that mask it.
        teacher: the dense model.
        own_inputs: whether x is what enters the layers of the model that learns, or of the dense one.
        run: what to call in the model's place, such as what accelerate made of it.
    """
    with ExitStack() as stack:
        stack.enter_context(skip_logits(model))
        stack.enter_context(skip_logits(teacher))

        def learner(inputs: Mapping[str, Tensor] | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            with layers_of(model, inputs) as seen:
                (run or model)(input_ids=ids, use_cache=False)
            return seen

        def dense(inputs: Mapping[str, Tensor] | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            with torch.no_grad(), layers_of(teacher, inputs) as seen:
                teacher(input_ids=ids, use_cache=False)
            return seen

        first, second = (learner, dense) if own_inputs else (dense, learner)
        inputs, outputs = first(None)
        _, others = second(inputs)
    ours, theirs = (outputs, others) if own_inputs else (others, outputs)
    return torch.stack([_share(ours[name], theirs[name], x) for name, x in inputs.items()]).mean()


@contextmanager
def layers_of(
    model: PreTrainedModel, inputs: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """What enters and what leaves each layer [batch, tokens, hidden] of a pass, by name; what enters is detached.

    Args:
        inputs: what is to enter in place of what the layer before put out.
    """
    entered: dict[str, Tensor] = {}
    left: dict[str, Tensor] = {}

    def enter(name: str) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            found = args[0] if args else kwargs["hidden_states"]
            entered[name] = x = (found if inputs is None else inputs[name]).detach()
            return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            left[name] = output[0] if isinstance(output, tuple) else output

        return hook

    with ExitStack() as hooks:
        for block in dissect(model)[0]:
            hooks.callback(block.module.register_forward_pre_hook(enter(block.path), with_kwargs=True).remove)
            hooks.callback(block.module.register_forward_hook(leave(block.path)).remove)
        yield entered, left


def _share(y: Tensor, dense: Tensor, x: Tensor) -> Tensor:
    """The mean over tokens of the error's share of what the dense layer adds."""
    error, added = (part.float().square().sum(dim=-1) for part in (y - dense, dense - x))
    return (error / added.clamp(min=1e-12)).mean()
