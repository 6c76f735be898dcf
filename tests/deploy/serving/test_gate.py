"""What a request passes before a model sees it: token, bounds, the queue, and clients that hang up."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from detheads.deploy.serving.models import Models
from tests.export.toy import Toy

TOKEN = "a token of this test"


def until(condition: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether something became true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@contextmanager
def raw(client: httpx.Client, head: str, body: bytes = b"") -> Iterator[socket.socket]:
    """A connection on which a request was begun, with the bytes as they are."""
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + body)
        yield connection


def upload(length: int) -> str:
    return f"POST /v1/detect HTTP/1.1\nHost: test\nContent-Length: {length}\n\n"


def read(connection: socket.socket) -> str:
    """Whatever comes until the server closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except (TimeoutError, ConnectionResetError):
        pass
    return b"".join(parts).decode()


@pytest.fixture(scope="module")
def strict(serve: Callable[..., Any], bundle: Path) -> Iterator[tuple[httpx.Client, Models]]:
    """A server of two places that wants a token and does not wait long."""
    with serve({"toy": bundle}, token=TOKEN, queue=2, upload_seconds=0.5, max_bytes=1 << 20) as found:
        yield found


@pytest.mark.parametrize(
    "header", [None, "Bearer", f"Basic {TOKEN}", "Bearer wrong", f"Bearer {TOKEN}x", f"Bearer é{TOKEN}"]
)
def test_a_wrong_token_is_refused_before_the_body(header: str | None, strict: tuple[httpx.Client, Models]) -> None:
    client, models = strict
    before = models.traffic.accepted
    headers = {} if header is None else {"authorization": header.encode()}
    answer = client.post("/v1/detect", content=b"x", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer TOKEN" in answer.json()["error"]
    assert models.traffic.accepted == before


def test_the_right_token_lets_in_and_health_needs_none(strict: tuple[httpx.Client, Models], toy: Toy) -> None:
    client, _ = strict
    headers = {"authorization": f"bearer {TOKEN}"}
    content = (toy.images / "bild 4.png").read_bytes()
    assert client.post("/v1/detect", content=content, headers=headers).status_code == 200
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    assert client.get("/metrics").status_code == client.get("/v1/models").status_code == 401


def test_a_full_queue_refuses_at_once_and_a_client_that_hangs_up_frees_its_place(
    serve: Callable[..., Any], bundle: Path, toy: Toy
) -> None:
    content = (toy.images / "bild 4.png").read_bytes()
    with (
        serve({"toy": bundle}, queue=2) as (client, models),
        raw(client, upload(9), b"1"),
        raw(client, upload(9)) as last,
    ):
        assert until(lambda: models.traffic.in_progress == 2)
        answer = client.post("/v1/detect", content=content)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert client.get("/readyz").status_code == 200
        last.close()
        assert until(lambda: models.traffic.gone == 1)
        assert client.post("/v1/detect", content=content).status_code == 200


def test_a_client_that_hangs_up_while_its_picture_waits_is_dropped(
    serve: Callable[..., Any], bundle: Path, toy: Toy
) -> None:
    content = (toy.images / "bild 4.png").read_bytes()
    with serve({"toy": bundle}, max_wait_ms=10_000, queue=8) as (client, models), raw(client, upload(9)):
        with raw(client, upload(len(content)), content):  # waits for the upload that never ends
            assert until(lambda: models.traffic.in_progress == 2)
        assert until(lambda: models.traffic.gone == 1)


def test_slow_bodies_are_told_and_slow_heads_and_silence_are_cut_off(strict: tuple[httpx.Client, Models]) -> None:
    client, _ = strict
    begun = time.monotonic()
    head = f"POST /v1/detect HTTP/1.1\nHost: test\nAuthorization: Bearer {TOKEN}\nContent-Length: 9\n\n"
    with raw(client, head, b"12") as body, raw(client, "GET /healthz HT") as line, raw(client, "") as silent:
        answer = read(body)
        assert answer.startswith("HTTP/1.1 408")
        assert "did not arrive within 0.5 seconds" in answer
        assert read(line) == read(silent) == ""
    assert time.monotonic() - begun < 5


def test_bodies_beyond_the_limit_are_refused_with_and_without_a_told_length(
    strict: tuple[httpx.Client, Models],
) -> None:
    client, _ = strict
    headers = {"authorization": f"Bearer {TOKEN}"}
    head = f"POST /v1/detect HTTP/1.1\nHost: test\nAuthorization: Bearer {TOKEN}\nContent-Length: {1 << 40}\n\n"
    with raw(client, head) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413")  # with nothing sent
    chunks = (bytes(1 << 16) for _ in range(20))
    assert client.post("/v1/detect", content=chunks, headers=headers).status_code == 413


def test_requests_have_ids_and_only_harmless_ones_are_kept(client: httpx.Client) -> None:
    ids = [
        client.get("/healthz", headers={"x-request-id": given}).headers["x-request-id"] for given in ("a-1", "a b", "")
    ]
    assert ids[0] == "a-1"
    assert len({*ids}) == 3
    assert all(len(one) == 16 for one in ids[1:])


def test_a_server_that_is_to_end_is_not_ready_and_closes_connections_with_their_answer(
    serve: Callable[..., Any], bundle: Path, toy: Toy
) -> None:
    with serve({"toy": bundle}) as (client, models):
        models.traffic.draining = True
        assert client.get("/readyz").status_code == 503
        answer = client.post("/v1/detect", content=(toy.images / "bild 4.png").read_bytes())
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_a_fault_of_the_server_is_one_sentence_with_the_id_that_its_log_has(
    serve: Callable[..., Any], bundle: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content = (toy.images / "bild 4.png").read_bytes()
    with serve({"toy": bundle}) as (client, models):
        monkeypatch.setattr(models.get().detector, "found_in", lambda *_: 1 / 0)
        answer = client.post("/v1/detect", content=content)
        assert answer.status_code == 500
        assert answer.headers["x-request-id"] in answer.json()["error"]
        assert answer.headers["x-request-id"] in caplog.text
        assert "ZeroDivisionError" in caplog.text


def test_requests_that_run_together_get_what_they_get_alone(serve: Callable[..., Any], bundle: Path, toy: Toy) -> None:
    contents = [path.read_bytes() for path in sorted(toy.images.iterdir())]
    with serve({"toy": bundle}, max_wait_ms=2000, max_batch=len(contents)) as (client, _):
        alone = [client.post("/v1/detect", content=content).json() for content in contents]
        together: dict[int, Any] = {}

        def ask(number: int) -> None:
            together[number] = client.post("/v1/detect", content=contents[number]).json()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(contents))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {answer["batch"] for answer in alone} == {1}
    assert max(answer["batch"] for answer in together.values()) > 1
    assert [together[number]["detections"] for number in range(len(contents))] == [
        answer["detections"] for answer in alone
    ]
