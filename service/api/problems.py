"""Errors as HTTP answers: RFC 9457 application/problem+json. Their statuses: api.catalogue."""

from collections.abc import Mapping
from types import MappingProxyType

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from service import errors
from service.api.catalogue import CATALOGUE
from service.api.openai_errors import body, is_openai, openai_problem

MEDIA_TYPE = "application/problem+json"

# What the router itself answers, before any of our code runs: code and title by status.
ROUTER_CODES: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        404: ("route_not_found", "No such route"),
        405: ("method_not_allowed", "The route does not take this method"),
    }
)


class Problem(BaseModel):
    """RFC 9457; `code` is stable, `detail` says what to change."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(description="URN that ends in the code.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="Path of the request.")
    code: str = Field(description="Stable, the same over HTTP, gRPC and in a job's `error`.")
    request_id: str


def problem_of(error: errors.DiffPluginError, request: Request) -> Response:
    """The answer that `error` becomes."""
    headers = {}
    if isinstance(error, errors.Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if is_openai(request.scope["path"]):
        return openai_problem(error, headers)
    status = CATALOGUE[type(error)].http
    return _answer(request, status, error.code, error.title, str(error), headers)


def add_problem_handlers(app: FastAPI) -> None:
    """Every error of ours and of the router is answered as a problem."""
    app.add_exception_handler(errors.DiffPluginError, _on_error)
    app.add_exception_handler(HTTPException, _on_router_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameter)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.DiffPluginError), (
        "registered for our own errors. This is a bug."
    )
    return problem_of(error, request)


async def _on_router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for HTTPException. This is a bug."
    code, title = ROUTER_CODES.get(error.status_code, ("bad_request", "Bad request"))
    detail = f"{error.detail}: {request.method} {request.url.path}"
    if is_openai(request.scope["path"]):
        answer = body(detail, "invalid_request_error", code)
        return JSONResponse(answer, error.status_code, error.headers)
    return _answer(request, error.status_code, code, title, detail, dict(error.headers or {}))


async def _on_invalid_parameter(request: Request, error: Exception) -> Response:
    return problem_of(errors.InvalidRequest(str(error)), request)


def _answer(
    request: Request, status: int, code: str, title: str, detail: str, headers: dict[str, str]
) -> Response:
    problem = Problem(
        type=f"urn:diffplugin:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        instance=request.scope["path"],
        code=code,
        request_id=request.state.request_id,
    )
    return Response(problem.model_dump_json(), status, headers, media_type=MEDIA_TYPE)
