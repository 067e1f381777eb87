"""The Open Inference Protocol, version 2, at /v2, which the clients of KServe and Triton use."""

import re
from typing import Any

from fastapi import APIRouter, Request, Response, status

from app import __version__
from app.codecs.tensors import FILE, IMAGE, MASK
from app.errors import InvalidTensor
from app.formats import AnswerOptions
from app.http.description import BINARY, describe_protocol_errors
from app.http.paths import MODEL_NAME, MODEL_PATH, MODEL_VERSION, PROTOCOL_PREFIX, VERSION_PATH
from app.http.uploads import read_tensors
from app.protocol_schemas import (
    ModelMetadata,
    ModelReadiness,
    ServerLiveness,
    ServerMetadata,
    ServerReadiness,
)
from app.routes.health import find_state, is_usable
from app.routes.sending import respond
from app.state import State
from app.tasks.inference import InferenceTask
from app.tasks.segmentation import carry_out, open_context

router = APIRouter(tags=["open inference protocol"], responses=describe_protocol_errors())

JSON_LENGTH = "Inference-Header-Content-Length"
"""The header with the length of the JSON in a body, if binary data follows the JSON."""

MAX_LENGTH_DIGITS = 10

INPUTS = (
    {"name": IMAGE, "datatype": "UINT8", "shape": [-1, -1, 3]},
    {"name": FILE, "datatype": "BYTES", "shape": [1]},
)
OUTPUTS = ({"name": MASK, "datatype": "UINT8", "shape": [-1, -1]},)

TENSORS = {"type": "array", "items": {"type": "object"}}
REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": ["string", "null"]},
                    "parameters": {"type": ["object", "null"]},
                    "inputs": TENSORS,
                    "outputs": TENSORS | {"type": ["array", "null"]},
                },
            },
            "example": {
                "inputs": [
                    {"name": IMAGE, "datatype": "UINT8", "shape": [1, 2, 3], "data": [0] * 6},
                ]
            },
        },
        "application/octet-stream": {
            "schema": {**BINARY, "description": f"JSON of {JSON_LENGTH} bytes, then binary data"}
        },
    },
}
MASK_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The mask, in the JSON or, if the request asks for it, in binary after it",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "model_name": MODEL_NAME,
                    "model_version": MODEL_VERSION,
                    "outputs": [
                        {"name": MASK, "datatype": "UINT8", "shape": [1, 2], "data": [0, 8]}
                    ],
                },
            },
            "application/octet-stream": {"schema": BINARY},
        },
    }
}


@router.get(PROTOCOL_PREFIX, summary="Describe the server")
async def server_metadata() -> ServerMetadata:
    """The name of the server and the extensions of the protocol that it supports."""
    return ServerMetadata(
        name="fcn-segmentation-service", version=__version__, extensions=["binary_tensor_data"]
    )


@router.get(f"{PROTOCOL_PREFIX}/health/live", summary="Tell whether the server works")
async def server_live(request: Request, response: Response) -> ServerLiveness:
    """Answer 503 if the service cannot work any more and should be replaced."""
    live = is_usable(request.app.state.service)
    if not live:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return ServerLiveness(live=live)


@router.get(f"{PROTOCOL_PREFIX}/health/ready", summary="Tell whether the server takes requests")
async def server_ready(request: Request, response: Response) -> ServerReadiness:
    """Answer 503 until the engine is warm, and again after SIGTERM."""
    ready = find_state(request.app.state.service) is State.READY
    if not ready:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return ServerReadiness(ready=ready)


@router.get(f"{VERSION_PATH}/ready", include_in_schema=False)
@router.get(f"{MODEL_PATH}/ready", summary="Tell whether the model takes requests")
async def model_ready(request: Request, response: Response) -> ModelReadiness:
    """Answer 503 until the engine is warm, and again after SIGTERM."""
    ready = (await server_ready(request, response)).ready
    return ModelReadiness(name=MODEL_NAME, ready=ready)


@router.get(VERSION_PATH, include_in_schema=False)
@router.get(MODEL_PATH, summary="Describe the tensors of the model")
async def model_metadata() -> ModelMetadata:
    """The tensors of the model: one of the two inputs, and the mask."""
    return ModelMetadata(
        name=MODEL_NAME,
        versions=[MODEL_VERSION],
        platform="fcn",
        inputs=list(INPUTS),
        outputs=list(OUTPUTS),
    )


@router.get(f"{VERSION_PATH}/config", include_in_schema=False)
@router.get(f"{MODEL_PATH}/config", include_in_schema=False)
async def model_config() -> dict[str, Any]:
    """The model configuration, an extension of Triton that its perf_analyzer requests."""

    def describe(tensor: dict[str, Any]) -> dict[str, Any]:
        kind = tensor["datatype"].replace("BYTES", "STRING")
        return {"name": tensor["name"], "data_type": f"TYPE_{kind}", "dims": tensor["shape"]}

    return {
        "name": MODEL_NAME,
        "platform": "fcn",
        "backend": "fcn",
        "max_batch_size": 0,  # there is no batch dimension: concurrent requests share batches
        "input": [{**describe(tensor), "optional": True} for tensor in INPUTS],
        "output": [describe(tensor) for tensor in OUTPUTS],
    }


@router.post(f"{VERSION_PATH}/infer", response_class=Response, include_in_schema=False)
@router.post(
    f"{MODEL_PATH}/infer",
    summary="Segment an image, given as a tensor",
    response_class=Response,
    responses=MASK_ANSWER,
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def infer(request: Request) -> Response:
    """Segment one image: pixels as the tensor `image`, or an encoded file as the tensor `file`."""
    context = open_context(request)
    task = InferenceTask(
        context=context,
        options=AnswerOptions(),
        scaling=context.predictor.scaling,
        due=context.find_due(),
        json_bytes=read_json_length(request),
    )
    answer, json_bytes = await carry_out(request, task, task.infer, read=read_tensors)
    if json_bytes is None:
        return respond(task, answer, media_type="application/json", headers={})
    return respond(
        task,
        answer,
        media_type="application/octet-stream",
        headers={JSON_LENGTH: str(json_bytes)},
    )


def read_json_length(request: Request) -> int | None:
    """Return the value of Inference-Header-Content-Length. Raises InvalidTensor."""
    text = request.headers.get(JSON_LENGTH)
    if text is None:
        return None
    if not re.fullmatch(rf"[0-9]{{1,{MAX_LENGTH_DIGITS}}}", text):
        raise InvalidTensor(
            f"{JSON_LENGTH}: {text[:50]!r} is not a number of bytes.",
            remedy="Send the length of the JSON before the binary data.",
        )
    return int(text)
