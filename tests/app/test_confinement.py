"""The service fetches no URL and loads no pickle, according to its sources and an audit hook."""

import ast
import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from model.errors import WeightsError
from model.weights import read_metadata, read_weights
from tests.conftest import PHOTO, REPOSITORY

FETCHING = {
    "aiohttp", "ftplib", "http.client", "httpx", "requests", "smtplib", "torch.hub",
    "urllib.request", "urllib3", "xmlrpc",
}  # fmt: skip
UNPICKLING = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}

WATCHED = """
import asyncio, json, pickle, sys, urllib.request

EVENTS = (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
    "urllib.Request", "pickle.find_class",
)
seen = []

def watch(event, arguments):
    if event in EVENTS:
        seen.append(event)

async def serve():
    import httpx
    sys.addaudithook(watch)
    from app.main import create_app
    from app.settings import Settings

    application = create_app(Settings(device="cpu", threads=1))
    async with application.router.lifespan_context(application):
        await asyncio.wrap_future(application.state.service.started)
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            url = "http://127.0.0.1:1/photo.jpg"
            photo = open("docs/images/cat.jpg", "rb").read()
            assert (await client.post("/v1/segment", content=photo)).status_code == 200
            for body in (url, json.dumps({"url": url}), f'<svg><image href="{url}"/></svg>'):
                assert (await client.post("/v1/segment", content=body)).status_code == 415
            for form in ({"url": url}, {"file": url}):
                parts = {name: (None, text) for name, text in form.items()}
                assert (await client.post("/v1/segment", files=parts)).status_code == 400
            assert (await client.post("/v1/segment", params={"url": url})).status_code == 400
            pickled = pickle.dumps(print)
            assert (await client.post("/v1/segment", content=pickled)).status_code == 415

asyncio.run(serve())
served = list(seen)
# And the watch itself, watched.
pickle.loads(pickle.dumps(print))
try:
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://127.0.0.1:1/")
except OSError:
    pass
print(json.dumps([served, seen[len(served):]]))
"""


def module_path(name):
    path = REPOSITORY / name.replace(".", "/")
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"


def imported(tree):
    """Names of modules, and of what is taken from them, which may be modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def serving_modules():
    """{name: syntax tree} of everything of ours that the program can come to import."""
    modules, waiting = {}, ["app.__main__"]
    while waiting:
        name = waiting.pop()
        if name in modules or not module_path(name).is_file():
            continue
        modules[name] = tree = ast.parse(module_path(name).read_text())
        waiting += [other for other in imported(tree) if other.startswith(("app.", "model."))]
    return modules


def test_the_modules_that_serve_are_found():
    modules = serving_modules()
    assert {"app.routes.segment", "model.weights", "model.engines.torch_engine"} <= modules.keys()
    assert not {"model.train", "model.convert"} & modules.keys()


def test_no_module_that_serves_can_fetch_or_unpickle():
    for name, tree in serving_modules().items():
        for module in imported(tree):
            roots = {module, module.split(".")[0]}
            assert not roots & (FETCHING | UNPICKLING), f"{name} imports {module}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "load":
                assert ast.unparse(node) not in ("torch.load", "np.load", "numpy.load"), name
            assert not (isinstance(node, ast.keyword) and node.arg == "allow_pickle"), name


def test_the_running_service_fetches_and_unpickles_nothing():
    output = subprocess.run(
        [sys.executable, "-c", WATCHED], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert output.returncode == 0, output.stderr
    served, control = json.loads(output.stdout.splitlines()[-1])
    assert served == []
    assert set(control) >= {"pickle.find_class", "urllib.Request", "socket.connect"}


class Evil:
    """Makes a folder if it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def pickled(evil):
    return pickle.dumps(evil)


def saved_by_torch(evil):
    file = io.BytesIO()
    torch.save(evil, file)
    return file.getvalue()


def saved_by_numpy(evil):
    file = io.BytesIO()
    np.save(file, np.array([evil]), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("save", [pickled, saved_by_torch, saved_by_numpy])
def test_a_pickle_is_neither_an_upload_nor_weights(client, tmp_path, save):
    data = save(Evil(tmp_path / "unpickled"))
    for content in (data, PHOTO.read_bytes()[:100] + data):
        assert client.post("/v1/segment", content=content).status_code in (415, 422)
    assert client.post("/v1/segment", content=data).status_code == 415
    (tmp_path / "weights").write_bytes(data)
    for read in (read_metadata, read_weights):
        with pytest.raises(WeightsError, match="expected a safetensors file"):
            read(tmp_path / "weights")
    assert not (tmp_path / "unpickled").exists()
    pickle.loads(pickled(Evil(tmp_path / "unpickled")))
    assert (tmp_path / "unpickled").exists(), "it would have been"
