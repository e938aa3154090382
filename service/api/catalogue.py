"""The error catalogue: what every error of service.errors is on each wire, in one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from grpc import StatusCode

from service import errors


@dataclass(frozen=True)
class WireStatus:
    http: int
    grpc: StatusCode


# 499 is nginx's "client closed request": HTTP has no status for a job that the caller canceled.
CATALOGUE: Mapping[type[errors.DiffPluginError], WireStatus] = MappingProxyType(
    {
        errors.DiffPluginError: WireStatus(500, StatusCode.INTERNAL),
        errors.ClientError: WireStatus(400, StatusCode.INVALID_ARGUMENT),
        errors.InvalidRequest: WireStatus(422, StatusCode.INVALID_ARGUMENT),
        errors.InvalidImage: WireStatus(422, StatusCode.INVALID_ARGUMENT),
        errors.UnsupportedImageType: WireStatus(415, StatusCode.INVALID_ARGUMENT),
        errors.ImageTooLarge: WireStatus(413, StatusCode.INVALID_ARGUMENT),
        errors.Unauthenticated: WireStatus(401, StatusCode.UNAUTHENTICATED),
        errors.Forbidden: WireStatus(403, StatusCode.PERMISSION_DENIED),
        errors.UnknownPlugin: WireStatus(422, StatusCode.INVALID_ARGUMENT),
        errors.InvalidCheckpoint: WireStatus(422, StatusCode.INVALID_ARGUMENT),
        errors.JobNotFound: WireStatus(404, StatusCode.NOT_FOUND),
        errors.JobNotFinished: WireStatus(409, StatusCode.FAILED_PRECONDITION),
        errors.Unavailable: WireStatus(503, StatusCode.UNAVAILABLE),
        errors.Overloaded: WireStatus(429, StatusCode.RESOURCE_EXHAUSTED),
        errors.RateLimited: WireStatus(429, StatusCode.RESOURCE_EXHAUSTED),
        errors.NoWorker: WireStatus(503, StatusCode.UNAVAILABLE),
        errors.QueueUnavailable: WireStatus(503, StatusCode.UNAVAILABLE),
        errors.DeadlineExceeded: WireStatus(504, StatusCode.DEADLINE_EXCEEDED),
        errors.JobCanceled: WireStatus(499, StatusCode.CANCELLED),
        errors.EditFailed: WireStatus(500, StatusCode.INTERNAL),
    }
)


def violations_of(error: errors.DiffPluginError) -> dict[str, str]:
    """The fields of the request that have to change, and what is wrong with each."""
    if isinstance(error, errors.InvalidRequest):
        return error.fields
    if isinstance(error, errors.InvalidImage | errors.UnsupportedImageType | errors.ImageTooLarge):
        return {"image": str(error)}
    return {"plugins": str(error)} if isinstance(error, errors.UnknownPlugin) else {}
