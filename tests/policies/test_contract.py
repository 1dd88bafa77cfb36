"""The contract that every policy keeps, on tiny models of several families; and that it can be broken."""

from dataclasses import dataclass, fields, replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.policies import POLICIES, TEAL, Recipe, known_policies, make_policy, summary
from sparseact.testing import DISTINCT as ALL_FAMILIES
from sparseact.testing import check_policy, tiny_model, tiny_tokenizer
from sparseact.utils import registry

FAMILIES = ("llama", "phi", "gemma3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "opt")))


UNGATED = ("phi", "gpt2", "opt")
NEEDS_AN_UP_PROJECTION = ("chess", "countdown")
GATE_THE_HEAD = [name for name, policy in POLICIES.items() if "lm_head" in {field.name for field in fields(policy)}]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_keeps_the_contract(name, family):
    policy, model = POLICIES[name](sparsity=0.5), tiny_model(family)
    if name in NEEDS_AN_UP_PROJECTION and family in UNGATED:
        with pytest.raises(UnsupportedModelError, match=name):
            check_policy(policy, model, tiny_tokenizer())
    else:
        check_policy(policy, model, tiny_tokenizer())


@pytest.mark.parametrize("name", GATE_THE_HEAD)
def test_a_policy_that_gates_the_head_too_keeps_the_contract(name):
    check_policy(POLICIES[name](sparsity=0.5, lm_head=True), tiny_model("gemma3"), tiny_tokenizer())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_that_chooses_heads_keeps_the_contract(family):
    check_policy(POLICIES["griffin"](sparsity=0.5, heads=0.5), tiny_model(family), tiny_tokenizer())


@pytest.mark.slow
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_contract_holds_with_the_head_in_every_family(family):
    check_policy(POLICIES["sparseact"](sparsity=0.5, lm_head=True), tiny_model(family), tiny_tokenizer())


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_says_what_it_is_in_a_line(name):
    assert POLICIES[name].name == name
    assert 20 < len(summary(POLICIES[name])) < 120


def test_a_model_comes_with_its_tokenizer():
    with pytest.raises(InputError, match="go together"):
        check_policy(TEAL(sparsity=0.5), tiny_model("llama"))


def test_the_policy_of_the_docs_keeps_the_contract():
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
    (block,) = [part for part in page.split("```python\n")[1:] if "class LargestInputs" in part]
    names = {"__name__": __name__}
    exec(block.partition("```")[0], names)
    check_policy(names["LargestInputs"](sparsity=0.5))


def test_the_docs_name_every_policy():
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
    table = page.partition("| policy | units |")[2].partition("\n\n")[0]
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == list(POLICIES)


# Policies that break the contract, one clause each.


@dataclass(frozen=True)
class _Broken(TEAL):
    """TEAL with a fault."""


class _Unwritable(_Broken):
    def calibrate(self, *arguments):
        recipe = super().calibrate(*arguments)
        return replace(recipe, meta={**recipe.meta, "model": object()})


class _LeavesAHook(_Broken):
    def calibrate(self, model, *arguments):
        model.register_forward_hook(lambda *_: None)
        return super().calibrate(model, *arguments)


class _NeverDense(_Broken):
    def calibrate(self, *arguments):
        return replace(TEAL(max(self.sparsity, 0.1)).calibrate(*arguments), sparsity=self.sparsity)


class _Overshoots(_Broken):
    def calibrate(self, *arguments):
        return replace(TEAL(self.sparsity * 1.2).calibrate(*arguments), sparsity=self.sparsity)


class _BackToFront(_Broken):
    """Keeps the smallest inputs where less is asked for."""

    def calibrate(self, *arguments):
        recipe = super().calibrate(*arguments)
        if 0 < self.sparsity < 0.5:
            return replace(TEAL(0.9).calibrate(*arguments), sparsity=self.sparsity)
        return recipe


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (_Unwritable, "cannot be written as JSON"),
        (_LeavesAHook, "left hooks on the model"),
        (_NeverDense, "at sparsity 0 the logits"),
        (_Overshoots, "requested 0.5"),
        (_BackToFront, "a quarter of the sparsity costs"),
    ],
)
def test_a_broken_policy_is_caught(policy, said):
    with pytest.raises(AssertionError, match=said):
        check_policy(policy(sparsity=0.5))


# Policies of other packages.


@pytest.fixture
def other_packages(monkeypatch):
    points = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    return points


def test_a_policy_of_another_package_is_found_by_entry_point(other_packages):
    other_packages.append(EntryPoint("tail", "sparseact.policies.teal:TEAL", "sparseact.policies"))
    assert known_policies()["tail"] is TEAL
    assert make_policy("tail", 0.25) == TEAL(0.25)


def test_an_entry_point_cannot_replace_a_built_in_policy(other_packages):
    other_packages.append(EntryPoint("wina", "sparseact.policies.teal:TEAL", "sparseact.policies"))
    assert known_policies()["wina"] is POLICIES["wina"]


def test_an_entry_point_that_cannot_be_imported_is_one_line(other_packages):
    other_packages.append(EntryPoint("tail", "no_such_package:TEAL", "sparseact.policies"))
    with pytest.raises(InputError, match=r"policies: tail \(no_such_package:TEAL\) cannot be imported"):
        known_policies()


def test_make_policy_takes_options_and_phases():
    policy = make_policy("wina", 0.3, {"as_released": True}, dense_prompt=True, dense_first=4)
    assert (policy.sparsity, policy.as_released) == (0.3, True)
    assert (policy.phases.prefill, policy.phases.dense_first) == (False, 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tael", 0.4), "Did you mean teal"),
        (("teal", 1.4), "sparsity: 1.4"),
        (("wina", 0.4, {"as_relesed": True}), "Did you mean as_released"),
        (("wina", 0.4, {"as_released": 3}), "3 is not a bool"),
        (("scap", 0.4, {"center": "mod"}), "Did you mean mode"),
    ],
)
def test_make_policy_refuses_what_it_does_not_know(arguments, said):
    with pytest.raises(InputError, match=said):
        make_policy(*arguments)


# Compiled models.


@pytest.mark.parametrize("compiled", [torch.compile, lambda model: model.compile() or model])
def test_a_compiled_model_is_refused_in_one_line(compiled):
    recipe = _recipe()
    model = compiled(tiny_model("llama"))
    with pytest.raises(InputError, match=r"compiled by torch\.compile") as caught:
        recipe(model)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"compiled by torch\.compile"):
        TEAL(sparsity=0.5).calibrate(model, tiny_tokenizer(), TEXT)


TEXT = "The quick brown fox jumps over the lazy dog. " * 20


def _recipe() -> Recipe:
    return TEAL(sparsity=0.5).calibrate(tiny_model("llama"), tiny_tokenizer(), TEXT)
