"""The document at `/api/v1/openapi.json`, and as a page at `/docs`. Both are public: they say nothing about anybody."""

from typing import Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.openapi.document import document
from cualify_api.openapi.page import POLICY, page

KEPT: Final = "public, max-age=300"


def document_routes() -> APIRouter:
    """The two routes."""
    router = APIRouter()
    content = orjson.dumps(document())

    @router.get("/api/v1/openapi.json")
    async def get_document(request: Request) -> Response:
        headers = {"Cache-Control": KEPT, "Access-Control-Allow-Origin": "*"}
        return Response(content, media_type="application/json", headers=headers)

    @router.get("/docs")
    async def get_page(request: Request) -> Response:
        headers = {"Cache-Control": KEPT, "Content-Security-Policy": POLICY}
        return Response(page(), media_type="text/html", headers=headers)

    return router
