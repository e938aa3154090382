"""The web page at `/` and its files under `/web/`, each with a strict content security policy."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.staticfiles import StaticFiles

# Scripts, styles and calls of this origin alone. Pictures may also come from memory: photos and
# results are blobs, previews are data.
POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob: data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
HEADERS = {
    "Content-Security-Policy": "; ".join(POLICY),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, so an update is seen at the next load
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(request: Request) -> Response:
    """The page itself."""
    return await _answer("index.html", request)


@router.get("/web/{path:path}")
async def page_file(path: str, request: Request) -> Response:
    """A script, a style, the icon or a sample photo; 404 for anything else."""
    return await _answer(path, request)


async def _answer(path: str, request: Request) -> Response:
    files = StaticFiles(packages=[("service.api", "web")])
    answer = await files.get_response(path, request.scope)
    answer.headers.update(HEADERS)
    return answer
