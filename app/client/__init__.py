"""The Python client: photos in, masks out, from a server that runs anywhere.

    with Client("http://127.0.0.1:8000") as client:
        mask = client.segment("photo.jpg").mask

`AsyncClient` has the same methods as coroutines. Needs httpx, NumPy, Pillow and pydantic. Of the
server's code, it knows only the fields of answers.
"""

from app.client.clients import AsyncClient, Client
from app.client.errors import (
    AnswerTimeout,
    ClientError,
    InvalidAnswer,
    PhotoError,
    ProblemError,
    ServerUnreachable,
)
from app.client.retries import Retries
from app.client.segmentation import Segmentation

__all__ = [
    "AnswerTimeout",
    "AsyncClient",
    "Client",
    "ClientError",
    "InvalidAnswer",
    "PhotoError",
    "ProblemError",
    "Retries",
    "Segmentation",
    "ServerUnreachable",
]
