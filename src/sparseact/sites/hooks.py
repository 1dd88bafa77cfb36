"""Read and change the units of a model while it runs: one pre-hook per linear, gone afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparseact.errors import InputError, SparseactError
from sparseact.recipes.site import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OnUnits = Callable[[Site, Tensor], Tensor]
"""Takes a site and its units' outputs [batch, tokens, units, unit_size]; returns what replaces them."""


@contextmanager
def on_units(model: nn.Module, sites: Sequence[Site], function: OnUnits) -> Iterator[None]:
    """Run `function` on the units of every site in each forward pass inside the `with` block.

    The hooks are removed on the way out, after an exception too. Several contexts may be nested. Code that
    torch.compile made of functions which call the model is not used inside the block.

    Raises:
        InputError: the model is compiled.
        SparseactError: no sites; or on a normal exit, if a forward pass ran none of them (a silent
            no-op otherwise).
    """
    refuse_compiled(model)
    if not sites:
        raise SparseactError("no sites to act on")
    by_module: dict[str, dict[str, Site]] = {}
    for site in sites:
        by_module.setdefault(site.module.removeprefix(site.block + "."), {})[site.block] = site
    tracker = _Tracker()
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    with ExitStack() as hooks:
        # What was compiled around a call of the model knows nothing of hooks that come after it.
        hooks.enter_context(torch.compiler.set_stance("force_eager"))
        for path in dict.fromkeys(site.block for site in sites):
            block = model.get_submodule(path)
            enter = block.register_forward_pre_hook(tracker.enter(path), with_kwargs=True)
            hooks.callback(enter.remove)
            leave = block.register_forward_hook(tracker.leave, always_call=True)
            hooks.callback(leave.remove)
        seen: set[int] = set()
        for site in sites:
            linear = model.get_submodule(site.module)
            if id(linear) not in seen:  # a module that several blocks share gets one hook
                seen.add(id(linear))
                name = site.module.removeprefix(site.block + ".")
                alone = site.block if places[id(linear)] == 1 else ""
                hook = linear.register_forward_pre_hook(tracker.run(by_module[name], alone, function))
                hooks.callback(hook.remove)
        yield
    if tracker.blocks_run and not tracker.sites_run:
        raise SparseactError(f"{type(model).__name__} ran, but none of its {len(sites)} sites was touched")


def refuse_compiled(model: nn.Module) -> None:
    """Compiled code does not run hooks that come after it.

    Raises:
        InputError: torch.compile was applied to the model, its forward, or a module of it.
    """
    for module in model.modules():
        compiled = hasattr(module, "_orig_mod") or module._compiled_call_impl is not None  # noqa: SLF001 - no public name
        if compiled or hasattr(module.forward, "_torchdynamo_orig_callable"):
            raise InputError(
                "the model is compiled by torch.compile, whose code does not run sparseact's hooks; use the model as "
                "it was before (torch.compile(model) leaves it unchanged)"
            )


@contextmanager
def capture(model: nn.Module, sites: Sequence[Site], *, gradient: bool = False) -> Iterator[dict[Site, Tensor]]:
    """Record the units' outputs [batch, tokens, units, unit_size] of the last forward pass.

    With `gradient`, what is recorded is part of the graph and can be differentiated with respect to,
    whether or not the model's parameters require gradients.

    Raises:
        InputError: with `gradient`, the model was made inside torch.inference_mode.
    """
    recorded: dict[Site, Tensor] = {}
    if gradient and any(parameter.is_inference() for parameter in model.parameters()):
        raise InputError("model: it was made inside torch.inference_mode, where nothing can be differentiated")

    def record(site: Site, x: Tensor) -> Tensor:
        if gradient and not x.requires_grad:
            x = x.detach().requires_grad_()
        recorded[site] = x
        return x

    with on_units(model, sites, record):
        yield recorded


@contextmanager
def skip_logits(model: PreTrainedModel) -> Iterator[None]:
    """Leave out the logits of all tokens but the last, which are the most memory of a pass over a text.

    Unlike with `logits_to_keep`, hooks that were put on the head of the model before see what enters it for all tokens.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0][:, -1:], *args[1:]))
    try:
        yield
    finally:
        hook.remove()


class _Tracker:
    """Knows which block runs, and the batch shape, which OPT flattens before its MLP."""

    def __init__(self) -> None:
        self.block = ""
        self.shape: tuple[int, ...] = ()
        self.blocks_run = 0
        self.sites_run = 0

    def enter(self, path: str) -> Callable[..., None]:
        def pre_hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.block, self.shape = path, tuple(hidden.shape[-3:-1])  # Gemma 3n's has several streams before these
            self.blocks_run += 1

        return pre_hook

    def leave(self, *_: object) -> None:
        self.block = ""  # the next block may run the same linear and not have been asked for

    def run(self, sites: dict[str, Site], alone: str, function: OnUnits) -> Callable[..., tuple[Tensor, ...] | None]:
        # `alone`: the only block that has the linear. It is known even where the block's own hooks do not run: in the
        # backward pass, when a block is computed again (gradient checkpointing).
        def pre_hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
            site = sites.get(self.block or alone)
            if site is None:  # shared by a block that was not asked for
                return None
            self.sites_run += 1
            x = args[0]
            units = x.reshape(*self.shape, site.units, site.unit_size)
            changed = function(site, units)
            return (changed.reshape(x.shape), *args[1:])

        return pre_hook
