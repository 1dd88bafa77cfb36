"""Tiny models, recipes for them, and what their MLPs do, read from the modules of transformers themselves."""

import random
from functools import cache

import torch
from transformers.pytorch_utils import Conv1D

from sparseact.calibration.neurons import find_neurons
from sparseact.policies import POLICIES
from sparseact.sites import find_sites
from sparseact.testing import tiny_model, tiny_tokenizer

OPTIONS = {"block-router": {"block": 4}}
"""By policy, what suits tiny models."""


def letters(seed: int, count: int = 2600) -> str:
    letters = random.Random(seed)
    return "".join(letters.choice("abcdefghijklmnopqrstuvwxyz ,.") for _ in range(count))


def held_out_ids(rows: int = 16, width: int = 128) -> torch.Tensor:
    return tiny_tokenizer()(letters(1), return_tensors="pt").input_ids[0, : rows * width].view(rows, width)


@cache
def model_of(family: str):
    return tiny_model(family)


@cache
def recipe_of(name: str, family: str, sparsity: float = 0.5):
    policy = POLICIES[name](sparsity=sparsity, **OPTIONS.get(name, {}))
    return policy.calibrate(model_of(family), tiny_tokenizer(), letters(0))


def mlp_of(model, layer: int):
    """(gate, up, down, act) as (weight, bias) pairs; up is None in an ungated MLP."""
    sites = find_sites(model, "mlp")
    block = model.get_submodule(sites[layer].block)
    mlp = getattr(block, "mlp", getattr(block, "shared_mlp", block))

    def pair(module):
        weight = module.weight.detach()
        return (weight.T if isinstance(module, Conv1D) else weight), getattr(module, "bias", None)

    ungated = (("fc1", "fc2"), ("c_fc", "c_proj"), ("dense_h_to_4h", ""), ("up_proj", "down_proj"))
    for names in (("gate_proj", "up_proj", "down_proj"), *ungated):
        if hasattr(mlp, names[0]):
            break
    if hasattr(mlp, "input_linear"):
        gate, up = mlp.input_linear.weight.detach().chunk(2)
        return (gate, None), (up, None), pair(mlp.output_linear), mlp.activation
    if hasattr(mlp, "gate_up_proj"):
        gate, up = mlp.gate_up_proj.weight.detach().chunk(2)
        return (gate, None), (up, None), pair(mlp.down_proj), mlp.activation_fn
    act = next(getattr(mlp, name) for name in ("act_fn", "activation_fn", "act") if hasattr(mlp, name))
    if hasattr(mlp, "gate_proj"):
        return pair(mlp.gate_proj), pair(mlp.up_proj), pair(mlp.down_proj), act
    down = mlp.dense_4h_to_h if hasattr(mlp, "dense_4h_to_h") else getattr(mlp, names[1])
    return pair(getattr(mlp, names[0])), None, pair(down), act


def watch(model, recipe, ids):
    """Of one sparse forward pass, per layer: x, what reached down, and what left it; and the density."""
    seen = {"x": [], "h": [], "y": []}  # blocks run in order, so layers come in order, shared modules too

    def note_input(_, args, __):
        seen["x"].append(args[0].reshape(ids.shape[1], -1))  # OPT flattens its MLP

    def note_down(_, args, output):  # a forward hook sees the input after the mask
        seen["h"].append(args[0].reshape(ids.shape[1], -1))
        seen["y"].append(output.reshape(ids.shape[1], -1))

    first = {model.get_submodule(neurons.inputs.module) for neurons in find_neurons(model)}
    down = {model.get_submodule(neurons.site.module) for neurons in find_neurons(model)}
    with torch.no_grad(), recipe(model) as density:
        hooks = [module.register_forward_hook(note_input) for module in first]
        hooks += [module.register_forward_hook(note_down) for module in down]
        model(ids)
        for hook in hooks:
            hook.remove()
    return list(zip(*seen.values(), strict=True)), density
