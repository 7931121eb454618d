"""Documentation: the OpenAPI document and a page to read it with, all from our own origin."""

from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from litestar import Response, get

from app.problems import Answer, Problem
from app.wire import ApiRequest

_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Messages API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = b"""SwaggerUIBundle({ url: "/schema/openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null });
"""
_ASSETS = {
    "start.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
# Nothing inline and nothing foreign; the bundle embeds its pictures as data.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}


@get(
    "/schema/openapi.json",
    operation_id="getOpenapi",
    opt={"answers": {200: Answer("This document.", None, "application/json")}},
)
async def openapi(request: ApiRequest) -> Response[bytes]:
    """Answer the OpenAPI 3.1 document."""
    return Response(request.app.state["openapi"], media_type="application/json")


@get(
    "/docs",
    operation_id="getDocs",
    opt={"answers": {200: Answer("A page for people.", None, "text/html")}},
)
async def page() -> Response[bytes]:
    """Answer the page that shows the document."""
    return Response(_PAGE, media_type="text/html", headers=_HEADERS)


@get("/docs/{name:str}")
async def asset(request: ApiRequest) -> Response[bytes]:
    """Answer one of the three files the page needs."""
    name = request.path_params["name"]
    if name not in _ASSETS:
        raise Problem("not_found")
    return Response(_asset(name), media_type=_ASSETS[name], headers=_HEADERS)


@cache
def _asset(name: str) -> bytes:
    if name == "start.js":
        return _START
    # Only the files of that package are used; its code is never imported.
    return Path(str(distribution("swagger-ui-py").locate_file(f"swagger_ui/static/{name}"))).read_bytes()
