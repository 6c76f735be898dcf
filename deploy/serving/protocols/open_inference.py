"""The Open Inference Protocol v2 over HTTP, as KServe, Triton and OpenVINO Model Server speak it.

A model's tensors are those of the bundle's own graph: ``images`` uint8 ``[B, 3, H, W]``, letterboxed RGB, in; ``boxes``
(xyxy, pixels of the input), ``scores`` and ``labels`` of each head out. With Triton's extensions for binary tensors,
model configuration, statistics and the index of the repository, and compressed bodies both ways.
"""

from collections import defaultdict
from collections.abc import Callable
from time import perf_counter
from typing import Annotated, Final

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Request, Response

from detheads import __version__
from detheads.deploy.serving.models import Models, Refused, Served
from detheads.deploy.serving.protocols import inference_schema as schema
from detheads.deploy.serving.protocols.compression import compress, decompress
from detheads.deploy.serving.protocols.refusing import refusing
from detheads.deploy.serving.protocols.statistics import Statistics
from detheads.deploy.serving.protocols.tensors import HEADER_LENGTH, InferRequest, encode_response, parse_request
from detheads.deploy.serving.schema import Problem
from detheads.deploy.serving.settings import Settings

VERSION: Final = "1"
"""The only version of a model; a bundle that takes its place keeps it."""
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
OPEN: Final = frozenset({"/v2/health/live", "/v2/health/ready"})


def router(models: Models, settings: Settings) -> APIRouter:
    routes = APIRouter(
        prefix="/v2",
        tags=["Open Inference Protocol"],
        route_class=refusing(lambda sentence: {"error": sentence}),
    )
    statistics: defaultdict[str, Statistics] = defaultdict(Statistics)

    @routes.get("/health/live")
    async def live() -> dict[str, bool]:
        """The process answers."""
        return {"live": True}

    @routes.get("/health/ready", responses={503: {"model": Problem}})
    async def ready() -> dict[str, bool]:
        """New requests may come."""
        _require_ready(models)
        return {"ready": True}

    @routes.get("")
    async def server() -> schema.ServerMetadata:
        """What serves here, and which extensions of the protocol."""
        return schema.ServerMetadata(name="detheads", version=__version__, extensions=list(EXTENSIONS))

    @routes.post("/repository/index")
    async def index() -> list[schema.IndexEntry]:
        """The bundles; all of them are open."""
        return [schema.IndexEntry(name=served.name, version=VERSION, state="READY", reason="") for served in models]

    @routes.get("/models/stats")
    async def all_statistics() -> schema.ModelStatistics:
        """What became of the requests of this interface, in this process since it began."""
        return schema.ModelStatistics(
            model_stats=[statistics[served.name].document(served.name, VERSION) for served in models]
        )

    @routes.post("/repository/models/{name}/{action}", include_in_schema=False)
    async def repository(name: str, action: str) -> None:
        raise Refused(400, f"bundles are not {action[:20]}ed by clients: the server watches the folders it was given.")

    @routes.api_route("/{kind}sharedmemory/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
    async def shared_memory(kind: str, rest: str) -> None:
        raise Refused(400, "shared memory is not offered here; send tensors in the request, binary ones are as quick.")

    def newest(name: str) -> Served:
        return models.get(name)

    def of_version(name: str, version: str) -> Served:
        if version != VERSION:
            raise Refused(404, f"{models.get(name).name} has no version {version[:20]!r}, only {VERSION}.")
        return models.get(name)

    routes.include_router(_of_model(newest, models, settings, statistics), prefix="/models/{name}")
    routes.include_router(
        _of_model(of_version, models, settings, statistics), prefix="/models/{name}/versions/{version}"
    )
    return routes


def _of_model(
    chosen: Callable[..., Served], models: Models, settings: Settings, statistics: defaultdict[str, Statistics]
) -> APIRouter:
    """What is asked of one model, which ``chosen`` finds from the parameters of the path."""
    routes = APIRouter(route_class=refusing(lambda sentence: {"error": sentence}))
    readers = CapacityLimiter(settings.decoders)  # numbers as JSON take some ten times the memory of the tensor

    @routes.get("")
    async def metadata(served: Annotated[Served, Depends(chosen)]) -> schema.ModelMetadata:
        """The tensors of a model; -1 stands for any batch."""
        return schema.model_metadata(served, VERSION)

    @routes.get("/ready", responses={503: {"model": Problem}})
    async def ready(served: Annotated[Served, Depends(chosen)]) -> schema.ModelReady:
        """The model answers."""
        _require_ready(models)
        return schema.ModelReady(name=served.name, ready=True)

    @routes.get("/config")
    async def config(served: Annotated[Served, Depends(chosen)]) -> schema.ModelConfig:
        """The model as Triton would describe it; dimensions are those of one picture."""
        return schema.model_config(served, settings.max_batch)

    @routes.get("/stats")
    async def stats(served: Annotated[Served, Depends(chosen)]) -> schema.ModelStatistics:
        """What became of the model's requests of this interface, in this process since it began."""
        return schema.ModelStatistics(model_stats=[statistics[served.name].document(served.name, VERSION)])

    @routes.post("/infer", openapi_extra=schema.INFER_BODY, responses=schema.INFER_ANSWERS, response_class=Response)
    async def infer(served: Annotated[Served, Depends(chosen)], request: Request) -> Response:
        """The graph's outputs for letterboxed pictures; tensors as JSON or as bytes after it, both ways."""
        began = perf_counter()
        counted = statistics[served.name]
        try:
            asked = await _read(request, served, settings, readers)
            found = await served.infer(asked.images)
        except Exception:
            counted.failed(perf_counter() - began)
            raise
        counted.succeeded(len(asked.images), perf_counter() - began)
        said = {"model_name": served.name, "model_version": VERSION} | ({"id": asked.id} if asked.id else {})
        body, length = encode_response(said, found, asked.outputs)
        headers = {} if length is None else {HEADER_LENGTH: str(length)}
        body, coding = compress(body, request.headers.get("accept-encoding"))
        if coding is not None:
            headers["Content-Encoding"] = coding
        kind = "application/json" if length is None else "application/octet-stream"
        return Response(body, media_type=kind, headers=headers)

    return routes


async def _read(request: Request, served: Served, settings: Settings, readers: CapacityLimiter) -> InferRequest:
    """The request's tensors; taken apart in a thread, since a picture as JSON takes tens of milliseconds."""
    body = await request.body()
    size = served.detector.manifest.input
    known = list(schema.output_shapes(served))

    def parse() -> InferRequest:
        content = decompress(body, request.headers.get("content-encoding"), settings.max_bytes)
        return parse_request(content, request.headers.get(HEADER_LENGTH), (size.height, size.width), known)

    return await to_thread.run_sync(parse, limiter=readers)


def _require_ready(models: Models) -> None:
    if not models.ready:
        raise Refused(503, "this server was asked to end; ask another one.")
