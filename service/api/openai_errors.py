"""Errors in OpenAI's shape, for the routes that OpenAI's clients call."""

from fastapi.responses import JSONResponse

from service import errors
from service.api.catalogue import CATALOGUE, violations_of

PREFIXES = ("/v1/images", "/v1/models")
# Fields of ours that have another name there.
PARAMS = {"instruction": "prompt", "plugins": "model"}


def is_openai(path: str) -> bool:
    return path.startswith(PREFIXES)


def openai_problem(error: errors.DiffPluginError, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse(openai_error(error), CATALOGUE[type(error)].http, headers)


def openai_error(error: errors.DiffPluginError) -> dict[str, dict[str, str | None]]:
    """The body, also of the error event of a stream."""
    status = CATALOGUE[type(error)].http
    param = next(iter(violations_of(error)), None)
    kind = "invalid_request_error" if status < 500 else "server_error"
    return body(str(error), kind, error.code, PARAMS.get(param or "", param))


def body(
    message: str, kind: str, code: str, param: str | None = None
) -> dict[str, dict[str, str | None]]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
