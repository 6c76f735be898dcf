"""Kubernetes manifests: ``detheads deploy serve`` as a Deployment, or Triton as an InferenceService of KServe.

Fields are those of apps/v1, v1, autoscaling/v2 and serving.kserve.io/v1beta1.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from detheads.deploy.hosts.yaml_text import yaml_text
from detheads.foundation import atomic
from detheads.foundation.claims import new_folder
from detheads.foundation.errors import UserError

PLAIN: Final = "deployment.yaml"
KSERVE: Final = "kserve.yaml"

PORT: Final = 8000
USER: Final = 10001
"""Any number but 0: nothing of a bundle needs a user of its own."""
IMAGE_FOLDER: Final = "/opt/detheads"
"""Where the image of ``deploy package --target docker`` holds the bundle."""
CLAIM_FOLDER: Final = "/models"
LONGEST_NAME: Final = 40
"""Letters. A label of a host name has 63, and KServe adds the part, a number and the namespace."""

NOTICE_SECONDS: Final = 10
"""From SIGTERM until the port is closed: nodes hear of a pod's end when the pod does, and send requests until then. A
``preStop`` that sleeps would do the same, in images that have a shell."""
SPARE_SECONDS: Final = 15
"""Beyond notice and drain, before the pod is killed."""
STARTUP_SECONDS: Final = 300
"""For a bundle to be fetched, opened and warmed up."""
BUSY_PERCENT: Final = 70
"""Of the processors asked for, from which on a pod is added."""


@dataclass(frozen=True)
class Resources:
    """What a pod asks for, and gets at most: the runtime takes as many threads as its share of processors."""

    cpu: str = "2"
    memory: str = "2Gi"
    gpus: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d{1,4}(\.\d{1,3})?|\d{1,6}m", self.cpu) or not float(self.cpu.rstrip("m")):
            raise UserError(f"--cpu takes processors such as 2, 0.5 or 500m, not {self.cpu!r}.")
        if not re.fullmatch(r"[1-9]\d{0,11}(\.\d{1,3})?([KMGT]i?|k)?", self.memory):
            raise UserError(f"--memory takes bytes such as 2Gi or 800Mi, not {self.memory!r}.")

    @property
    def asked(self) -> dict[str, Any]:
        amounts: dict[str, str] = {"cpu": self.cpu, "memory": self.memory}
        if self.gpus:
            amounts["nvidia.com/gpu"] = str(self.gpus)
        return {"requests": amounts, "limits": amounts}


@dataclass(frozen=True)
class Wanted:
    """What is to run.

    Attributes:
        name: of everything that is made.
        namespace: that of ``kubectl apply`` when None.
        replicas: pods at least and at most.
    """

    name: str
    namespace: str | None
    replicas: tuple[int, int]
    resources: Resources

    def __post_init__(self) -> None:
        require_name(self.name, "--name", first="[a-z]")
        if self.namespace is not None:
            require_name(self.namespace, "--namespace", longest=63)
        if self.replicas[0] > self.replicas[1]:
            raise UserError(f"--min-replicas {self.replicas[0]} is more than --max-replicas {self.replicas[1]}.")

    @property
    def metadata(self) -> dict[str, Any]:
        place = {} if self.namespace is None else {"namespace": self.namespace}
        return {"name": self.name, **place, "labels": self.labels}

    @property
    def labels(self) -> dict[str, str]:
        return {"app.kubernetes.io/name": self.name, "app.kubernetes.io/managed-by": "detheads"}

    @property
    def selector(self) -> dict[str, str]:
        return {"app.kubernetes.io/name": self.name}


@dataclass(frozen=True)
class Server:
    """``detheads deploy serve`` in a pod.

    Attributes:
        image: that has the package, with ``[serve]``.
        bundle: its path in the container.
        claim: a PersistentVolumeClaim that holds it, mounted at :data:`CLAIM_FOLDER`; None: the image does.
        secret: a Secret whose key ``token`` is what clients must send; None: everybody may ask.
        drain_seconds: for what is accepted to be answered at the end.
    """

    image: str
    bundle: str
    backend: str
    claim: str | None = None
    secret: str | None = None
    drain_seconds: int = 30

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][A-Za-z0-9._:/@-]{0,254}", self.image):
            raise UserError(f"--image takes the name of an image such as registry/people:1, not {self.image!r}.")
        if not self.bundle.startswith("/") or ".." in self.bundle.split("/"):
            raise UserError(f"--bundle-path is an absolute path in the container, not {self.bundle!r}.")
        for value, option in ((self.claim, "--claim"), (self.secret, "--token-secret")):
            if value is not None:
                require_name(value, option, longest=253, dots=True)


def dns_name(text: str) -> str:
    """A bundle's name as a name of Kubernetes."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    name = name if name[:1].isalpha() else f"detector-{name}".strip("-")
    return name[:LONGEST_NAME].strip("-")


def require_name(
    name: str, option: str, *, longest: int = LONGEST_NAME, first: str = "[a-z0-9]", dots: bool = False
) -> None:
    """Refuse what is no DNS label (RFC 1123), or with ``dots`` no name of such labels.

    Args:
        first: what it begins with; names of services and of KServe begin with a letter (RFC 1035).

    Raises:
        UserError: saying what it may be.
    """
    middle = "[a-z0-9.-]" if dots else "[a-z0-9-]"
    if len(name) > longest or not re.fullmatch(f"{first}({middle}*[a-z0-9])?", name):
        begins = "a letter" if first == "[a-z]" else "a letter or digit"
        raise UserError(
            f"{option} takes small letters, digits and '-', begins with {begins} and has at most {longest}, not "
            f"{name!r}; try {dns_name(name)}."
        )


def deployment(wanted: Wanted, server: Server) -> list[dict[str, Any]]:
    """Deployment, Service and HorizontalPodAutoscaler."""
    least, most = wanted.replicas
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": wanted.name}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": wanted.metadata,
            "spec": {  # without replicas, which the autoscaler sets
                "selector": {"matchLabels": wanted.selector},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "template": {"metadata": {"labels": wanted.labels}, "spec": _pod(wanted, server)},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": wanted.metadata,
            "spec": {
                "selector": wanted.selector,
                "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
            },
        },
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": wanted.metadata,
            "spec": {
                "scaleTargetRef": reference,
                "minReplicas": least,
                "maxReplicas": most,
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {
                            "name": "cpu",
                            "target": {"type": "Utilization", "averageUtilization": BUSY_PERCENT},
                        },
                    }
                ],
            },
        },
    ]


def _pod(wanted: Wanted, server: Server) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [{"name": "scratch", "emptyDir": {}}]
    mounts: list[dict[str, Any]] = [{"name": "scratch", "mountPath": "/tmp"}]
    if server.claim is not None:
        volumes.append({"name": "models", "persistentVolumeClaim": {"claimName": server.claim, "readOnly": True}})
        mounts.append({"name": "models", "mountPath": CLAIM_FOLDER, "readOnly": True})
    token = {"secretKeyRef": {"name": server.secret, "key": "token"}}
    container = {
        "name": "detheads",
        "image": server.image,
        "command": ["detheads", "deploy", "serve", server.bundle, "--host", "0.0.0.0", "--port", str(PORT),
                    "--backend", server.backend, "--notice-seconds", str(min(NOTICE_SECONDS, server.drain_seconds)),
                    "--drain-seconds", str(server.drain_seconds)],
        **({} if server.secret is None else {"env": [{"name": "DETHEADS_TOKEN", "valueFrom": token}]}),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": wanted.resources.asked,
        "startupProbe": _probe("/readyz", every=2, failures=STARTUP_SECONDS // 2),
        "readinessProbe": _probe("/readyz", every=2, failures=1),
        "livenessProbe": _probe("/healthz", every=10, failures=3),
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }  # fmt: skip
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": NOTICE_SECONDS + server.drain_seconds + SPARE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }


def _probe(path: str, *, every: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": every,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def inference_service(wanted: Wanted, storage: str) -> dict[str, Any]:
    """Triton over a model repository of ``deploy triton``, by KServe's own runtime for it.

    Args:
        storage: the repository, where KServe fetches it: ``s3://``, ``gs://``, ``pvc://CLAIM/PATH``, ...
    """
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s\x00-\x1f]+", storage):
        raise UserError(
            f"--storage-uri takes an address such as s3://bucket/models or pvc://claim/models, not {storage!r}."
        )
    model: dict[str, Any] = {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "v2",
        "runtime": "kserve-tritonserver",
        "storageUri": storage,
        "resources": wanted.resources.asked,
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}, "periodSeconds": 5},
    }
    if wanted.resources.gpus:
        model["env"] = [{"name": "NVIDIA_TF32_OVERRIDE", "value": "0"}]  # as the graph was proven
    least, most = wanted.replicas
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": wanted.metadata,
        "spec": {"predictor": {"minReplicas": least, "maxReplicas": most, "model": model}},
    }


def write(folder: Path, wanted: Wanted, server: Server | None, storage: str | None) -> list[Path]:
    """Write the manifests into a new folder; one file for each way to run that was asked for.

    Raises:
        UserError: when the folder is in use, or a value is none that Kubernetes takes.
    """
    documents: dict[str, list[Mapping[str, Any]]] = {}
    if server is not None:
        documents[PLAIN] = [*deployment(wanted, server)]
    if storage is not None:
        documents[KSERVE] = [inference_service(wanted, storage)]
    with new_folder(folder) as partial:
        for name, parts in documents.items():
            atomic.write_text(partial / name, "---\n".join(map(yaml_text, parts)))
    return [folder / name for name in documents]
