"""`sparseact train` as a user meets it."""

import json

import pytest

from sparseact.cli import USERS_MISTAKE, main
from sparseact.policies import known_policies
from sparseact.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat and saw the dog " * 60)
    return str(path)


def test_the_list_names_what_can_be_trained(capsys):
    assert main(["train", "--list", "--json"]) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert set(known_policies()) - set(methods) == {"griffin"}
    assert "no mask" in methods["dense"]


def test_one_json_object_with_the_qualities_and_what_it_will_take_on_standard_error(model, text, tmp_path, capsys):
    command = ["train", "--model", model, "--text", text, "--tokens", "256", "--batch", "2", "--window", "32"]
    assert main([*command, "--method", "cats", "--out", str(tmp_path / "out"), "--json", "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["recipe"] == str(tmp_path / "out" / "recipe")
    assert record["after"][text]["kl"] > 0
    assert record["before"][text]["perplexity_dense"] == record["after"][text]["perplexity_dense"]
    assert "sparseact: training cats: 192 more tokens in 3 steps, about" in err  # by the first of four
    assert main([*command, "--method", "cats", "--out", str(tmp_path / "out"), "--lr", "1e-5"]) == USERS_MISTAKE
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("sparseact: --out: ")
    assert "(lr 5e-05 there, 1e-05 here)" in err
    evaluated = ["eval", "--model", str(tmp_path / "out"), "--recipe", str(tmp_path / "out" / "recipe")]
    assert main([*evaluated, "--text", text, "--context", "32", "--limit", "4", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["achieved"] == pytest.approx(0.5, abs=0.1)
    assert "calibrated on is in" in err  # the text that it was trained on


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--tokens: say how many"),
        (["--tokens", "10"], "--tokens: 10 are fewer than one step's"),
        (["--tokens", "5000", "--method", "tael"], "--method: unknown method 'tael'. Did you mean teal?"),
        (["--tokens", "5000", "--method", "griffin"], "--method: griffin"),
        (["--tokens", "5000", "--text", "nowhere.txt"], "no such file"),
        (["--tokens", "5000", "--option", "look=2", "--method", "first-look"], "look: 2"),
        (["--tokens", "5000", "--objective", "kl"], "--objective"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(model, tmp_path, capsys, monkeypatch, arguments, expected):
    monkeypatch.setenv("SPARSEACT_CACHE", str(tmp_path / "cache"))
    command = ["train", "--model", model, "--out", str(tmp_path / "out"), "--batch", "2", "--window", "32"]
    assert main([*command, *arguments]) == USERS_MISTAKE
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert err.count("\n") == 1
