"""Every error that a caller can meet.

DiffPluginError
├── ClientError                 the request must change
│   ├── InvalidRequest          a field is missing, unknown or out of range
│   ├── InvalidImage            the bytes are not an image that can be read
│   ├── UnsupportedImageType    an image, but of a format that is not served
│   ├── ImageTooLarge           too many bytes or pixels
│   ├── Unauthenticated         no API key, or none that is known
│   ├── Forbidden               the key may not do that
│   ├── UnknownPlugin           a plugin was named that is not installed
│   ├── InvalidCheckpoint       weights on disk that are damaged, foreign, or code
│   ├── JobNotFound             no job of that id, or it was forgotten
│   └── JobNotFinished          its result was asked for too early
├── Unavailable                 try again later
│   ├── Overloaded              the queue is full
│   ├── RateLimited             the key was used too often
│   ├── NoWorker                no live worker (or selector) to serve the request
│   └── QueueUnavailable        Redis does not answer
├── DeadlineExceeded            the job's deadline passed first
├── JobCanceled                 it was canceled before it finished
└── EditFailed                  the engine could not finish the job
"""

from collections.abc import Mapping


class DiffPluginError(Exception):
    """`code` is stable and the same on every wire; the message says what to change.

    `title` and `remedy` are of the kind: docs/errors.md is made of them.
    """

    code = "internal"
    title = "Internal error"
    remedy = "Report it with the request id; the log of the service has the traceback."


class ClientError(DiffPluginError):
    code = "bad_request"
    title = "Bad request"
    remedy = "Read `detail`."


class InvalidRequest(ClientError):
    """`fields` says of each field what is wrong with it, as far as that is known."""

    code = "invalid_request"
    title = "A field is missing, unknown or out of range"
    remedy = "Change the fields that `detail` names."

    def __init__(self, message: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.fields = dict(fields or {})


class InvalidImage(ClientError):
    code = "invalid_image"
    title = "The image cannot be read"
    remedy = "Send a whole, undamaged image file."


class UnsupportedImageType(ClientError):
    code = "unsupported_image_type"
    title = "The image format is not supported"
    remedy = "Send one of the formats that `detail` lists."


class ImageTooLarge(ClientError):
    code = "image_too_large"
    title = "The image is too large"
    remedy = "Send a smaller file, or fewer pixels."


class Unauthenticated(ClientError):
    code = "unauthenticated"
    title = "A valid API key is needed"
    remedy = "Send `Authorization: Bearer <key>` or `X-API-Key: <key>`."


class Forbidden(ClientError):
    code = "forbidden"
    title = "The API key may not do that"
    remedy = "Use a key that has the scope."


class UnknownPlugin(ClientError):
    code = "unknown_plugin"
    title = "No such plugin"
    remedy = "Name plugins that `GET /v1/plugins` lists."


class InvalidCheckpoint(ClientError):
    code = "invalid_checkpoint"
    title = "Weights that cannot be used"


class JobNotFound(ClientError):
    code = "job_not_found"
    title = "No such job"
    remedy = "Check the id; jobs and results are forgotten after a while."


class JobNotFinished(ClientError):
    code = "job_not_finished"
    title = "The job has no result yet"
    remedy = "Ask again later, or follow the events of the job."


class Unavailable(DiffPluginError):
    """`retry_after_s` is when a new attempt has a chance."""

    code = "unavailable"
    title = "The service cannot take the request now"
    remedy = "Try again after `Retry-After` seconds."

    def __init__(self, message: str, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    code = "overloaded"
    title = "Too many jobs are waiting"
    remedy = "Try again after `Retry-After` seconds."


class RateLimited(Unavailable):
    code = "rate_limited"
    title = "The API key was used too often"
    remedy = "Try again after `Retry-After` seconds, or ask for a higher rate."


class NoWorker(Unavailable):
    code = "no_worker"
    title = "No worker is alive"
    remedy = "Try again after `Retry-After` seconds; `/readyz` says what is missing."


class QueueUnavailable(Unavailable):
    code = "queue_unavailable"
    title = "The queue does not answer"
    remedy = "Try again after `Retry-After` seconds."


class DeadlineExceeded(DiffPluginError):
    code = "deadline_exceeded"
    title = "The deadline passed before the job finished"
    remedy = "Send a longer `timeout`, or ask for less."


class JobCanceled(DiffPluginError):
    code = "canceled"
    title = "The job was canceled"
    remedy = "Nothing: somebody wanted it so."


class EditFailed(DiffPluginError):
    code = "edit_failed"
    title = "The edit failed"
    remedy = "Try again once; then report it with the job id."


def by_code(code: str) -> type[DiffPluginError]:
    """The class of a code that came over a wire; DiffPluginError if it is not known here."""
    return {leaf.code: leaf for leaf in leaves()}.get(code, DiffPluginError)


def leaves(root: type[DiffPluginError] = DiffPluginError) -> list[type[DiffPluginError]]:
    """Every class of the tree, the root first."""
    return [root, *(leaf for child in root.__subclasses__() for leaf in leaves(child))]
