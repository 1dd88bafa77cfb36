"""Gates while they are trained: gradients, constants, steering; and transformers' own Trainer."""

import math
from dataclasses import replace

import pytest
import torch

from sparseact.calibration.fit import read_text
from sparseact.masked.apply import run_gates
from sparseact.policies import CATS, TEAL, BlockRouter, FirstLook, Gate, Phases
from sparseact.recipes.selectors import BELOW_ALL, StatisticalTopK, Threshold, TopK, TopP
from sparseact.sites import find_sites
from sparseact.testing import tiny_model, tiny_tokenizer
from sparseact.training.gates import LiveGates, steered
from sparseact.training.objectives import Loss, distil, language_model
from sparseact.training.parameters import dense_teacher
from sparseact.training.trainer_callback import SparseTraining

IDS = torch.randint(3, 64, (2, 17), generator=torch.Generator().manual_seed(1))


def live(model, policy, text_file):
    text = text_file.read_text()
    recipe = policy.calibrate(model, tiny_tokenizer(), text)
    return LiveGates(policy, recipe, model), read_text(model, tiny_tokenizer(), text).windows


# --- the hooks


def test_what_is_off_has_no_gradient_and_its_constant_has():
    model, shift = tiny_model("llama"), torch.zeros(48, requires_grad=True)
    site = find_sites(model, "mlp")[0]
    gates = {site: Gate(site, Threshold(1e9), shift=shift)}  # all are off
    with run_gates(model, gates, Phases(dense_first=0)):
        model(IDS).logits.square().sum().backward()
    assert shift.grad.abs().min() > 0
    assert model.model.layers[0].mlp.gate_proj.weight.grad.abs().max() == 0
    assert model.model.layers[1].mlp.gate_proj.weight.grad.abs().max() > 0


def test_a_gate_that_is_replaced_between_two_passes_is_used():
    model = tiny_model("llama")
    site = find_sites(model, "mlp")[0]
    gates = {site: Gate(site, TopK(0.0))}
    with torch.no_grad():
        dense = model(IDS).logits
        with run_gates(model, gates, Phases()) as density:
            assert torch.equal(model(IDS).logits, dense)
            gates[site] = replace(gates[site], selector=TopK(0.5))
            density.reset()
            assert not torch.equal(model(IDS).logits, dense)
    assert density.share_off(gates[site]) == pytest.approx(0.5 * 16 / 17)  # the first token is dense


def test_the_shift_is_part_of_the_score_only_where_the_units_are_the_signal(text_file):
    model = tiny_model("llama")
    (gate, *_), x = CATS(0.5).gates(model), torch.tensor([1.0, -2.0])
    shifted = replace(gate, shift=torch.tensor([5.0, 5.0]))
    assert shifted.score(x).tolist() == [1, 2]
    assert replace(shifted, signal=TEAL(0.5).gates(model)[0].signal).score(x).tolist() == [4, 7]


# --- constants, thresholds, scales


def test_constants_begin_with_the_mean_of_what_is_off_and_lower_the_loss(text_file):
    model = tiny_model("llama")
    gates, windows = live(model, CATS(0.6), text_file)
    site = next(iter(gates.by_site))
    seen = {"x": [], "on": []}
    with torch.no_grad():
        dense = model(windows).logits
        with gates.running(model):
            without = distil(model(windows).logits, dense)
        gate, down = gates.by_site[site], model.get_submodule(site.module)
        hook = down.register_forward_pre_hook(lambda _, args: seen["x"].append(args[0]))
        source = model.get_submodule(gate.signal.module)
        other = source.register_forward_hook(
            lambda _, __, y: seen["on"].append(torch.nn.functional.silu(y).abs() > gate.selector.value)
        )
        model(windows[:4])  # the first layer's inputs are the dense ones
        hook.remove()
        other.remove()
        gates.learn_constants(model, windows)
        with gates.running(model):
            having = distil(model(windows).logits, dense)
    off = ~seen["on"][0]
    off[:, 0] = False  # dense
    expected = (seen["x"][0] * off).sum(dim=(0, 1)) / off.sum(dim=(0, 1)).clamp(min=1)
    torch.testing.assert_close(gates.constants[site.name].detach(), expected, atol=1e-5, rtol=1e-4)
    assert having < without


def test_scales_follow_the_weights(text_file):
    model = tiny_model("llama")
    gates, _ = live(model, FirstLook(0.5), text_file)
    site = next(iter(gates.by_site))
    with torch.no_grad():
        model.get_submodule(site.module).weight.mul_(2)
    before = gates.by_site[site].scale
    gates.refresh(model)
    torch.testing.assert_close(gates.by_site[site].scale, 2 * before)


def test_a_selector_is_steered_by_its_own_law():
    assert steered(Threshold(2.0), 0.5, 0.3).value == pytest.approx(2 * math.exp(0.5 * 0.2))
    assert steered(StatisticalTopK(0.3), 0.5, 0.3).multiplier == pytest.approx(0.4)
    assert steered(TopP(0.9), 0.5, 0.3).mass == pytest.approx(0.9 * math.exp(-0.5 * 0.2))
    assert steered(TopP(0.99), 0.1, 0.9).mass == 1.0
    for fixed in (TopK(0.5), Threshold(-1.0), StatisticalTopK(BELOW_ALL)):
        assert steered(fixed, 0.5, 0.3) == fixed


def test_numbers_of_a_checkpoint_come_back_bit_for_bit(text_file):
    model = tiny_model("llama")
    gates, _ = live(model, CATS(0.6), text_file)
    numbers = gates.numbers()
    gates.steer(dict.fromkeys(gates.by_site, 0.9))
    assert gates.numbers() != numbers
    gates.set_numbers(numbers)
    assert gates.numbers() == numbers


# --- routers


def test_a_router_learns_what_more_of_each_block_would_change(text_file):
    """By the chain rule in the first layer: a score counts as how far its block is on, and nothing else changes."""
    model = tiny_model("llama")
    gates, _ = live(model, BlockRouter(0.5, block=16), text_file)
    site, gate = next(iter(gates.by_site.items()))
    seen = {}
    mlp, down = model.model.layers[0].mlp, model.get_submodule(site.module)
    with torch.no_grad(), gates.running(model):
        frozen = model(IDS).logits
    gates.learn_routers()
    weight, bias = gates.by_site[site].router
    assert set(gates.learned) == {f"router:mlp.{layer}.router.{part}" for layer in range(3) for part in (0, 1)}
    hooks = [
        mlp.register_forward_pre_hook(lambda _, args: seen.update(x=args[0].detach())),
        down.register_forward_pre_hook(lambda _, args: seen.update(h=args[0].detach())),
    ]
    with gates.running(model):
        logits = model(IDS).logits
        hooks.append(down.register_forward_pre_hook(lambda _, args: args[0].retain_grad() or seen.update(kept=args[0])))
        model(IDS).logits.square().mean().backward()
    for hook in hooks:
        hook.remove()
    assert torch.equal(logits, frozen)
    score = torch.sigmoid(seen["x"] @ weight.detach().T + bias.detach())
    worth = seen["kept"].grad * (seen["h"] - gate.shift)
    by_block = torch.stack([worth[..., gate.blocks == block].sum(dim=-1) for block in range(3)], dim=-1)
    expected = (by_block * score * (1 - score))[:, 1:].sum(dim=(0, 1))  # the first token is dense
    torch.testing.assert_close(bias.grad, expected, atol=1e-7, rtol=1e-4)
    assert weight.grad.abs().min() > 0


# --- losses and the Trainer


def test_losses_by_hand():
    dense = torch.tensor([[[1.0, 1.0], [2.0, 0.0]]])
    logits = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    p = math.exp(2) / (1 + math.exp(2))
    kl = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert distil(logits, dense).item() == pytest.approx(kl / 2)
    assert distil(logits, dense, torch.tensor([[False, True]])).item() == pytest.approx(kl)
    assert language_model(dense, torch.tensor([[0, 1]])).item() == pytest.approx(math.log(2))
    both = Loss("both", lambda ids: dense)({"logits": logits}, torch.tensor([[0, 1]]))
    assert both.item() == pytest.approx((kl / 2 + math.log(2)) / 2)


def test_masks_are_on_and_steered_inside_the_trainer_of_transformers(tmp_path, text_file, capsys):
    from transformers import Trainer, TrainingArguments

    model = tiny_model("llama")
    teacher = dense_teacher(model, shared=False)
    gates, windows = live(model, CATS(0.6), text_file)
    gates.learn_constants(model, windows)
    constants = {name: held.detach().clone() for name, held in gates.constants.items()}
    numbers = gates.numbers()
    callback = SparseTraining(model, gates)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=8, per_device_train_batch_size=2, logging_steps=4, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, learning_rate=1e-3,
    )  # fmt: skip
    rows = [{"input_ids": row, "labels": row} for row in windows[:, :48]]
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows,
        callbacks=[callback],
        compute_loss_func=Loss("distil", lambda ids: teacher(ids).logits),
    )
    trainer.train()
    assert callback.density == pytest.approx(0.4, abs=0.06)
    assert "'density': '0.4" in capsys.readouterr().out
    assert gates.numbers() != numbers
    assert all(not torch.equal(constants[name], held) for name, held in gates.constants.items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    recipe = gates.recipe(model, windows, {})
    with torch.no_grad(), recipe(model) as density:
        model(windows)
    assert density.achieved() == pytest.approx(0.6, abs=0.05)


def test_hooks_are_gone_after_an_error(text_file):
    model = tiny_model("llama")
    gates, _ = live(model, CATS(0.6), text_file)
    with pytest.raises(ZeroDivisionError), gates.running(model):
        raise ZeroDivisionError
    assert not any(module._forward_pre_hooks for module in model.modules())
