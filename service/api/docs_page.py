"""GET /docs: every route with its summary, as a page that loads nothing from elsewhere."""

from html import escape

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

STYLE = (
    "body{font:1rem/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{white-space:nowrap}"
)

router = APIRouter()


@router.get("/docs", response_class=HTMLResponse, include_in_schema=False)
async def docs(request: Request) -> str:
    """The routes, from the OpenAPI document."""
    rows = [
        f"<tr><td><code>{method.upper()} {escape(path)}</code></td>"
        f"<td>{escape(operation.get('description', ''))}</td></tr>"
        for path, methods in request.app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        f'<!doctype html><html lang="en"><title>Diff-Plugin Serve: HTTP API</title>'
        f"<style>{STYLE}</style><h1>HTTP API</h1>"
        '<p>The whole contract: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).</p>'
        f"<table>{''.join(rows)}</table></html>"
    )
