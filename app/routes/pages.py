"""What people open in a browser: the description to try out, and the way to it.

Its page is FastAPI's, with Swagger UI from jsDelivr; knows nothing of what it describes.
"""

import base64
import hashlib
import re

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import RedirectResponse

router = APIRouter(include_in_schema=False)

NO_ICON = "data:,"


@router.get("/")
async def root() -> RedirectResponse:
    return RedirectResponse("docs")


@router.get("/docs")
async def docs(request: Request) -> Response:
    page = get_swagger_ui_html(
        openapi_url="openapi.json", title=request.app.title, swagger_favicon_url=NO_ICON
    )
    page.headers["Content-Security-Policy"] = content_security_policy(bytes(page.body).decode())
    return page


def content_security_policy(html: str) -> str:
    """What the page names and nothing else; its own script by the hash.

    Swagger UI styles its elements inline, and shows an answer's picture from a blob.
    """
    scripts = re.findall(r'<script src="(.*?)"', html)
    styles = re.findall(r'<link [^>]*rel="stylesheet" href="(.*?)"', html)
    inline = [_hash_source(script) for script in re.findall(r"<script>(.*?)</script>", html, re.S)]
    return (
        f"default-src 'none'; script-src {' '.join(scripts + inline)}; "
        f"style-src {' '.join(styles)} 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash_source(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
