from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Optimizer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPTIMIZER_UNSPECIFIED: _ClassVar[Optimizer]
    OPTIMIZER_LBFGS: _ClassVar[Optimizer]
    OPTIMIZER_ADAM: _ClassVar[Optimizer]

class Init(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INIT_UNSPECIFIED: _ClassVar[Init]
    INIT_CONTENT: _ClassVar[Init]
    INIT_NOISE: _ClassVar[Init]
    INIT_STYLE: _ClassVar[Init]
    INIT_IMAGE: _ClassVar[Init]

class Pooling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POOLING_UNSPECIFIED: _ClassVar[Pooling]
    POOLING_AVERAGE: _ClassVar[Pooling]
    POOLING_MAX: _ClassVar[Pooling]

class Normalization(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NORMALIZATION_UNSPECIFIED: _ClassVar[Normalization]
    NORMALIZATION_TARGET: _ClassVar[Normalization]
    NORMALIZATION_GATYS: _ClassVar[Normalization]
    NORMALIZATION_MEAN: _ClassVar[Normalization]

class Color(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLOR_UNSPECIFIED: _ClassVar[Color]
    COLOR_STYLE: _ClassVar[Color]
    COLOR_LUMINANCE: _ClassVar[Color]
    COLOR_MATCHED: _ClassVar[Color]

class StyleLoss(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STYLE_LOSS_UNSPECIFIED: _ClassVar[StyleLoss]
    STYLE_LOSS_GRAM: _ClassVar[StyleLoss]
    STYLE_LOSS_COVARIANCE: _ClassVar[StyleLoss]
    STYLE_LOSS_MOMENTS: _ClassVar[StyleLoss]
    STYLE_LOSS_SLICED: _ClassVar[StyleLoss]
    STYLE_LOSS_HISTOGRAM: _ClassVar[StyleLoss]

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_UNSPECIFIED: _ClassVar[Precision]
    PRECISION_AUTO: _ClassVar[Precision]
    PRECISION_FLOAT32: _ClassVar[Precision]
    PRECISION_BFLOAT16: _ClassVar[Precision]
    PRECISION_TF32: _ClassVar[Precision]

class ImageFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FORMAT_UNSPECIFIED: _ClassVar[ImageFormat]
    IMAGE_FORMAT_PNG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_JPEG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_WEBP: _ClassVar[ImageFormat]

class OnDeadline(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_DEADLINE_UNSPECIFIED: _ClassVar[OnDeadline]
    ON_DEADLINE_FAIL: _ClassVar[OnDeadline]
    ON_DEADLINE_RETURN_BEST: _ClassVar[OnDeadline]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_SUCCEEDED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
    JOB_STATE_PAUSED: _ClassVar[JobState]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    STOP_REASON_STEPS: _ClassVar[StopReason]
    STOP_REASON_STALLED: _ClassVar[StopReason]
    STOP_REASON_CANCELLED: _ClassVar[StopReason]
    STOP_REASON_FAILED: _ClassVar[StopReason]
    STOP_REASON_DEADLINE: _ClassVar[StopReason]
    STOP_REASON_CONVERGED: _ClassVar[StopReason]
    STOP_REASON_ABANDONED: _ClassVar[StopReason]

class PauseReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAUSE_REASON_UNSPECIFIED: _ClassVar[PauseReason]
    PAUSE_REASON_PREEMPTED: _ClassVar[PauseReason]
    PAUSE_REASON_REQUESTED: _ClassVar[PauseReason]
OPTIMIZER_UNSPECIFIED: Optimizer
OPTIMIZER_LBFGS: Optimizer
OPTIMIZER_ADAM: Optimizer
INIT_UNSPECIFIED: Init
INIT_CONTENT: Init
INIT_NOISE: Init
INIT_STYLE: Init
INIT_IMAGE: Init
POOLING_UNSPECIFIED: Pooling
POOLING_AVERAGE: Pooling
POOLING_MAX: Pooling
NORMALIZATION_UNSPECIFIED: Normalization
NORMALIZATION_TARGET: Normalization
NORMALIZATION_GATYS: Normalization
NORMALIZATION_MEAN: Normalization
COLOR_UNSPECIFIED: Color
COLOR_STYLE: Color
COLOR_LUMINANCE: Color
COLOR_MATCHED: Color
STYLE_LOSS_UNSPECIFIED: StyleLoss
STYLE_LOSS_GRAM: StyleLoss
STYLE_LOSS_COVARIANCE: StyleLoss
STYLE_LOSS_MOMENTS: StyleLoss
STYLE_LOSS_SLICED: StyleLoss
STYLE_LOSS_HISTOGRAM: StyleLoss
PRECISION_UNSPECIFIED: Precision
PRECISION_AUTO: Precision
PRECISION_FLOAT32: Precision
PRECISION_BFLOAT16: Precision
PRECISION_TF32: Precision
IMAGE_FORMAT_UNSPECIFIED: ImageFormat
IMAGE_FORMAT_PNG: ImageFormat
IMAGE_FORMAT_JPEG: ImageFormat
IMAGE_FORMAT_WEBP: ImageFormat
ON_DEADLINE_UNSPECIFIED: OnDeadline
ON_DEADLINE_FAIL: OnDeadline
ON_DEADLINE_RETURN_BEST: OnDeadline
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_SUCCEEDED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLED: JobState
JOB_STATE_PAUSED: JobState
STOP_REASON_UNSPECIFIED: StopReason
STOP_REASON_STEPS: StopReason
STOP_REASON_STALLED: StopReason
STOP_REASON_CANCELLED: StopReason
STOP_REASON_FAILED: StopReason
STOP_REASON_DEADLINE: StopReason
STOP_REASON_CONVERGED: StopReason
STOP_REASON_ABANDONED: StopReason
PAUSE_REASON_UNSPECIFIED: PauseReason
PAUSE_REASON_PREEMPTED: PauseReason
PAUSE_REASON_REQUESTED: PauseReason

class Image(_message.Message):
    __slots__ = ("data", "image_id", "name", "format")
    DATA_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    image_id: str
    name: str
    format: ImageFormat
    def __init__(self, data: _Optional[bytes] = ..., image_id: _Optional[str] = ..., name: _Optional[str] = ..., format: _Optional[_Union[ImageFormat, str]] = ...) -> None: ...

class Style(_message.Message):
    __slots__ = ("image", "weight", "mask", "region")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    image: Image
    weight: float
    mask: Image
    region: Image
    def __init__(self, image: _Optional[_Union[Image, _Mapping]] = ..., weight: _Optional[float] = ..., mask: _Optional[_Union[Image, _Mapping]] = ..., region: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class LayerWeight(_message.Message):
    __slots__ = ("layer", "weight")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    layer: str
    weight: float
    def __init__(self, layer: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class LayerWeights(_message.Message):
    __slots__ = ("layers",)
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[LayerWeight]
    def __init__(self, layers: _Optional[_Iterable[_Union[LayerWeight, _Mapping]]] = ...) -> None: ...

class Parameters(_message.Message):
    __slots__ = ("preset", "content_layers", "style_layers", "content_weight", "style_weight", "total_variation_weight", "normalization", "size_px", "steps", "optimizer", "learning_rate", "history", "init", "seed", "pooling", "precision", "levels", "network", "style_scale", "color", "style_loss", "tolerance", "width_px", "height_px", "schedule")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    CONTENT_LAYERS_FIELD_NUMBER: _ClassVar[int]
    STYLE_LAYERS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    STYLE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_VARIATION_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    NORMALIZATION_FIELD_NUMBER: _ClassVar[int]
    SIZE_PX_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    INIT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    STYLE_SCALE_FIELD_NUMBER: _ClassVar[int]
    COLOR_FIELD_NUMBER: _ClassVar[int]
    STYLE_LOSS_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    preset: str
    content_layers: LayerWeights
    style_layers: LayerWeights
    content_weight: float
    style_weight: float
    total_variation_weight: float
    normalization: Normalization
    size_px: int
    steps: int
    optimizer: Optimizer
    learning_rate: float
    history: int
    init: Init
    seed: int
    pooling: Pooling
    precision: Precision
    levels: int
    network: str
    style_scale: float
    color: Color
    style_loss: StyleLoss
    tolerance: float
    width_px: int
    height_px: int
    schedule: _containers.RepeatedCompositeFieldContainer[SizeSteps]
    def __init__(self, preset: _Optional[str] = ..., content_layers: _Optional[_Union[LayerWeights, _Mapping]] = ..., style_layers: _Optional[_Union[LayerWeights, _Mapping]] = ..., content_weight: _Optional[float] = ..., style_weight: _Optional[float] = ..., total_variation_weight: _Optional[float] = ..., normalization: _Optional[_Union[Normalization, str]] = ..., size_px: _Optional[int] = ..., steps: _Optional[int] = ..., optimizer: _Optional[_Union[Optimizer, str]] = ..., learning_rate: _Optional[float] = ..., history: _Optional[int] = ..., init: _Optional[_Union[Init, str]] = ..., seed: _Optional[int] = ..., pooling: _Optional[_Union[Pooling, str]] = ..., precision: _Optional[_Union[Precision, str]] = ..., levels: _Optional[int] = ..., network: _Optional[str] = ..., style_scale: _Optional[float] = ..., color: _Optional[_Union[Color, str]] = ..., style_loss: _Optional[_Union[StyleLoss, str]] = ..., tolerance: _Optional[float] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ..., schedule: _Optional[_Iterable[_Union[SizeSteps, _Mapping]]] = ...) -> None: ...

class SizeSteps(_message.Message):
    __slots__ = ("size_px", "steps")
    SIZE_PX_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    size_px: int
    steps: int
    def __init__(self, size_px: _Optional[int] = ..., steps: _Optional[int] = ...) -> None: ...

class OutputOptions(_message.Message):
    __slots__ = ("format", "quality", "preview_every_steps", "preview_size_px", "omit_metadata")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_EVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_SIZE_PX_FIELD_NUMBER: _ClassVar[int]
    OMIT_METADATA_FIELD_NUMBER: _ClassVar[int]
    format: ImageFormat
    quality: int
    preview_every_steps: int
    preview_size_px: int
    omit_metadata: bool
    def __init__(self, format: _Optional[_Union[ImageFormat, str]] = ..., quality: _Optional[int] = ..., preview_every_steps: _Optional[int] = ..., preview_size_px: _Optional[int] = ..., omit_metadata: bool = ...) -> None: ...

class JobSpec(_message.Message):
    __slots__ = ("content", "styles", "parameters", "output", "priority", "time_limit", "on_deadline", "ttl", "mask", "init_image", "labels", "webhook")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    STYLES_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_FIELD_NUMBER: _ClassVar[int]
    ON_DEADLINE_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    INIT_IMAGE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    content: Image
    styles: _containers.RepeatedCompositeFieldContainer[Style]
    parameters: Parameters
    output: OutputOptions
    priority: int
    time_limit: _duration_pb2.Duration
    on_deadline: OnDeadline
    ttl: _duration_pb2.Duration
    mask: Image
    init_image: Image
    labels: _containers.ScalarMap[str, str]
    webhook: str
    def __init__(self, content: _Optional[_Union[Image, _Mapping]] = ..., styles: _Optional[_Iterable[_Union[Style, _Mapping]]] = ..., parameters: _Optional[_Union[Parameters, _Mapping]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., priority: _Optional[int] = ..., time_limit: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., on_deadline: _Optional[_Union[OnDeadline, str]] = ..., ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., mask: _Optional[_Union[Image, _Mapping]] = ..., init_image: _Optional[_Union[Image, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., webhook: _Optional[str] = ...) -> None: ...

class Losses(_message.Message):
    __slots__ = ("total", "content", "style", "total_variation")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    STYLE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_VARIATION_FIELD_NUMBER: _ClassVar[int]
    total: float
    content: float
    style: float
    total_variation: float
    def __init__(self, total: _Optional[float] = ..., content: _Optional[float] = ..., style: _Optional[float] = ..., total_variation: _Optional[float] = ...) -> None: ...

class NetworkInfo(_message.Message):
    __slots__ = ("name", "weights", "weights_sha256", "layers", "id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    weights: str
    weights_sha256: str
    layers: _containers.RepeatedScalarFieldContainer[str]
    id: str
    def __init__(self, name: _Optional[str] = ..., weights: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., layers: _Optional[_Iterable[str]] = ..., id: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue", "optimize", "encode")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    queue: _duration_pb2.Duration
    optimize: _duration_pb2.Duration
    encode: _duration_pb2.Duration
    def __init__(self, queue: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., optimize: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., encode: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class JobError(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Warning(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("job_id", "request_id", "state", "create_time", "start_time", "end_time", "step", "evaluations", "losses", "parameters", "width_px", "height_px", "network", "device", "stop_reason", "error", "timings", "queue_position", "attempts", "priority", "preemptions", "time_limit", "on_deadline", "ttl", "estimated_start_time", "estimated_end_time", "owner", "warnings", "output", "inputs", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_FIELD_NUMBER: _ClassVar[int]
    ON_DEADLINE_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_START_TIME_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_END_TIME_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    request_id: str
    state: JobState
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    step: int
    evaluations: int
    losses: Losses
    parameters: Parameters
    width_px: int
    height_px: int
    network: NetworkInfo
    device: str
    stop_reason: StopReason
    error: JobError
    timings: Timings
    queue_position: int
    attempts: int
    priority: int
    preemptions: int
    time_limit: _duration_pb2.Duration
    on_deadline: OnDeadline
    ttl: _duration_pb2.Duration
    estimated_start_time: _timestamp_pb2.Timestamp
    estimated_end_time: _timestamp_pb2.Timestamp
    owner: str
    warnings: _containers.RepeatedCompositeFieldContainer[Warning]
    output: OutputOptions
    inputs: _containers.RepeatedCompositeFieldContainer[Input]
    labels: _containers.ScalarMap[str, str]
    def __init__(self, job_id: _Optional[str] = ..., request_id: _Optional[str] = ..., state: _Optional[_Union[JobState, str]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., step: _Optional[int] = ..., evaluations: _Optional[int] = ..., losses: _Optional[_Union[Losses, _Mapping]] = ..., parameters: _Optional[_Union[Parameters, _Mapping]] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ..., network: _Optional[_Union[NetworkInfo, _Mapping]] = ..., device: _Optional[str] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ..., error: _Optional[_Union[JobError, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., queue_position: _Optional[int] = ..., attempts: _Optional[int] = ..., priority: _Optional[int] = ..., preemptions: _Optional[int] = ..., time_limit: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., on_deadline: _Optional[_Union[OnDeadline, str]] = ..., ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., estimated_start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., estimated_end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., owner: _Optional[str] = ..., warnings: _Optional[_Iterable[_Union[Warning, _Mapping]]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[Input, _Mapping]]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Input(_message.Message):
    __slots__ = ("field", "name", "sha256")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    field: str
    name: str
    sha256: str
    def __init__(self, field: _Optional[str] = ..., name: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class JobResult(_message.Message):
    __slots__ = ("job", "image", "image_bytes", "image_sha256")
    JOB_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SHA256_FIELD_NUMBER: _ClassVar[int]
    job: Job
    image: Image
    image_bytes: int
    image_sha256: str
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., image_bytes: _Optional[int] = ..., image_sha256: _Optional[str] = ...) -> None: ...

class StylizeRequest(_message.Message):
    __slots__ = ("spec", "request_id", "max_response_bytes")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    spec: JobSpec
    request_id: str
    max_response_bytes: int
    def __init__(self, spec: _Optional[_Union[JobSpec, _Mapping]] = ..., request_id: _Optional[str] = ..., max_response_bytes: _Optional[int] = ...) -> None: ...

class StylizeResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: JobResult
    def __init__(self, result: _Optional[_Union[JobResult, _Mapping]] = ...) -> None: ...

class ProgressRequest(_message.Message):
    __slots__ = ("job_id", "request_id", "resume_after_sequence", "include_previews", "include_image", "max_response_bytes")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_IMAGE_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    request_id: str
    resume_after_sequence: int
    include_previews: bool
    include_image: bool
    max_response_bytes: int
    def __init__(self, job_id: _Optional[str] = ..., request_id: _Optional[str] = ..., resume_after_sequence: _Optional[int] = ..., include_previews: bool = ..., include_image: bool = ..., max_response_bytes: _Optional[int] = ...) -> None: ...

class ProgressResponse(_message.Message):
    __slots__ = ("sequence", "snapshot", "start", "step", "heartbeat", "result", "pause")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    snapshot: Job
    start: StartEvent
    step: StepEvent
    heartbeat: HeartbeatEvent
    result: JobResult
    pause: PauseEvent
    def __init__(self, sequence: _Optional[int] = ..., snapshot: _Optional[_Union[Job, _Mapping]] = ..., start: _Optional[_Union[StartEvent, _Mapping]] = ..., step: _Optional[_Union[StepEvent, _Mapping]] = ..., heartbeat: _Optional[_Union[HeartbeatEvent, _Mapping]] = ..., result: _Optional[_Union[JobResult, _Mapping]] = ..., pause: _Optional[_Union[PauseEvent, _Mapping]] = ...) -> None: ...

class StartEvent(_message.Message):
    __slots__ = ("device", "attempt", "step", "note")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    device: str
    attempt: int
    step: int
    note: str
    def __init__(self, device: _Optional[str] = ..., attempt: _Optional[int] = ..., step: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class PauseEvent(_message.Message):
    __slots__ = ("reason", "step")
    REASON_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    reason: PauseReason
    step: int
    def __init__(self, reason: _Optional[_Union[PauseReason, str]] = ..., step: _Optional[int] = ...) -> None: ...

class StepEvent(_message.Message):
    __slots__ = ("step", "steps", "evaluations", "losses", "elapsed", "remaining", "preview")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    step: int
    steps: int
    evaluations: int
    losses: Losses
    elapsed: _duration_pb2.Duration
    remaining: _duration_pb2.Duration
    preview: Image
    def __init__(self, step: _Optional[int] = ..., steps: _Optional[int] = ..., evaluations: _Optional[int] = ..., losses: _Optional[_Union[Losses, _Mapping]] = ..., elapsed: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., remaining: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., preview: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class HeartbeatEvent(_message.Message):
    __slots__ = ("state", "queue_position")
    STATE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    state: JobState
    queue_position: int
    def __init__(self, state: _Optional[_Union[JobState, str]] = ..., queue_position: _Optional[int] = ...) -> None: ...

class SubmitJobRequest(_message.Message):
    __slots__ = ("spec", "request_id", "validate_only")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    spec: JobSpec
    request_id: str
    validate_only: bool
    def __init__(self, spec: _Optional[_Union[JobSpec, _Mapping]] = ..., request_id: _Optional[str] = ..., validate_only: bool = ...) -> None: ...

class SubmitJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states", "labels", "created_from", "created_before", "owner")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FROM_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[JobState]
    labels: _containers.ScalarMap[str, str]
    created_from: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    owner: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[JobState, str]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., created_from: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., owner: _Optional[str] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("job_id", "request_id")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    request_id: str
    def __init__(self, job_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class CancelJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class PauseJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class PauseJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class ResumeJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class ResumeJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class DeleteJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class DeleteJobResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainWorkersRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DrainWorkersResponse(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ...) -> None: ...

class GetResultRequest(_message.Message):
    __slots__ = ("job_id", "max_response_bytes")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    max_response_bytes: int
    def __init__(self, job_id: _Optional[str] = ..., max_response_bytes: _Optional[int] = ...) -> None: ...

class GetResultResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: JobResult
    def __init__(self, result: _Optional[_Union[JobResult, _Mapping]] = ...) -> None: ...

class DownloadResultRequest(_message.Message):
    __slots__ = ("job_id", "offset_bytes")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    offset_bytes: int
    def __init__(self, job_id: _Optional[str] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class DownloadResultResponse(_message.Message):
    __slots__ = ("chunk", "size_bytes", "sha256")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    size_bytes: int
    sha256: str
    def __init__(self, chunk: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class UploadImageRequest(_message.Message):
    __slots__ = ("start", "chunk")
    START_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    start: UploadStart
    chunk: bytes
    def __init__(self, start: _Optional[_Union[UploadStart, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UploadStart(_message.Message):
    __slots__ = ("sha256", "size_bytes", "offset_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    offset_bytes: int
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class UploadImageResponse(_message.Message):
    __slots__ = ("image_id", "received_bytes")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    received_bytes: int
    def __init__(self, image_id: _Optional[str] = ..., received_bytes: _Optional[int] = ...) -> None: ...

class DownloadImageRequest(_message.Message):
    __slots__ = ("image_id", "offset_bytes")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    offset_bytes: int
    def __init__(self, image_id: _Optional[str] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class DownloadImageResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class InspectFeaturesRequest(_message.Message):
    __slots__ = ("image", "network", "layer", "filters", "count", "size_px", "pooling")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_PX_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    image: Image
    network: str
    layer: str
    filters: _containers.RepeatedScalarFieldContainer[int]
    count: int
    size_px: int
    pooling: Pooling
    def __init__(self, image: _Optional[_Union[Image, _Mapping]] = ..., network: _Optional[str] = ..., layer: _Optional[str] = ..., filters: _Optional[_Iterable[int]] = ..., count: _Optional[int] = ..., size_px: _Optional[int] = ..., pooling: _Optional[_Union[Pooling, str]] = ...) -> None: ...

class InspectFeaturesResponse(_message.Message):
    __slots__ = ("responses", "network")
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[FilterResponse]
    network: NetworkInfo
    def __init__(self, responses: _Optional[_Iterable[_Union[FilterResponse, _Mapping]]] = ..., network: _Optional[_Union[NetworkInfo, _Mapping]] = ...) -> None: ...

class FilterResponse(_message.Message):
    __slots__ = ("filter", "picture", "minimum", "maximum", "mean", "deviation")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    filter: int
    picture: Image
    minimum: float
    maximum: float
    mean: float
    deviation: float
    def __init__(self, filter: _Optional[int] = ..., picture: _Optional[_Union[Image, _Mapping]] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., mean: _Optional[float] = ..., deviation: _Optional[float] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "accepting", "devices", "networks", "presets", "limits", "queue", "storage")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTING_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    PRESETS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    version: str
    accepting: bool
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    networks: _containers.RepeatedCompositeFieldContainer[NetworkInfo]
    presets: _containers.RepeatedCompositeFieldContainer[Preset]
    limits: Limits
    queue: Queue
    storage: Storage
    def __init__(self, version: _Optional[str] = ..., accepting: bool = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., networks: _Optional[_Iterable[_Union[NetworkInfo, _Mapping]]] = ..., presets: _Optional[_Iterable[_Union[Preset, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., queue: _Optional[_Union[Queue, _Mapping]] = ..., storage: _Optional[_Union[Storage, _Mapping]] = ...) -> None: ...

class Storage(_message.Message):
    __slots__ = ("durable", "used_bytes", "limit_bytes")
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    durable: bool
    used_bytes: int
    limit_bytes: int
    def __init__(self, durable: bool = ..., used_bytes: _Optional[int] = ..., limit_bytes: _Optional[int] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("name", "description", "ready", "restarts", "auto_precision", "host", "draining", "running_jobs", "silence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    AUTO_PRECISION_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_JOBS_FIELD_NUMBER: _ClassVar[int]
    SILENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    ready: bool
    restarts: int
    auto_precision: Precision
    host: str
    draining: bool
    running_jobs: int
    silence: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., ready: bool = ..., restarts: _Optional[int] = ..., auto_precision: _Optional[_Union[Precision, str]] = ..., host: _Optional[str] = ..., draining: bool = ..., running_jobs: _Optional[int] = ..., silence: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Preset(_message.Message):
    __slots__ = ("name", "parameters")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    parameters: Parameters
    def __init__(self, name: _Optional[str] = ..., parameters: _Optional[_Union[Parameters, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_image_pixels", "max_size_px", "max_steps", "max_styles", "max_queued_jobs", "max_client_jobs", "max_client_jobs_per_minute", "max_client_pixels", "max_running_jobs")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_SIZE_PX_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_STYLES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_JOBS_FIELD_NUMBER: _ClassVar[int]
    MAX_CLIENT_JOBS_FIELD_NUMBER: _ClassVar[int]
    MAX_CLIENT_JOBS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    MAX_CLIENT_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_JOBS_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_image_pixels: int
    max_size_px: int
    max_steps: int
    max_styles: int
    max_queued_jobs: int
    max_client_jobs: int
    max_client_jobs_per_minute: int
    max_client_pixels: int
    max_running_jobs: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_size_px: _Optional[int] = ..., max_steps: _Optional[int] = ..., max_styles: _Optional[int] = ..., max_queued_jobs: _Optional[int] = ..., max_client_jobs: _Optional[int] = ..., max_client_jobs_per_minute: _Optional[int] = ..., max_client_pixels: _Optional[int] = ..., max_running_jobs: _Optional[int] = ...) -> None: ...

class Queue(_message.Message):
    __slots__ = ("queued", "running")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    queued: int
    running: int
    def __init__(self, queued: _Optional[int] = ..., running: _Optional[int] = ...) -> None: ...
