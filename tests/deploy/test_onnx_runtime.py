"""ONNX Runtime's providers: told their device and the precision, and asked where every node went.

The providers of GPUs are imitated here by autospecs of the library's own session.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, create_autospec

import onnxruntime
import pytest

from detheads.deploy import BundleSession
from detheads.foundation.errors import UserError

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.fixture
def imitate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes sessions that say that their nodes went to these providers; returns what makes them."""

    def with_nodes(**nodes: int) -> Any:
        kind = create_autospec(onnxruntime.InferenceSession)
        session = kind.return_value
        session.get_providers.return_value = [CUDA, CPU]
        parts = [
            SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [None] * count)  # type: ignore[misc]
            for name, count in nodes.items()
        ]
        # Set, not configured: the newest ONNX Runtime for Python 3.10 (1.23) has no such method.
        session.get_provider_graph_assignment_info = Mock(return_value=parts)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", kind)
        return kind

    return with_nodes


def test_nodes_that_the_cpu_runs_stand_in_the_name_of_the_runtime(bundle: Path, imitate: Callable[..., Any]) -> None:
    imitate(**{CUDA: 40, CPU: 2})
    session = BundleSession(bundle, backend="cuda:1")
    assert session.runtime == f"onnxruntime {onnxruntime.__version__} {CUDA}:1 (2 of 42 nodes on {CPU})"


def test_the_provider_alone_is_asked_for_with_its_device_and_without_tf32(
    bundle: Path, imitate: Callable[..., Any]
) -> None:
    kind = imitate(**{CUDA: 42})
    assert BundleSession(bundle, backend="cuda:1").runtime.endswith(f"{CUDA}:1")
    assert kind.call_args.kwargs == {"providers": [(CUDA, {"use_tf32": "0", "device_id": "1"})]}


def test_a_provider_that_takes_no_node_is_stopped(bundle: Path, imitate: Callable[..., Any]) -> None:
    imitate(**{CPU: 42})
    with pytest.raises(UserError, match=f"{CUDA} takes no node of .* was stopped"):
        BundleSession(bundle, backend="cuda")


def test_a_version_that_does_not_tell_is_called_so(bundle: Path, imitate: Callable[..., Any]) -> None:
    del imitate(**{CUDA: 42}).return_value.get_provider_graph_assignment_info
    assert "where each node runs is not told by this version" in BundleSession(bundle, backend="cuda").runtime


def test_the_cpu_has_no_devices_and_names_are_suggested(bundle: Path) -> None:
    with pytest.raises(UserError, match=f"{CPU} has no devices to choose from; leave :1 out"):
        BundleSession(bundle, backend="cpu:1")
    with pytest.raises(UserError, match=r"no openvinoo here; it offers .*Backends are cpu, cuda, openvino"):
        BundleSession(bundle, backend="openvinoo")
