"""The local loss: layers one by one on the same inputs, no gradient from one to another."""

import pytest
import torch

from sparseact.masked.apply import run_gates
from sparseact.policies import Phases
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import TopK
from sparseact.sites import find_sites
from sparseact.testing import tiny_model
from sparseact.training.local import layers_of, local_loss
from sparseact.training.parameters import dense_teacher

IDS = torch.randint(3, 64, (2, 17), generator=torch.Generator().manual_seed(1))
FAMILIES = ("llama", "gemma3", "phi", "gpt2", "mobillama")


def masked(model, layers=(0, 1, 2)):
    return run_gates(model, {site: Gate(site, TopK(0.5)) for site in find_sites(model, "mlp") if site.layer in layers},
                     Phases())  # fmt: skip


@pytest.mark.parametrize("own_inputs", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_masks_there_is_no_error(family, own_inputs):
    model = tiny_model(family)
    assert local_loss(model, dense_teacher(model, shared=False), IDS, own_inputs=own_inputs).item() < 1e-12


@pytest.mark.parametrize("own_inputs", [False, True])
def test_it_is_the_mean_of_the_layers_own_errors(own_inputs):
    model = tiny_model("llama")
    teacher = dense_teacher(model, shared=False)
    with masked(model):
        found = local_loss(model, teacher, IDS, own_inputs=own_inputs).item()
        with torch.no_grad(), layers_of(model if own_inputs else teacher) as (inputs, _):
            (model if own_inputs else teacher)(IDS)
    errors = []
    for layer in range(3):  # one layer of the model that learns, its input put in
        with masked(model, [layer]), torch.no_grad(), layers_of(model, inputs) as (_, ours):
            model(IDS)
        with torch.no_grad(), layers_of(teacher, inputs) as (_, dense):
            teacher(IDS)
        name = f"model.layers.{layer}"
        for row in range(2):
            for token in range(17):
                y, y_dense, x = (part[name][row, token] for part in (ours, dense, inputs))
                errors.append(float((y - y_dense).norm() ** 2 / (y_dense - x).norm() ** 2))
    assert found == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert found > 1e-3


@pytest.mark.parametrize("own_inputs", [False, True])
def test_no_gradient_goes_from_a_layer_to_the_one_before(own_inputs):
    """With masks in the last layer alone, only the last layer learns."""
    model = tiny_model("llama")
    teacher = dense_teacher(model, shared=False)  # before the hooks, which it would copy
    with masked(model, [2]):
        local_loss(model, teacher, IDS, own_inputs=own_inputs).backward()
    size = [
        max(float(parameter.grad.abs().max()) for parameter in layer.parameters() if parameter.grad is not None)
        for layer in model.model.layers
    ]
    assert size[2] > 1e-3
    assert max(size[:2]) < 1e-6 * size[2]
    assert model.lm_head.weight.grad is None


def test_the_hooks_are_gone():
    model = tiny_model("llama")
    teacher = dense_teacher(model, shared=False)
    local_loss(model, teacher, IDS, own_inputs=True)
    for one in (model, teacher):
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in one.modules())
