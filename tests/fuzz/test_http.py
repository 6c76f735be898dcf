"""The server's HTTP interface: requests made from its own description, and right ones with bytes altered.

Whatever is sent, the answer is below 500, and is what ``/openapi.json`` says.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from detheads.deploy.serving.settings import Settings
from tests.deploy.serving.conftest import running
from tests.export.toy import Toy
from tests.fuzz.guard import CASES, share
from tests.fuzz.mutate import file_bytes

DESCRIBED = 0.2
"""Share of the cases that are made from the description."""
ALTERED = 0.2


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[httpx.Client]:
    with running({"toy": bundle}, Settings(threads=1, max_bytes=1 << 20)) as (found, _):
        yield found


@pytest.fixture(scope="module")
def operations(client: httpx.Client) -> list[Any]:
    """What the interface offers; models have the names that they have here, or all would be unknown."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, of the extra 'dev'")
    document = client.get("/openapi.json").json()
    known = {"name": ["toy"], "version": ["1"]}
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                parameter["schema"] = {"type": "string", "enum": known[parameter["name"]]}
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=str(client.base_url))
    return [operation.ok() for operation in schema.get_all_operations()]


def test_every_answer_is_as_the_interface_describes_it(operations: list[Any]) -> None:
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    conformance = [not_a_server_error, checks.status_code_conformance, checks.content_type_conformance]
    conformance += [checks.response_schema_conformance, checks.response_headers_conformance]
    faults: dict[str, str] = {}
    statuses: Counter[int] = Counter()
    for operation in operations:
        cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in GenerationMode])

        @settings(
            max_examples=share(DESCRIBED / len(operations), by_default=3),
            derandomize=not CASES,
            deadline=None,
            phases=[Phase.generate],
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases)
        def ask(case: Any) -> None:
            answer = case.call()
            statuses[answer.status_code] += 1
            # A field of a form that is sent twice stands for a list there; here the last one counts.
            strict = [] if case.media_type == "multipart/form-data" else [checks.negative_data_rejection]
            case.validate_response(answer, checks=[*conformance, *strict])

        try:
            ask()
        except Exception as found:  # a group of them where several checks fail
            faults[operation.label] = "\n".join(map(str, getattr(found, "exceptions", [found])))
    assert not faults, "\n\n".join(f"== {place}\n{fault}" for place, fault in faults.items())
    assert len(operations) > 20
    assert statuses[200] >= 10
    assert {400, 404} <= statuses.keys()


@dataclass(frozen=True)
class Right:
    """A request that is answered with 200."""

    path: str
    body: bytes
    headers: dict[str, str]


@pytest.fixture(scope="module")
def right(client: httpx.Client, toy: Toy) -> list[Right]:
    picture = (toy.images / "bild 6.png").read_bytes()
    form = httpx.Request("POST", client.base_url, files={"image": picture}, data={"min_confidence": "0.5"})
    form_headers = {"Content-Type": form.headers["content-type"]}
    doods = json.dumps({"data": base64.b64encode(picture).decode(), "detect": {"*": 40}}).encode()
    images = {"name": "images", "shape": [1, 3, 160, 160], "datatype": "UINT8"}
    count = 3 * 160 * 160
    numbers = json.dumps({"inputs": [images | {"data": [7] * count}], "outputs": [{"name": "scores"}]}).encode()
    raw = json.dumps({"inputs": [images | {"parameters": {"binary_data_size": count}}], "id": "7"}).encode()
    infer = "/v2/models/toy/infer"
    found = [
        Right("/v1/detect", picture, {}),
        Right("/v1/detect", form.read(), form_headers),
        Right("/v1/vision/detection", form.read(), form_headers),
        Right("/detect", doods, {"Content-Type": "application/json"}),
        Right(infer, numbers, {}),
        Right(infer, raw + bytes(count), {"Inference-Header-Content-Length": str(len(raw))}),
    ]
    for request in found:
        answer = client.post(request.path, content=request.body, headers=request.headers)
        assert answer.status_code == 200, answer.text
    return found


@settings(
    max_examples=share(ALTERED, by_default=60),
    derandomize=not CASES,
    deadline=None,
    phases=[Phase.generate],
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_altered_requests_get_an_answer_or_one_sentence(
    client: httpx.Client, right: list[Right], data: st.DataObject
) -> None:
    request = data.draw(st.sampled_from(right))
    body = data.draw(file_bytes(request.body))
    headers = dict(request.headers)
    if "Inference-Header-Content-Length" in headers and data.draw(st.booleans()):
        headers["Inference-Header-Content-Length"] = data.draw(st.sampled_from(["", "0", "-1", "1e3", "²", "9" * 30]))
    if data.draw(st.integers(0, 4)) == 0:
        headers["Content-Encoding"] = data.draw(st.sampled_from(["gzip", "deflate", "br", ""]))
    encoded = {name: value.encode() for name, value in headers.items()}
    answer = client.post(request.path, content=body, headers=encoded)
    assert answer.status_code < 500, (request.path, body, headers, answer.text)
    if answer.status_code != 200:
        assert answer.json()["error"]
