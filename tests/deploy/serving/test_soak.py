"""10,000 requests, of which every third is none: no crash, flat memory, and every accepted one gets its answer."""

import json
import re
import signal
import socket
import threading
from pathlib import Path
from statistics import median

import psutil
import pytest

from tests.deploy.serving.hostile import KINDS, Crowd
from tests.deploy.serving.process import Process
from tests.export.toy import Toy

REQUESTS = 10_000
CLIENTS = 16
EVERY = 50
"""Requests between two looks at the server's memory."""
GROWTH = 10e6
"""Bytes that may come on top over the second server's requests once it has warmed up: pools of the allocator."""
LIMITS = {"max_bytes": 200_000, "max_pixels": 500_000, "upload_seconds": 1.0}


def detections_of_run(detheads, bundle: Path, toy: Toy, folder: Path) -> dict[str, list[dict[str, object]]]:
    """What ``deploy run`` finds in each picture, as the server would say it."""
    done = detheads("deploy", "run", bundle, toy.images, "-o", folder, "--no-pictures", "--threads", 1)
    assert done.code == 0, done.err
    images = json.loads((folder / "images.json").read_text("utf-8"))
    names = {image["id"]: image["file_name"] for image in images["images"]}
    labels = {category["id"]: (number, category["name"]) for number, category in enumerate(images["categories"])}
    found: dict[str, list[dict[str, object]]] = {name: [] for name in names.values()}
    for entry in json.loads((folder / "detections.json").read_text("utf-8")):
        label, name = labels[entry["category_id"]]
        found[names[entry["image_id"]]].append(
            {"name": name, "label": label, "score": entry["score"], "bbox": entry["bbox"]}
        )
    return found


def as_run_writes(detections: list[dict[str, object]]) -> list[dict[str, object]]:
    """Boxes xywh, as COCO has them."""
    result = []
    for entry in detections:
        x1, y1, x2, y2 = entry["box"]  # type: ignore[misc]
        rest = {key: value for key, value in entry.items() if key != "box"}
        result.append(rest | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
    return result


@pytest.mark.slow
def test_a_server_survives_whatever_is_sent_and_answers_all_that_it_accepted(
    bundle: Path, toy: Toy, tmp_path: Path, detheads
) -> None:
    expected = detections_of_run(detheads, bundle, toy, tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [
        "--port",
        port,
        "--queue",
        12,
        "--access-log",
        "--notice-seconds",
        0.5,
        "--upload-seconds",
        LIMITS["upload_seconds"],
    ]
    options += ["--max-megabytes", LIMITS["max_bytes"] / 1e6, "--max-megapixels", LIMITS["max_pixels"] / 1e6]
    logs = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    servers = [Process(bundle, *options, output=logs[0])]
    pictures = []
    for path in sorted(toy.images.iterdir()):
        answer = servers[0].client.post("/v1/detect", content=path.read_bytes()).json()
        assert as_run_writes(answer["detections"]) == expected[path.name]
        pictures.append((path.read_bytes(), answer["detections"]))
    crowd = Crowd(("127.0.0.1", port), pictures, **LIMITS)
    memory: list[tuple[int, int]] = []
    restart = threading.Lock()

    def look(sent: int) -> None:
        if sent == REQUESTS // 2:
            with restart:
                servers[0].client.close()
                assert servers[0].end(signal.SIGTERM) == 0
                servers.append(Process(bundle, *options, output=logs[1]))
        elif sent > REQUESTS // 2 and sent % EVERY == 0 and len(servers) == 2:
            memory.append((sent, psutil.Process(servers[1].running.pid).memory_info().rss))

    try:
        crowd.send(REQUESTS, CLIENTS, look)
        own = psutil.Process(servers[1].running.pid)
        servers[1].client.close()
        assert not [one for one in own.net_connections() if one.status == psutil.CONN_CLOSE_WAIT]
        assert servers[1].end(signal.SIGTERM) == 0
    finally:
        for server in servers:
            server.kill()
    seen = crowd.seen
    print(f"{seen.answered=} aborted={len(seen.aborted)} broken={len(seen.broken)}")
    assert seen.wrong == []
    assert set(seen.answered) >= {status for _, status in KINDS.values() if status} | {429}
    for server in servers:
        assert "Traceback" not in server.told
        numbers = re.search(r"ended: (\d+) requests accepted, (\d+) answered, (\d+) clients gone", server.told)
        assert numbers, server.told
        assert int(numbers[1]) == int(numbers[2]) + int(numbers[3])
    taken = {line["id"]: line["status"] for log in logs for line in map(json.loads, log.read_text().splitlines())}
    assert not seen.broken & taken.keys()  # whoever got no answer was never let in, and could ask again
    assert {name for name, status in taken.items() if status == 0} <= seen.aborted
    half = len(memory) // 2
    early, late = (median(size for _, size in part) for part in (memory[half // 2 : half], memory[-half // 2 :]))
    print(f"memory of the second server: {early / 1e6:.1f} MB, then {late / 1e6:.1f} MB")
    assert late - early < GROWTH
