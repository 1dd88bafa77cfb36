"""What all tests share: no network, and the built-in model only where its weights are in the cache."""

import os

# Before transformers is imported anywhere: a test that would download fails instead.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

from sparseact.models import cached_folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("smollm2")]
    if marked and cached_folder("smollm2") is None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no weights in the cache; get them with: sparseact fetch smollm2"))
