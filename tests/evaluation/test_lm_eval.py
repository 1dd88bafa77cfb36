"""lm-evaluation-harness on a sparse model, with a task of our own from a local file."""

import json

import pytest
import torch
from torch.nn.functional import log_softmax

from sparseact.cli import USERS_MISTAKE, main
from sparseact.errors import InputError
from sparseact.evaluation import lm_eval as lm_eval_model
from sparseact.evaluation.lm_eval import SparseHFLM, run_tasks
from sparseact.policies import POLICIES, TEAL
from sparseact.testing import tiny_model, tiny_tokenizer

CHOICES = [
    ("The sky is", ["blue", "loud", "salty"]),
    ("Water is", ["dry", "wet", "a bird"]),
    ("Ice is", ["hot", "cold"]),
]
TASK = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""
WRITING = """
task: tiny_writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "blue"
generation_kwargs: {{max_gen_toks: 8, until: ["?"]}}
metric_list:
  - metric: exact_match
"""
TEXT = "How vexingly quick daft zebras jump! Pack my box with five dozen liquor jugs, said the wizard. " * 5


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    place = tmp_path_factory.mktemp("tasks")
    rows = [{"question": question, "choices": choices, "answer": 0} for question, choices in CHOICES]
    (place / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (place / "choices.yaml").write_text(TASK.format(data=place / "data.jsonl"))
    (place / "writing.yaml").write_text(WRITING.format(data=place / "data.jsonl"))
    return place


@pytest.fixture(autouse=True)
def _few_tasks(monkeypatch):
    """Not the thousands that lm-eval would index first."""
    everything = lm_eval_model.TaskManager
    monkeypatch.setattr(lm_eval_model, "TaskManager", lambda: everything(include_defaults=False))


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama").double()


@pytest.fixture(scope="module")
def recipe(model):
    return TEAL(sparsity=0.5).calibrate(model, tiny_tokenizer(), TEXT)


@torch.no_grad()
def likelihood(model, context: str, answer: str) -> float:
    ids = tiny_tokenizer()(context + " " + answer, add_special_tokens=False, return_tensors="pt").input_ids
    log = log_softmax(model(ids).logits[0].float(), dim=-1)
    start = len(context)  # a token per character
    return float(log[start - 1 : -1].gather(-1, ids[0, start:, None]).sum())


def test_the_sparse_model_is_what_is_asked(model, recipe, tasks):
    found = run_tasks(model, tiny_tokenizer(), [str(tasks / "choices.yaml")], recipe=recipe)
    right = 0
    with recipe(model):
        for question, choices in CHOICES:
            right += max(choices, key=lambda choice: likelihood(model, question, choice)) == choices[0]
    assert found["tasks"]["tiny_choices"]["acc,none"] == pytest.approx(right / len(CHOICES))
    assert found["achieved"] == pytest.approx(0.5, abs=0.1)


def test_likelihoods_are_those_of_the_sparse_model(model, recipe):
    from lm_eval.api.instance import Instance

    requests = [
        Instance("loglikelihood", {}, (question, " " + choice), 0)
        for question, choices in CHOICES
        for choice in choices
    ]
    sparse = [
        value for value, _ in SparseHFLM(model, tiny_tokenizer(), recipe).loglikelihood(requests, disable_tqdm=True)
    ]
    dense = [value for value, _ in SparseHFLM(model, tiny_tokenizer()).loglikelihood(requests, disable_tqdm=True)]
    pairs = [(question, choice) for question, choices in CHOICES for choice in choices]
    with recipe(model):
        expected = [likelihood(model, *pair) for pair in pairs]
    assert sparse == pytest.approx(expected, abs=1e-4)
    assert dense == pytest.approx([likelihood(model, *pair) for pair in pairs], abs=1e-4)
    assert sparse != pytest.approx(dense, abs=0.01)


def test_padding_is_not_counted_and_changes_nothing(model, recipe):
    """Three lengths in one batch."""
    from lm_eval.api.instance import Instance

    requests = [
        Instance("loglikelihood", {}, pair, 0)
        for pair in [("The sky is", " blue"), ("Water", " is wet, they say"), ("I", " a")]
    ]
    found = {}
    for size in (1, 3):
        asked = SparseHFLM(model, tiny_tokenizer(), recipe, batch_size=size)
        found[size] = [value for value, _ in asked.loglikelihood(requests, disable_tqdm=True)], asked.density
    assert found[3][0] == pytest.approx(found[1][0], abs=1e-5)
    assert found[3][1].tokens == found[1][1].tokens
    assert found[3][1].off == found[1][1].off
    assert found[3][1].achieved() == found[1][1].achieved()


def test_a_text_that_ends_in_the_token_of_padding_keeps_it(model, recipe):
    asked = SparseHFLM(model, tiny_tokenizer(), recipe, batch_size=2)
    asked._asked = {(5, 7, 0), (5, 7, 0, 0, 3), (9,)}
    assert [asked._tokens_of(row) for row in ([5, 7, 0, 0, 0], [5, 7, 0, 0, 3], [9, 0, 0], [8, 0, 0])] == [3, 5, 1, 3]


def test_a_policy_that_needs_the_prompt_generates(model, tasks):
    recipe = POLICIES["griffin"](sparsity=0.5).calibrate(model, tiny_tokenizer(), TEXT)
    found = run_tasks(model, tiny_tokenizer(), [str(tasks / "writing.yaml")], recipe=recipe, limit=2)
    assert "exact_match,none" in found["tasks"]["tiny_writing"]
    assert found["achieved"] > 0.05  # the prompt is dense


def test_by_command_line(tasks, tmp_path, capsys):
    tiny_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    task = str(tasks / "choices.yaml")
    assert main(["eval", "--tasks", task, "--model", str(tmp_path), "--limit", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["tasks"]["tiny_choices"]["acc,none"] in (0, 0.5, 1)
    assert (record["achieved"], record["recipe"]) == (0, None)
    assert main(["eval", "--tasks", task, "--model", str(tmp_path)]) == 0
    assert "tiny_choices  acc,none  " in capsys.readouterr().out
    assert main(["eval", "--tasks", "tiny_choces", "--model", str(tmp_path)]) == USERS_MISTAKE
    assert "--tasks: unknown task 'tiny_choces'" in capsys.readouterr().err


def test_tasks_that_cannot_be_had_are_one_line(model, tasks):
    with pytest.raises(InputError, match=r"tasks: no such file: none\.yaml"):
        run_tasks(model, tiny_tokenizer(), ["none.yaml"])
    (tasks / "broken.yaml").write_text(TASK.format(data=tasks / "none.jsonl"))
    with pytest.raises(InputError, match=r"tasks: .*broken.yaml cannot be loaded: ") as caught:
        run_tasks(model, tiny_tokenizer(), [str(tasks / "broken.yaml")])
    assert "\n" not in str(caught.value)
