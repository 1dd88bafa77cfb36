"""What every run-time policy must keep, built in or another package's."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparseact.data import builtin_questions
from sparseact.errors import InputError
from sparseact.evaluation import Evaluation, evaluate
from sparseact.masked.decoding import pad_left
from sparseact.policies import Policy, Recipe, load_recipe
from sparseact.testing.tiny import float64_model, tiny_model, tiny_tokenizer

PROMPT_TOKENS, NEW_TOKENS = 12, 8


def check_policy(
    policy: Policy, model: PreTrainedModel | None = None, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Check a policy against the contract of the built-in ones.

    - it is a frozen dataclass with a name, and its options can be written as JSON;
    - calibrating leaves the model as it was;
    - at sparsity 0 the logits are bit-identical to the dense ones;
    - on text that was not calibrated on, the achieved sparsity is the requested one, within 2 points and
      half a unit of the narrowest site;
    - a quarter of the sparsity costs less than all of it (KL divergence from the dense model);
    - the hooks are gone after the block, after an exception too;
    - a saved recipe, read again, gives bit-identical logits;
    - `generate` with a cache computes what a pass without one does;
    - left-padded prompts in a batch give what each gives alone;
    - it runs in bfloat16.

    Args:
        policy: at a sparsity such as .5.
        model: a small model to check it on; by default a random Llama of three layers. It is copied to
            float64 where rounding would blur the comparison.
        tokenizer: of that model.

    Raises:
        AssertionError: what the policy does not keep.
        InputError: a model without its tokenizer.
        UnsupportedModelError: the policy is not made for such a model.
    """
    if (model is None) != (tokenizer is None):
        raise InputError("check_policy: a model and its tokenizer go together")
    case = _Case(policy, model or tiny_model("llama"), tokenizer or tiny_tokenizer())
    for check in (
        _check_options,
        _check_calibration,
        _check_level_0,
        _check_density,
        _check_loss,
        _check_hooks,
        _check_files,
        _check_generate,
        _check_padding,
        _check_bfloat16,
    ):
        check(case)


@dataclass(frozen=True)
class _Case:
    policy: Any
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def calibrate(self, sparsity: float) -> Recipe:
        text = "\n".join(row["question"] for row in builtin_questions()[0::2])
        recipe = replace(self.policy, sparsity=sparsity).calibrate(self.model, self.tokenizer, text)
        assert isinstance(recipe, Recipe), f"calibrate gave a {type(recipe).__name__}, not a Recipe"
        return recipe

    @cached_property
    def recipe(self) -> Recipe:
        return self.calibrate(self.policy.sparsity)

    @cached_property
    def decodes_only(self) -> bool:
        return not self.recipe.phases.prefill or any(gate.frozen for gate in self.recipe.gates)

    @cached_property
    def ids(self) -> Tensor:
        """A prompt [1, tokens]."""
        text = " ".join(row["question"] for row in builtin_questions()[1::2])
        ids: Tensor = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        return ids[:, :PROMPT_TOKENS]

    @cached_property
    def exact(self) -> PreTrainedModel:
        """The model in float64, where rounding flips no mask, and without a token that ends a text."""
        exact = float64_model(copy.deepcopy(self.model))
        exact.generation_config.eos_token_id = None
        return exact

    def evaluate(self, recipe: Recipe) -> Evaluation:
        """On text that no recipe was calibrated on."""
        text = "\n".join(row["question"] for row in builtin_questions()[1::2])
        return evaluate(self.model, self.tokenizer, text, recipe=recipe, context=128, limit=8, progress=False)


def _check_options(case: _Case) -> None:
    name = type(case.policy).name
    assert isinstance(name, str), "a policy has a name"
    assert type(case.policy).__dataclass_params__.frozen, "a policy is a frozen dataclass"
    try:
        json.dumps([asdict(case.policy), case.recipe.meta])
    except TypeError as error:
        raise AssertionError(f"the options or the recipe's meta cannot be written as JSON: {error}") from error
    assert case.recipe.policy == name, f"the recipe says it is {case.recipe.policy!r}, the policy {name!r}"
    assert case.recipe.sparsity == case.policy.sparsity, "the recipe does not have the policy's sparsity"


def _check_calibration(case: _Case) -> None:
    before, hooks, training = _logits(case.model, case.ids), _hooks(case.model), case.model.training
    case.calibrate(case.policy.sparsity)
    assert torch.equal(_logits(case.model, case.ids), before), "calibrating changed the model"
    assert _hooks(case.model) == hooks, "calibrating left hooks on the model"
    assert case.model.training == training, "calibrating left the model in another mode"
    assert all(parameter.grad is None for parameter in case.model.parameters()), "calibrating left gradients"


def _check_level_0(case: _Case) -> None:
    prompt, answer = _step_logits(case.model, case.ids)
    with case.calibrate(0.0)(case.model) as density:
        sparse_prompt, sparse_answer = _step_logits(case.model, case.ids)
    assert torch.equal(sparse_prompt, prompt), "at sparsity 0 the logits of a prompt are not the dense ones"
    assert torch.equal(sparse_answer, answer), "at sparsity 0 the logits of decoding are not the dense ones"
    assert density.achieved() == 0, f"at sparsity 0, {density.achieved():.1%} were not read"


def _check_density(case: _Case) -> None:
    tolerance = 0.02 + 0.5 / min(gate.site.units for gate in case.recipe.gates)
    achieved = case.evaluate(case.recipe).achieved
    assert abs(achieved - case.policy.sparsity) <= tolerance, (
        f"on unseen text the achieved sparsity is {achieved:.3f}, requested {case.policy.sparsity}"
    )


def _check_loss(case: _Case) -> None:
    some, all_ = (case.evaluate(case.calibrate(case.policy.sparsity * share)).kl for share in (0.25, 1.0))
    assert some < all_, f"a quarter of the sparsity costs {some:.4f} nats, all of it {all_:.4f}"


def _check_hooks(case: _Case) -> None:
    before, hooks = _logits(case.model, case.ids), _hooks(case.model)
    try:
        with case.recipe(case.model):
            _step_logits(case.model, case.ids)
            raise KeyError
    except KeyError:
        pass
    assert _hooks(case.model) == hooks, "hooks stay on the model after an exception"
    assert torch.equal(_logits(case.model, case.ids), before), "the model is not itself after the block"


def _check_files(case: _Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case.recipe.save(folder)
        read = load_recipe(folder)
    with case.recipe(case.model):
        written = _step_logits(case.model, case.ids)
    with read(case.model):
        again = _step_logits(case.model, case.ids)
    assert all(torch.equal(one, other) for one, other in zip(written, again, strict=True)), (
        "a recipe that was saved and read again gives other logits"
    )
    assert read.meta == json.loads(json.dumps(case.recipe.meta)), "the recipe's meta is not the same after reading"


def _check_generate(case: _Case) -> None:
    with case.recipe(case.exact):
        tokens, logits = _generate(case.exact, case.ids)
    with case.recipe(case.exact):
        if case.decodes_only:
            replayed = _replay(case.exact, case.ids, tokens)
        else:
            replayed = _logits(case.exact, torch.cat([case.ids, tokens], dim=1))[:, case.ids.shape[1] - 1 : -1]
    _assert_close(logits, replayed, "generate with a cache does not compute what a pass without one does")


def _check_padding(case: _Case) -> None:
    prompts = [case.ids, case.ids[:, 5:]]
    ids, mask = pad_left(prompts, 0)
    with case.recipe(case.exact):
        _, together = _generate(case.exact, ids, mask)
    for row, prompt in enumerate(prompts):
        with case.recipe(case.exact):
            _, alone = _generate(case.exact, prompt)
        _assert_close(together[row], alone[0], "a left-padded prompt in a batch gives other logits than alone")


def _check_bfloat16(case: _Case) -> None:
    model = copy.deepcopy(case.model).bfloat16()
    with case.recipe(model) as density:
        _, logits = _step_logits(model, case.ids)
    assert logits.isfinite().all(), "in bfloat16 the logits are not finite"
    assert 0 < density.achieved("decode") < 1, "in bfloat16 nothing, or everything, is off"


@torch.no_grad()
def _logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    logits: Tensor = model(ids.to(model.device), use_cache=False).logits
    return logits


@torch.no_grad()
def _step_logits(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of a prompt at once, and of its last tokens when they follow cached ones."""
    output = model(ids[:, :-4].to(model.device), use_cache=True)
    steps = [
        model(ids[:, [place]].to(model.device), past_key_values=output.past_key_values, use_cache=True).logits
        for place in range(ids.shape[1] - 4, ids.shape[1])
    ]
    return output.logits, torch.cat(steps, dim=1)


def _generate(model: PreTrainedModel, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Greedy tokens [batch, new] and the logits [batch, new, vocabulary] that they were chosen by."""
    found: Any = model.generate(
        ids.to(model.device),
        attention_mask=(torch.ones_like(ids) if mask is None else mask).to(model.device),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return found.sequences[:, ids.shape[1] :].cpu(), torch.stack(found.logits, dim=1)


@torch.no_grad()
def _replay(model: PreTrainedModel, ids: Tensor, tokens: Tensor) -> Tensor:
    """The prompt at once, then each token on its own."""
    output = model(ids.to(model.device), use_cache=True)
    logits = [output.logits[:, -1:]]
    for step in range(tokens.shape[1] - 1):
        token = tokens[:, step, None].to(model.device)
        logits.append(model(token, past_key_values=output.past_key_values, use_cache=True).logits)
    return torch.cat(logits, dim=1)


def _assert_close(one: Tensor, other: Tensor, what: str) -> None:
    gap = float((one - other).abs().max() / other.abs().max())
    assert gap < 1e-6, f"{what}: they differ by {gap:.2g}"  # generate hands logits out as float32


def _hooks(model: PreTrainedModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)  # noqa: SLF001 - torch has no public count
        for module in model.modules()
    )
