"""Every annotated shape and type of the library is checked while the tests run."""

import os

os.environ.setdefault("MPLBACKEND", "agg")

import torch
from jaxtyping import install_import_hook

with install_import_hook("sdot", "typechecker.typechecker"):
    import sdot  # noqa: F401

import pytest

torch.set_num_threads(1)  # the problems are small, and threads that wait for a busy core wait long


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def unchecked():
    """What a user meets: the library's own messages, without the tests' type checks before them."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
