"""The detector of squares and a clip of them, made once."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detheads.deploy import Detector

if TYPE_CHECKING:
    from detheads.deploy.video.run import VideoResult

try:
    import av as av
except ImportError:  # needs detheads[video]
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.deploy.video.squares import write_bundle, write_clip

Run = Callable[..., "VideoResult"]


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that finds squares."""
    return write_bundle(tmp_path_factory.mktemp("squares") / "squares.detheads")


@pytest.fixture(scope="session")
def finder(squares: Path) -> Detector:
    return Detector(squares, threads=1)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames of two moving squares; copy it before changing it."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def run(finder: Detector, tmp_path: Path) -> Run:
    """Runs a source into ``tmp_path / "out"``; words that are none of a run's options are of its reading."""
    from detheads.deploy.video.run import run_video
    from detheads.deploy.video.settings import Reading, VideoOptions
    from detheads.deploy.video.sources import video_source

    def runs(source: Path | str, *, detector: Detector = finder, out: str = "out", **said: Any) -> "VideoResult":
        calls = {key: said.pop(key) for key in ("stopped", "on_frame", "on_remark") if key in said}
        reading = {key: said.pop(key) for key in list(said) if key in Reading.__dataclass_fields__}
        options = VideoOptions(reading=Reading(**reading), **said)
        found = video_source([str(source)])
        assert found is not None
        return run_video(detector, found, tmp_path / out, options, **calls)

    return runs


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
