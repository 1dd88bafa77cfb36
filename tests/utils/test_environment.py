import json
import os
from importlib import metadata

import torch

import sparseact
from sparseact.utils import environment


def test_description_is_json_and_says_what_ran():
    described = environment.describe("cpu", dtype="torch.float32")
    assert json.loads(json.dumps(described)) == described
    assert described["threads"] == torch.get_num_threads()
    assert described["dtype"] == "float32"
    assert described["device"] == "cpu"
    assert described["device_name"] == described["cpu"] != ""
    assert described["versions"]["sparseact"] == sparseact.__version__
    assert described["versions"]["torch"] == metadata.version("torch")
    assert described["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert 1 <= described["cores"] <= (os.cpu_count() or 1)


def test_dtype_is_left_out_when_unknown():
    assert "dtype" not in environment.describe()


def test_packages_that_are_not_installed_are_left_out():
    assert environment.installed_versions(("torch", "no-such-package-of-that-name")).keys() == {"torch"}
