"""``detheads deploy kubernetes``: manifests for a cluster."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from detheads.cli.options import BackendOption, BundleArgument
from detheads.cli.output import JsonFlag, emit, remark
from detheads.foundation.errors import UserError


def kubernetes(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for the manifests.")],
    image: Annotated[
        str | None, typer.Option(help="Image with detheads[serve]: Deployment, Service and autoscaler of it.")
    ] = None,
    storage_uri: Annotated[
        str | None, typer.Option(help="Where a repository of 'deploy triton' lies: InferenceService of KServe.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of all that is made.", show_default="the bundle's")] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace.", show_default="that of kubectl")] = None,
    bundle_path: Annotated[
        str | None,
        typer.Option(help="The bundle in the container.", show_default="/opt/detheads/NAME, or /models/NAME"),
    ] = None,
    claim: Annotated[
        str | None, typer.Option(help="PersistentVolumeClaim with the bundle, mounted at /models.")
    ] = None,
    token_secret: Annotated[
        str | None, typer.Option(help="Secret whose key 'token' clients must send.", show_default="none needed")
    ] = None,
    cpu: Annotated[str, typer.Option(help="Processors of a pod: 2, 0.5, 500m.")] = "2",
    memory: Annotated[str, typer.Option(help="Memory of a pod: 2Gi, 800Mi.")] = "2Gi",
    gpus: Annotated[int, typer.Option(min=0, max=64, help="NVIDIA GPUs of a pod.")] = 0,
    min_replicas: Annotated[int, typer.Option(min=1, max=10_000, help="Pods at least.")] = 1,
    max_replicas: Annotated[int, typer.Option(min=1, max=10_000, help="Pods at most.")] = 4,
    drain_seconds: Annotated[
        int, typer.Option(min=1, max=3600, help="Time of a pod at its end to answer what it accepted.")
    ] = 30,
    backend: BackendOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Write manifests: 'deploy serve' as a Deployment, Triton as an InferenceService of KServe, or both."""
    from detheads.deploy.hosts.kubernetes import (
        CLAIM_FOLDER,
        IMAGE_FOLDER,
        Resources,
        Server,
        Wanted,
        dns_name,
        write,
    )
    from detheads.foundation.bundle import onnx_file, read_manifest

    if image is None and storage_uri is None:
        raise UserError("give --image for a Deployment of 'detheads deploy serve', --storage-uri for KServe, or both.")
    manifest = read_manifest(bundle)
    onnx_file(bundle, manifest)
    if manifest.state != "verified":
        remark(f"{bundle} is {manifest.state}: nothing proves that it equals the trained model")
    if image is not None and backend == "cpu" and gpus:
        raise UserError("--backend cpu leaves the GPUs idle; take another one, such as cuda, or no --gpus.")
    wanted = Wanted(
        dns_name(manifest.name) if name is None else name,
        namespace,
        (min_replicas, max_replicas),
        Resources(cpu, memory, gpus),
    )
    server = None
    if image is not None:
        place = bundle_path or f"{IMAGE_FOLDER if claim is None else CLAIM_FOLDER}/{bundle.absolute().name}"
        server = Server(image, place, backend, claim, token_secret, drain_seconds)
        if token_secret is None:
            remark("anybody who reaches the service may use it: give --token-secret")
    files = write(output, wanted, server, storage_uri)
    answer = {"files": list(map(str, files)), "name": wanted.name, "bundle_state": manifest.state}
    emit(
        answer,
        as_json,
        lambda console: console.print(*(f"kubectl apply -f {quote(str(path))}" for path in files), sep="\n"),
    )
