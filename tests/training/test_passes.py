"""How many tokens a training passes through models besides those that it trains on."""

import pytest
import torch
from transformers import LlamaForCausalLM

import sparseact as sa
from sparseact.testing import tiny_model, tiny_tokenizer
from sparseact.training import Options

CALIBRATION = 2048
"""Tokens of a calibration."""


@pytest.mark.parametrize(
    ("tokens", "texts", "windows"),
    [(0, 1, 2), (4096, 1, 2), (8192, 1, 4), (8192, 2, 2), (16384, 1, 8), (10**6, 3, 8)],
)
def test_a_quarter_of_what_is_trained_is_measured_but_2_windows_at_least_and_8_at_most(tokens, texts, windows):
    assert Options(tokens=tokens, window=512).measured_windows(texts) == windows


@pytest.mark.parametrize(
    ("method", "fits"),
    [
        ("top-k", 0),  # its level alone decides
        ("cats", 3 + 1 + 1),  # calibrated, again with constants, and at the end
    ],
)
def test_a_short_run_calibrates_once_and_measures_little(tmp_path, text_file, monkeypatch, method, fits):
    passed, forward = {True: 0, False: 0}, LlamaForCausalLM.forward

    def counted(self, input_ids, **kwargs):
        passed[torch.is_grad_enabled()] += input_ids.numel()
        return forward(self, input_ids, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    sa.train(
        tiny_model("llama"), tiny_tokenizer(), text_file, out=tmp_path, method=method, tokens=640, batch=2, window=32,
        dtype="float32",
    )  # fmt: skip
    assert passed[True] == 640
    samples, constants, measured = 2, 4 * 128, 2 * 2 * 5 * 32  # of 5 windows, before and after, by two models
    assert passed[False] == 640 + (samples + fits) * CALIBRATION + constants + measured
