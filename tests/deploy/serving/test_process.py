"""The server as a process: its port, its signals, its workers, and its end."""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from detheads.foundation.bundle import read_manifest, write_manifest
from tests.deploy.serving.process import Process, started
from tests.deploy.serving.test_gate import raw, read, until, upload
from tests.export.toy import Toy


def closed(client: httpx.Client) -> bool:
    try:
        socket.create_connection((client.base_url.host, client.base_url.port or 0)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_answers_what_was_accepted_and_ends_with_code_0(bundle: Path, toy: Toy, tmp_path: Path) -> None:
    content = (toy.images / "bild 4.png").read_bytes()
    token = tmp_path / "token"
    token.write_text("secret\n")
    with started(bundle, "--access-log", "--notice-seconds", 0.5, "--token-file", token) as process:
        head = upload(len(content)).replace("\n\n", "\nAuthorization: Bearer secret\n\n")
        with raw(process.client, head, content[:20]) as connection:
            time.sleep(0.2)
            process.running.send_signal(signal.SIGTERM)
            assert until(lambda: process.client.get("/readyz").status_code == 503)
            process.client.close()
            assert until(lambda: closed(process.client))
            connection.sendall(content[20:])
            answer = read(connection)
            process.running.send_signal(signal.SIGTERM)  # once more, as from systemd to a whole group
        assert answer.startswith("HTTP/1.1 200")
        assert json.loads(answer.partition("\r\n\r\n")[2])["detections"]
        assert process.running.wait(10) == 0
        assert "ended: 1 requests accepted, 1 answered, 0 clients gone" in process.told
        assert process.running.stdout is not None
        lines = [json.loads(line) for line in process.running.stdout]
        assert [line["status"] for line in lines if line["path"] == "/v1/detect"] == [200]
        assert "secret" not in process.told


def test_what_is_not_answered_in_time_is_told_and_makes_the_code_1(bundle: Path) -> None:
    with started(bundle, "--notice-seconds", 0, "--drain-seconds", 1) as process, raw(process.client, upload(9)):
        time.sleep(0.2)
        assert process.end() == 1
        assert "1 requests accepted, 0 answered" in process.told


def workers_of(process: Process) -> list[int]:
    pid = process.running.pid
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
def test_workers_share_the_port_count_together_and_are_replaced(bundle: Path, toy: Toy) -> None:
    content = (toy.images / "bild 4.png").read_bytes()
    with started(bundle, "--workers", 2, "--notice-seconds", 0) as process:

        def ask(count: int) -> None:
            for _ in range(count):
                answer = httpx.post(f"{process.client.base_url}/v1/detect", content=content)  # a new connection each
                assert answer.status_code == 200

        ask(6)
        requests = 'detheads_requests_total{route="/v1/detect",status="200"} 6.0'
        assert requests in process.client.get("/metrics").text
        workers = workers_of(process)
        assert len(workers) == 2
        process.client.close()
        os.kill(workers[0], signal.SIGKILL)
        assert until(lambda: "another one starts" in process.told)
        ask(3)
        assert process.end(signal.SIGINT) == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_has_every_worker_look_at_its_bundles(workers: int, bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "toy.detheads"))
    with started(folder, "--workers", workers, "--watch-seconds", 0, "--notice-seconds", 0) as process:
        manifest = read_manifest(folder)
        write_manifest(folder, manifest.model_copy(update={"name": "other"}))
        assert not until(lambda: "was replaced" in process.told, 1)
        process.running.send_signal(signal.SIGHUP)
        assert until(lambda: process.told.count("toy was replaced by <Detector other") == workers, 20), process.told
        process.client.close()
        assert process.end() == 0


@pytest.mark.slow
def test_workers_outlive_a_broken_bundle_and_end_with_their_parent(bundle: Path, toy: Toy, tmp_path: Path) -> None:
    content = (toy.images / "bild 4.png").read_bytes()
    folder = Path(shutil.copytree(bundle, tmp_path / "toy.detheads"))
    with started(folder, "--workers", 2, "--watch-seconds", 0) as process:
        process.client.close()
        workers = workers_of(process)
        (folder / "bundle.json").unlink()
        os.kill(workers[0], signal.SIGKILL)
        assert until(lambda: "no bundle.json" in process.told, 20)
        assert httpx.post(f"{process.client.base_url}/v1/detect", content=content).status_code == 200
        process.running.kill()
        assert until(lambda: not Path(f"/proc/{workers[1]}").exists(), 20)


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["BUNDLE", "--host", "no.such.host.invalid"], {}, "not an address of this machine"),
        (["BUNDLE", "BUNDLE"], {}, "would both be called toy; give NAME="),
        (["a/b=BUNDLE"], {}, "a model cannot be called 'a/b'"),
        (["missing.detheads"], {}, "missing.detheads does not exist"),
        (["missing.detheads", "--workers", "2"], {}, "missing.detheads does not exist"),
        (["BUNDLE", "--types", "jpeg,mp4"], {}, "--types has 'MP4'"),
        (["BUNDLE", "--token-file", "no-file"], {}, "no-file does not exist"),
        (["BUNDLE"], {"DETHEADS_TOKEN": "two words"}, "DETHEADS_TOKEN holds no token"),
        (["BUNDLE", "--backend", "gpu"], {}, "no gpu here"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_a_sentence(
    arguments: list[str],
    environment: dict[str, str],
    words: str,
    bundle: Path,
    detheads: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = detheads("deploy", "serve", *(word.replace("BUNDLE", str(bundle)) for word in arguments), "--port", 0)
    assert (done.code, words in done.err, done.err.count("\n")) == (1, True, 1), done.err


def test_a_port_in_use_is_named(bundle: Path, detheads: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = detheads("deploy", "serve", bundle, "--port", port)
    assert (done.code, done.err) == (
        1,
        f"error: port {port} of 127.0.0.1 is in use by another program; give another --port, or end that one.\n",
    )
