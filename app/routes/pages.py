"""The pages for a browser: /docs with Swagger UI, and a redirect to it.

The page is FastAPI's; Swagger UI comes from jsDelivr.
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
    page.headers["Content-Security-Policy"] = build_content_security_policy(
        bytes(page.body).decode()
    )
    return page


def build_content_security_policy(html: str) -> str:
    """Return a policy that allows the scripts and styles that the page names, and no others.

    The page's inline script is allowed by its hash. Swagger UI needs inline styles, and shows an
    answer's image from a blob.
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
