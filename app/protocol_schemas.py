"""The schemas of JSON answers of the Open Inference Protocol, version 2."""

from pydantic import BaseModel

from app.schemas import show_example


class ServerMetadata(BaseModel):
    """The server, as the Open Inference Protocol describes it."""

    model_config = show_example(
        name="fcn-segmentation-service", version="0.1.0", extensions=["binary_tensor_data"]
    )

    name: str
    version: str
    extensions: list[str]


class ServerLiveness(BaseModel):
    """Whether the server works."""

    model_config = show_example(live=True)

    live: bool


class ServerReadiness(BaseModel):
    """Whether the server accepts requests."""

    model_config = show_example(ready=True)

    ready: bool


class ModelReadiness(BaseModel):
    """Whether the model accepts requests."""

    model_config = show_example(name="fcn_resnet18", ready=True)

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor's name, type and shape; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """The model's tensors. A request has one of the inputs."""

    model_config = show_example(
        name="fcn_resnet18",
        versions=["1"],
        platform="fcn",
        inputs=[{"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}],
        outputs=[{"name": "mask", "datatype": "UINT8", "shape": [-1, -1]}],
    )

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ProtocolError(BaseModel):
    """An error of the Open Inference Protocol."""

    error: str
