"""Options shared by all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--dtype", default="float64", choices=["float32", "float64"])
    parser.addoption("--device", default="cpu")
    parser.addoption("--law-problems", type=int, default=2000, help="for `-m laws`")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return getattr(torch, str(request.config.getoption("--dtype")))


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(str(request.config.getoption("--device")))


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C work as usual: a shell that starts tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
