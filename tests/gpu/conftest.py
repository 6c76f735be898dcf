import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detheads.backbones.backbone import load_backbone
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import Dataset, read_dataset
from detheads.data.scenes import generate

SIZE = (96, 128)

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once by cuBLAS; deterministic products need it


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The processor, where the test proves itself, and the GPU."""
    return torch.device(request.param)


@pytest.fixture
def repeatable(device: torch.device, one_thread: None) -> Iterator[None]:
    """The same sums in every run: algorithms that repeat, no TF32."""
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(device.type == "cuda")
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eight generated scenes."""
    folder = tmp_path_factory.mktemp("gpu") / "scenes"
    generate(folder, 8, 1, size=128, seed=3)
    return read_dataset(folder, "train")


@pytest.fixture(scope="session")
def cache(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """Their features, made on the processor."""
    folder: Path = tmp_path_factory.mktemp("gpu") / "cache"
    build_cache(dataset, load_backbone("effnet_lite0", SIZE), folder, flips=True)
    return FeatureCache(folder)
