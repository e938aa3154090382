from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OutputFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_FORMAT_UNSPECIFIED: _ClassVar[OutputFormat]
    OUTPUT_FORMAT_PNG: _ClassVar[OutputFormat]
    OUTPUT_FORMAT_JPEG: _ClassVar[OutputFormat]
    OUTPUT_FORMAT_WEBP: _ClassVar[OutputFormat]
    OUTPUT_FORMAT_AVIF: _ClassVar[OutputFormat]
    OUTPUT_FORMAT_TIFF: _ClassVar[OutputFormat]

class Metadata(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METADATA_UNSPECIFIED: _ClassVar[Metadata]
    METADATA_KEEP: _ClassVar[Metadata]
    METADATA_STRIP: _ClassVar[Metadata]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_HIGH: _ClassVar[Priority]
    PRIORITY_NORMAL: _ClassVar[Priority]
    PRIORITY_LOW: _ClassVar[Priority]

class JobStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATUS_UNSPECIFIED: _ClassVar[JobStatus]
    JOB_STATUS_QUEUED: _ClassVar[JobStatus]
    JOB_STATUS_PLANNING: _ClassVar[JobStatus]
    JOB_STATUS_RUNNING: _ClassVar[JobStatus]
    JOB_STATUS_SUCCEEDED: _ClassVar[JobStatus]
    JOB_STATUS_FAILED: _ClassVar[JobStatus]
    JOB_STATUS_CANCELED: _ClassVar[JobStatus]
    JOB_STATUS_EXPIRED: _ClassVar[JobStatus]
OUTPUT_FORMAT_UNSPECIFIED: OutputFormat
OUTPUT_FORMAT_PNG: OutputFormat
OUTPUT_FORMAT_JPEG: OutputFormat
OUTPUT_FORMAT_WEBP: OutputFormat
OUTPUT_FORMAT_AVIF: OutputFormat
OUTPUT_FORMAT_TIFF: OutputFormat
METADATA_UNSPECIFIED: Metadata
METADATA_KEEP: Metadata
METADATA_STRIP: Metadata
PRIORITY_UNSPECIFIED: Priority
PRIORITY_HIGH: Priority
PRIORITY_NORMAL: Priority
PRIORITY_LOW: Priority
JOB_STATUS_UNSPECIFIED: JobStatus
JOB_STATUS_QUEUED: JobStatus
JOB_STATUS_PLANNING: JobStatus
JOB_STATUS_RUNNING: JobStatus
JOB_STATUS_SUCCEEDED: JobStatus
JOB_STATUS_FAILED: JobStatus
JOB_STATUS_CANCELED: JobStatus
JOB_STATUS_EXPIRED: JobStatus

class EditRequest(_message.Message):
    __slots__ = ("image", "instruction", "plugins", "steps", "seed", "output_format", "mask", "output_quality", "metadata", "priority", "plan", "strength", "previews", "webhook", "webhook_events_filter")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FORMAT_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_QUALITY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_EVENTS_FILTER_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    instruction: str
    plugins: _containers.RepeatedScalarFieldContainer[str]
    steps: int
    seed: int
    output_format: OutputFormat
    mask: bytes
    output_quality: int
    metadata: Metadata
    priority: Priority
    plan: TaskPlan
    strength: float
    previews: int
    webhook: str
    webhook_events_filter: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, image: _Optional[bytes] = ..., instruction: _Optional[str] = ..., plugins: _Optional[_Iterable[str]] = ..., steps: _Optional[int] = ..., seed: _Optional[int] = ..., output_format: _Optional[_Union[OutputFormat, str]] = ..., mask: _Optional[bytes] = ..., output_quality: _Optional[int] = ..., metadata: _Optional[_Union[Metadata, str]] = ..., priority: _Optional[_Union[Priority, str]] = ..., plan: _Optional[_Union[TaskPlan, _Mapping]] = ..., strength: _Optional[float] = ..., previews: _Optional[int] = ..., webhook: _Optional[str] = ..., webhook_events_filter: _Optional[_Iterable[str]] = ...) -> None: ...

class EditResponse(_message.Message):
    __slots__ = ("id", "image", "media_type", "plan", "no_op", "seed", "timings", "versions")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    NO_OP_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    image: bytes
    media_type: str
    plan: TaskPlan
    no_op: bool
    seed: int
    timings: Timings
    versions: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[str] = ..., image: _Optional[bytes] = ..., media_type: _Optional[str] = ..., plan: _Optional[_Union[TaskPlan, _Mapping]] = ..., no_op: _Optional[bool] = ..., seed: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., versions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class EditStreamRequest(_message.Message):
    __slots__ = ("edit",)
    EDIT_FIELD_NUMBER: _ClassVar[int]
    edit: EditRequest
    def __init__(self, edit: _Optional[_Union[EditRequest, _Mapping]] = ...) -> None: ...

class EditStreamResponse(_message.Message):
    __slots__ = ("id", "plan", "progress", "result", "preview")
    ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    id: str
    plan: TaskPlan
    progress: Progress
    result: EditResponse
    preview: Preview
    def __init__(self, id: _Optional[str] = ..., plan: _Optional[_Union[TaskPlan, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., result: _Optional[_Union[EditResponse, _Mapping]] = ..., preview: _Optional[_Union[Preview, _Mapping]] = ...) -> None: ...

class UploadEditRequest(_message.Message):
    __slots__ = ("submit", "image", "mask")
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    submit: SubmitEditRequest
    image: bytes
    mask: bytes
    def __init__(self, submit: _Optional[_Union[SubmitEditRequest, _Mapping]] = ..., image: _Optional[bytes] = ..., mask: _Optional[bytes] = ...) -> None: ...

class UploadEditResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class SubmitEditRequest(_message.Message):
    __slots__ = ("edit", "timeout_s")
    EDIT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    edit: EditRequest
    timeout_s: float
    def __init__(self, edit: _Optional[_Union[EditRequest, _Mapping]] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class SubmitEditResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class GetEditRequest(_message.Message):
    __slots__ = ("id", "with_result")
    ID_FIELD_NUMBER: _ClassVar[int]
    WITH_RESULT_FIELD_NUMBER: _ClassVar[int]
    id: str
    with_result: bool
    def __init__(self, id: _Optional[str] = ..., with_result: _Optional[bool] = ...) -> None: ...

class GetEditResponse(_message.Message):
    __slots__ = ("job", "result")
    JOB_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    job: Job
    result: EditResponse
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ..., result: _Optional[_Union[EditResponse, _Mapping]] = ...) -> None: ...

class WatchEditRequest(_message.Message):
    __slots__ = ("id", "after")
    ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    id: str
    after: str
    def __init__(self, id: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class WatchEditResponse(_message.Message):
    __slots__ = ("event_id", "status", "plan", "progress", "error", "no_op", "attempt", "preview")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NO_OP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    status: JobStatus
    plan: TaskPlan
    progress: Progress
    error: JobError
    no_op: bool
    attempt: int
    preview: Preview
    def __init__(self, event_id: _Optional[str] = ..., status: _Optional[_Union[JobStatus, str]] = ..., plan: _Optional[_Union[TaskPlan, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., error: _Optional[_Union[JobError, _Mapping]] = ..., no_op: _Optional[bool] = ..., attempt: _Optional[int] = ..., preview: _Optional[_Union[Preview, _Mapping]] = ...) -> None: ...

class CancelEditRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CancelEditResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "status", "plan", "progress", "timings", "error", "no_op", "seed", "attempt", "created_at", "deadline_at", "finished_at", "versions")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NO_OP_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    status: JobStatus
    plan: TaskPlan
    progress: Progress
    timings: Timings
    error: JobError
    no_op: bool
    seed: int
    attempt: int
    created_at: float
    deadline_at: float
    finished_at: float
    versions: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[str] = ..., status: _Optional[_Union[JobStatus, str]] = ..., plan: _Optional[_Union[TaskPlan, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., error: _Optional[_Union[JobError, _Mapping]] = ..., no_op: _Optional[bool] = ..., seed: _Optional[int] = ..., attempt: _Optional[int] = ..., created_at: _Optional[float] = ..., deadline_at: _Optional[float] = ..., finished_at: _Optional[float] = ..., versions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class JobError(_message.Message):
    __slots__ = ("code", "detail")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    code: str
    detail: str
    def __init__(self, code: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class PlanRequest(_message.Message):
    __slots__ = ("image", "instruction")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    instruction: str
    def __init__(self, image: _Optional[bytes] = ..., instruction: _Optional[str] = ...) -> None: ...

class PlanResponse(_message.Message):
    __slots__ = ("plan", "estimated_s")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_S_FIELD_NUMBER: _ClassVar[int]
    plan: TaskPlan
    estimated_s: float
    def __init__(self, plan: _Optional[_Union[TaskPlan, _Mapping]] = ..., estimated_s: _Optional[float] = ...) -> None: ...

class ListPluginsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPluginsResponse(_message.Message):
    __slots__ = ("plugins",)
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    plugins: _containers.RepeatedCompositeFieldContainer[Plugin]
    def __init__(self, plugins: _Optional[_Iterable[_Union[Plugin, _Mapping]]] = ...) -> None: ...

class TaskPlan(_message.Message):
    __slots__ = ("tasks", "scores", "threshold")
    class ScoresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TASKS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[PlannedTask]
    scores: _containers.ScalarMap[str, float]
    threshold: float
    def __init__(self, tasks: _Optional[_Iterable[_Union[PlannedTask, _Mapping]]] = ..., scores: _Optional[_Mapping[str, float]] = ..., threshold: _Optional[float] = ...) -> None: ...

class PlannedTask(_message.Message):
    __slots__ = ("plugin", "score", "installed")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    score: float
    installed: bool
    def __init__(self, plugin: _Optional[str] = ..., score: _Optional[float] = ..., installed: _Optional[bool] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("plugin", "task", "num_tasks", "step", "num_steps")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    NUM_TASKS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    task: int
    num_tasks: int
    step: int
    num_steps: int
    def __init__(self, plugin: _Optional[str] = ..., task: _Optional[int] = ..., num_tasks: _Optional[int] = ..., step: _Optional[int] = ..., num_steps: _Optional[int] = ...) -> None: ...

class Preview(_message.Message):
    __slots__ = ("number", "image", "media_type")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    number: int
    image: bytes
    media_type: str
    def __init__(self, number: _Optional[int] = ..., image: _Optional[bytes] = ..., media_type: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_s", "plan_s", "decode_s", "prepare_s", "denoise_s", "finish_s", "encode_s", "total_s")
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    PLAN_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_S_FIELD_NUMBER: _ClassVar[int]
    PREPARE_S_FIELD_NUMBER: _ClassVar[int]
    DENOISE_S_FIELD_NUMBER: _ClassVar[int]
    FINISH_S_FIELD_NUMBER: _ClassVar[int]
    ENCODE_S_FIELD_NUMBER: _ClassVar[int]
    TOTAL_S_FIELD_NUMBER: _ClassVar[int]
    queue_s: float
    plan_s: float
    decode_s: float
    prepare_s: float
    denoise_s: float
    finish_s: float
    encode_s: float
    total_s: float
    def __init__(self, queue_s: _Optional[float] = ..., plan_s: _Optional[float] = ..., decode_s: _Optional[float] = ..., prepare_s: _Optional[float] = ..., denoise_s: _Optional[float] = ..., finish_s: _Optional[float] = ..., encode_s: _Optional[float] = ..., total_s: _Optional[float] = ...) -> None: ...

class Plugin(_message.Message):
    __slots__ = ("name", "title", "version", "base", "example_instructions", "default_steps", "licence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_STEPS_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    version: str
    base: str
    example_instructions: _containers.RepeatedScalarFieldContainer[str]
    default_steps: int
    licence: str
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., version: _Optional[str] = ..., base: _Optional[str] = ..., example_instructions: _Optional[_Iterable[str]] = ..., default_steps: _Optional[int] = ..., licence: _Optional[str] = ...) -> None: ...
