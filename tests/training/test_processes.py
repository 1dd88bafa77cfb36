"""Several processes by accelerate train as one does."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys, torch
import sparseact as sa
from sparseact.testing import tiny_model, tiny_tokenizer
torch.set_num_threads(1)
options = dict(method="cats", tokens=1280, batch=4, window=32, dtype="float32", lr=1e-3, checkpoint_every=5)
sa.train(tiny_model("llama"), tiny_tokenizer(), sys.argv[1], out=sys.argv[2], **options)
"""


@pytest.mark.slow
def test_two_processes_share_a_step_s_windows_and_end_in_the_same_weights(tmp_path, text_file):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    for name, how in (("one", []), ("two", launcher)):
        command = [sys.executable, *how, str(script), str(text_file), str(tmp_path / name)]
        subprocess.run(command, check=True, env=environment, capture_output=True)
    for file in ("model.safetensors", "recipe/recipe.safetensors"):
        one, two = (load_file(tmp_path / name / file) for name in ("one", "two"))
        assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)
