"""The pages for browsers: / to segment photos, /docs with Swagger UI, and their files.

Everything comes from this server: the policies allow no other source and nothing inline.
"""

from fastapi import APIRouter, HTTPException, Request, Response

from app.http.paths import WEB_PREFIX
from app.routes.assets import Asset, find_assets

COMMON = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

# The page makes blobs of photos and masks.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; "
    f"img-src 'self' blob:; connect-src 'self'; {COMMON}"
)
# Swagger UI's style sheet has images in data: URLs, and an answer's image is a blob.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    f"img-src 'self' data: blob:; connect-src 'self'; {COMMON}"
)


def make_router() -> APIRouter:
    """Return the routes of the pages. The handlers run in threads, because they read files."""
    router = APIRouter(include_in_schema=False)
    assets = find_assets({"Content-Security-Policy": PAGE_POLICY})
    page = assets.pop("index.html")
    docs_page = Asset(assets.pop("docs.html").path, {"Content-Security-Policy": DOCS_POLICY})

    @router.get("/")
    def root(request: Request) -> Response:
        return page.respond(request)

    @router.get("/docs")
    def docs(request: Request) -> Response:
        return docs_page.respond(request)

    @router.get(WEB_PREFIX + "{name:path}")
    def web(request: Request, name: str) -> Response:
        if name not in assets:
            raise HTTPException(404)
        return assets[name].respond(request)

    return router
