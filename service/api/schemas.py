"""What callers send and get: the fields of a request and the shapes of the JSON answers."""

import base64
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic_core
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from service.errors import InvalidRequest
from service.images import LOSSY, OutputFormat
from service.jobs import Job, JobStatus, Plan, Record, Timings, WebhookEvent
from service.plugin_manifest import PluginManifest

MAX_SEED = 2**32 - 1
MAX_PREVIEWS = 3  # as OpenAI's partial_images
MAX_SCORES = 256


class Fields(BaseModel):
    """Fields of one request as any wire carries them; an unknown one is refused, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str = Field("", description="What to do, e.g. remove the rain, then brighten it.")
    timeout: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Seconds until the job is given up."
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any], is_strict: bool = False) -> Self:
        """Checked fields; InvalidRequest names each field that is wrong.

        Forms and messages carry numbers as text; `is_strict` takes each type of JSON as it is.
        """
        try:
            if is_strict:
                return cls.model_validate_json(pydantic_core.to_json(values), strict=True)
            return cls.model_validate(values)
        except ValidationError as error:
            fields = explain(error, cls)
            raise InvalidRequest("; ".join(fields.values()), fields) from error


class PlanFields(Fields):
    """POST /v1/plan."""


class EditFields(Fields):
    """POST /v1/edit."""

    plugins: tuple[str, ...] | None = Field(
        None,
        description="Plugins to run, in this order, instead of what the selector would choose.",
    )
    steps: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Denoising steps per task; each plugin has its own default."
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(
        None, description="Same seed, same result; random if absent. The answer names it."
    )
    output_format: OutputFormat = "png"
    priority: Literal["high", "normal", "low"] = Field(
        "normal", description="Class that the job waits in; none is starved by a better one."
    )
    output_quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="Of jpeg, webp and avif: 1 to 100."
    )
    metadata: Literal["keep", "strip"] = Field(
        "keep", description="EXIF, XMP and IPTC; the colour profile stays either way."
    )
    plan: Plan | None = Field(
        None,
        description="The plan that /v1/plan answered, edited or not: its tasks run in their order.",
    )
    strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        1.0, description="How much of the change is kept: 0 gives the photo back, 1 all of it."
    )
    previews: Annotated[int, Field(ge=0, le=MAX_PREVIEWS)] = Field(
        0, description="Most preview pictures among the job's events."
    )

    webhook: str | None = Field(None, description="URL that is told what becomes of the job.")
    webhook_events_filter: tuple[WebhookEvent, ...] = Field(
        ("start", "completed"), description="What it is told; progress at most twice a second."
    )

    @field_validator("webhook_events_filter", mode="before")
    @classmethod
    def _split_events(cls, value: object) -> object:
        """`start,completed` in a form is a list."""
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            return value
        return tuple(name.strip() for part in parts for name in part.split(","))

    @field_validator("plugins", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        """`derain,lowlight`, repeated fields and lists mean the same; nothing at all means None."""
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            return value
        names = [name.strip() for part in parts for name in part.split(",")]
        return tuple(name for name in names if name) or None

    @field_validator("plan", mode="before")
    @classmethod
    def _read_plan(cls, value: object) -> object:
        """A form carries the plan as JSON text."""
        try:
            if isinstance(value, str):
                value = pydantic_core.from_json(value, allow_inf_nan=False)
            plan = None if value is None else Plan.model_validate(value)
        except ValidationError as error:
            raise ValueError("; ".join(explain(error, Plan).values())) from error
        except ValueError as error:
            raise ValueError(f"send the plan as JSON: {error}") from error
        if plan is not None and len(plan.scores) > MAX_SCORES:
            raise ValueError(f"a plan has at most {MAX_SCORES} scores")
        return plan

    @model_validator(mode="after")
    def _check_sequence(self) -> Self:
        if self.plan is not None and self.plugins is not None:
            raise ValueError("send either a plan or plugins; both say what is to run")
        return self

    @model_validator(mode="after")
    def _check_quality(self) -> Self:
        if self.output_quality is not None and self.output_format not in LOSSY:
            raise ValueError(
                f"output_quality is of {', '.join(LOSSY)}; {self.output_format} loses nothing"
            )
        return self


def explain(error: ValidationError, model: type[BaseModel]) -> dict[str, str]:
    """What is wrong, by field; under "" what is wrong with several together."""
    files = () if issubclass(model, Record) else ("image", "mask")
    accepted = ", ".join([*files, *model.model_fields])
    fields: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            fields[name] = f"field {name!r} is unknown; the fields are {accepted}"
        elif not name:
            fields[name] = problem["msg"]
        else:
            fields[name] = f"field {name!r}: {problem['msg']}"
    return fields


class ResultFile(Record):
    """The restored image inside a JSON answer."""

    media_type: str
    base64: str


class EditAnswer(Record):
    """POST /v1/edit with `Accept: application/json`."""

    id: str
    status: JobStatus
    plan: Plan | None
    seed: int
    versions: dict[str, str] = Field(description="Of the plugins that it ran on.")
    no_op: bool = Field(description="Nothing was to be done: the result is the input.")
    timings: Timings
    result: ResultFile

    @classmethod
    def of(cls, job: Job, result: bytes, media_type: str) -> Self:
        file = ResultFile(media_type=media_type, base64=base64.b64encode(result).decode())
        return cls(
            id=job.id,
            status=job.status,
            plan=job.plan,
            seed=job.request.seed,
            versions=job.versions,
            no_op=job.no_op,
            timings=job.timings,
            result=file,
        )


class PlanAnswer(Record):
    """POST /v1/plan: what /v1/edit would run, and why. It takes `plan` back, edited or not."""

    id: str
    plan: Plan
    estimated_s: float | None = Field(
        description="Seconds that the edit would take, waiting included; null if no worker "
        "has finished an edit lately."
    )
    timings: Timings


class PluginList(Record):
    """GET /v1/plugins."""

    base: str
    plugins: tuple[PluginManifest, ...]


class Readiness(Record):
    """GET /readyz: `missing` says what to start."""

    status: Literal["ready", "not_ready"]
    missing: tuple[str, ...] = ()
    workers: int = 0
    selectors: int = 0


class V2Readiness(Record):
    """GET /v2/health/ready."""

    ready: bool


class ServerMetadata(Record):
    """GET /v2; no extension of the Open Inference Protocol is served."""

    name: str = "diffplugin-serve"
    version: str
    extensions: tuple[str, ...] = ()


class TensorMetadata(Record):
    """Of the Open Inference Protocol."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Record):
    """GET /v2/models/{name}."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ModelReadiness(Record):
    """GET /v2/models/{name}/ready."""

    name: str
    ready: bool
