"""Manifests: by Kubernetes' own schemas, by KServe's fields, and by the server that they start and end."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from detheads.deploy.hosts.kubernetes import dns_name
from detheads.deploy.hosts.yaml_text import yaml_text


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@pytest.fixture
def manifests(bundle: Path, tmp_path: Path, detheads) -> Path:
    done = detheads(
        *("deploy", "kubernetes", bundle, "-o", tmp_path / "k8s", "--image", "registry.example:5000/people@sha256:0f"),
        *("--storage-uri", "pvc://models/people", "--claim", "models", "--token-secret", "people.token", "--gpus", 1),
        *(
            "--backend",
            "cuda",
            "--namespace",
            "vision",
            "--min-replicas",
            2,
            "--drain-seconds",
            20,
            "--memory",
            "800Mi",
        ),
    )
    assert done.code == 0, done.err
    return tmp_path / "k8s"


def test_the_published_schemas_take_every_document(manifests: Path) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    found = documents(manifests / "deployment.yaml")
    assert [each["kind"] for each in found] == ["Deployment", "Service", "HorizontalPodAutoscaler"]
    for document in found:
        schemas.validate(document, schemas.latest_version(), strict=True)
    found[0]["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(schemas.ValidationError):
        schemas.validate(found[0], schemas.latest_version(), strict=True)


def test_the_parts_find_each_other_and_a_pod_has_longer_to_end_than_the_server(manifests: Path) -> None:
    deployment, service, scaler = documents(manifests / "deployment.yaml")
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    for selector in (deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]):
        assert selector.items() <= template["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"] == "toy"
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 4)
    assert "replicas" not in deployment["spec"]
    assert {each["metadata"]["namespace"] for each in (deployment, service, scaler)} == {"vision"}
    command = container["command"]
    assert command[3] == "/models/toy.detheads"
    assert command[command.index("--drain-seconds") + 1] == "20"
    assert command[command.index("--port") + 1] == str(container["ports"][0]["containerPort"])
    assert template["spec"]["terminationGracePeriodSeconds"] > 20 + int(command[command.index("--notice-seconds") + 1])
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "800Mi", "nvidia.com/gpu": "1"}
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "people.token", "key": "token"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        each["name"] for each in template["spec"]["volumes"]
    }


def test_kserve_gets_the_fields_of_its_v1beta1_and_its_runtime_for_triton(manifests: Path) -> None:
    """Names as in its CustomResourceDefinition and in ``config/runtimes/kserve-tritonserver.yaml``."""
    (service,) = documents(manifests / "kserve.yaml")
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = service["spec"]["predictor"].pop("model")
    assert service["spec"] == {"predictor": {"minReplicas": 2, "maxReplicas": 4}}
    assert model.pop("resources")["requests"]["nvidia.com/gpu"] == "1"
    assert model == {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "v2",
        "runtime": "kserve-tritonserver",
        "storageUri": "pvc://models/people",
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}, "periodSeconds": 5},
        "env": [{"name": "NVIDIA_TF32_OVERRIDE", "value": "0"}],
    }


def answered(address: str, seconds: float = 30) -> int:
    """The status of an address, once somebody listens there."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return int(urllib.request.urlopen(address, timeout=5).status)
        except urllib.error.HTTPError as error:
            return int(error.code)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_the_command_of_a_pod_starts_a_server_that_its_probes_find_and_that_ends_in_time(
    bundle: Path, tmp_path: Path, detheads
) -> None:
    assert (
        detheads(*("deploy", "kubernetes", bundle, "-o", tmp_path / "k", "--image", "a", "--drain-seconds", 1)).code
        == 0
    )
    spec = documents(tmp_path / "k" / "deployment.yaml")[0]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    there = {"/opt/detheads/toy.detheads": str(bundle), "0.0.0.0": "127.0.0.1", "8000": port}
    command = [there.get(word, word) for word in container["command"][1:]]
    server = subprocess.Popen([sys.executable, "-m", "detheads", *command], stderr=subprocess.PIPE, text=True)
    try:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert answered(f"http://127.0.0.1:{port}{container[probe]['httpGet']['path']}") == 200
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=spec["terminationGracePeriodSeconds"])
        assert server.returncode == 0, said
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "give --image for a Deployment.*--storage-uri for KServe"),
        (["--image", "a", "--name", "My_Model"], "--name takes small letters.*not 'My_Model'; try my-model"),
        (["--image", "a", "--name", "2nd"], "begins with a letter.*try detector-2nd"),
        (["--image", "a", "--name", "a" * 41], "has at most 40"),
        (["--image", "a", "--namespace", "-x"], "--namespace takes small letters"),
        (["--image", "a b"], "--image takes the name of an image"),
        (["--image", "a", "--claim", "Models"], "--claim takes small letters"),
        (["--image", "a", "--bundle-path", "models/x"], "--bundle-path is an absolute path"),
        (["--image", "a", "--cpu", "two"], "--cpu takes processors"),
        (["--image", "a", "--cpu", "0m"], "--cpu takes processors"),
        (["--image", "a", "--memory", "2GB"], "--memory takes bytes"),
        (["--image", "a", "--min-replicas", "5"], "--min-replicas 5 is more than --max-replicas 4"),
        (["--image", "a", "--gpus", "1"], "--backend cpu leaves the GPUs idle"),
        (["--storage-uri", "models/people"], "--storage-uri takes an address"),
    ],
)  # fmt: skip
def test_what_a_cluster_would_not_take_is_refused(
    options: list[str], sentence: str, bundle: Path, tmp_path: Path, detheads
) -> None:
    done = detheads("deploy", "kubernetes", bundle, "-o", tmp_path / "k8s", *options)
    assert done.code == 1
    assert re.search(sentence, " ".join(done.err.split())), done.err
    assert not (tmp_path / "k8s").exists()


@pytest.mark.parametrize("name", ["ef-fp32", "Größte Eule (v2)", "2024", "___", "x" * 90, "a.b/c"])
def test_every_bundle_has_a_name_that_kubernetes_takes(name: str) -> None:
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", dns_name(name))


def test_yaml_says_what_was_meant_even_of_words_and_signs_with_a_meaning() -> None:
    document = {
        "no": "no", "a b": ["yes", {"on": None, "list": [], "map": {}}, ["x", [1.5]]], "12": "0x1F", "c": True,
        "text": "two\nlines: # \"quoted\" \u2028 \\ 'x'", "empty": "", "deep": {"x": [{"y": [{"z": 1}, "2"]}]},
    }  # fmt: skip
    assert yaml.safe_load(yaml_text(document)) == json.loads(json.dumps(document))
