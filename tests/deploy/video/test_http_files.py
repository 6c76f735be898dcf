"""A recording behind HTTP is no live source: all of it is run, and it opens nothing of this machine."""

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detheads.foundation.errors import UserError
from tests.deploy.video.conftest import Run
from tests.deploy.video.squares import write_clip
from tests.deploy.video.test_files import lines


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", ["clip.mp4", "list.m3u8"])
def test_every_frame_of_it_is_run(name: str, site: tuple[Path, str], run: Run) -> None:
    folder, url = site
    write_clip(folder / "clip.mp4", options={"movflags": "faststart"})
    write_clip(folder / "part.ts", options={})
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\npart.ts\n#EXT-X-ENDLIST\n"
    (folder / "list.m3u8").write_text(playlist, encoding="utf-8")
    result = run(f"{url}/{name}")
    assert not result.live
    assert [line["id"] for line in lines(result.folder)] == list(range(1, 31))
    assert result.counts.dropped == 0


def test_a_playlist_cannot_open_files_of_this_machine(site: tuple[Path, str], run: Run) -> None:
    folder, url = site
    clip = write_clip(folder / "clip.ts")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    (folder / "list.m3u8").write_text(playlist, encoding="utf-8")
    with pytest.raises(UserError, match=r"list.m3u8 cannot be opened"):
        run(f"{url}/list.m3u8")


def test_a_page_that_is_not_there_is_told(site: tuple[Path, str], run: Run) -> None:
    with pytest.raises(UserError, match=r"none.mp4 cannot be opened \(.*404.*\); check address"):
        run(f"{site[1]}/none.mp4")
