from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FileKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILE_KIND_UNSPECIFIED: _ClassVar[FileKind]
    FILE_KIND_CHECKPOINT: _ClassVar[FileKind]
    FILE_KIND_PICTURE: _ClassVar[FileKind]
    FILE_KIND_RESULT: _ClassVar[FileKind]
FILE_KIND_UNSPECIFIED: FileKind
FILE_KIND_CHECKPOINT: FileKind
FILE_KIND_PICTURE: FileKind
FILE_KIND_RESULT: FileKind

class JoinRequest(_message.Message):
    __slots__ = ("hello", "reports", "piece", "process_ended", "heartbeat", "leaving")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ENDED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    reports: Reports
    piece: Piece
    process_ended: ProcessEnded
    heartbeat: Heartbeat
    leaving: Leaving
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., reports: _Optional[_Union[Reports, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., process_ended: _Optional[_Union[ProcessEnded, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., leaving: _Optional[_Union[Leaving, _Mapping]] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("welcome", "command", "piece", "start_process", "kill_process", "forget", "heartbeat")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    START_PROCESS_FIELD_NUMBER: _ClassVar[int]
    KILL_PROCESS_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    command: Message
    piece: Piece
    start_process: StartProcess
    kill_process: KillProcess
    forget: Forget
    heartbeat: Heartbeat
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., command: _Optional[_Union[Message, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., start_process: _Optional[_Union[StartProcess, _Mapping]] = ..., kill_process: _Optional[_Union[KillProcess, _Mapping]] = ..., forget: _Optional[_Union[Forget, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "version", "name", "host", "incarnation", "device")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    name: str
    host: str
    incarnation: str
    device: str
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., name: _Optional[str] = ..., host: _Optional[str] = ..., incarnation: _Optional[str] = ..., device: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "checkpoint_interval_s")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    version: str
    checkpoint_interval_s: float
    def __init__(self, version: _Optional[str] = ..., checkpoint_interval_s: _Optional[float] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("kind", "body")
    KIND_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    kind: str
    body: bytes
    def __init__(self, kind: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class Reports(_message.Message):
    __slots__ = ("reports",)
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[Message]
    def __init__(self, reports: _Optional[_Iterable[_Union[Message, _Mapping]]] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("kind", "name", "offset_bytes", "size_bytes", "data")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    kind: FileKind
    name: str
    offset_bytes: int
    size_bytes: int
    data: bytes
    def __init__(self, kind: _Optional[_Union[FileKind, str]] = ..., name: _Optional[str] = ..., offset_bytes: _Optional[int] = ..., size_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ProcessEnded(_message.Message):
    __slots__ = ("cause",)
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    cause: str
    def __init__(self, cause: _Optional[str] = ...) -> None: ...

class StartProcess(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KillProcess(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Forget(_message.Message):
    __slots__ = ("pictures",)
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    pictures: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, pictures: _Optional[_Iterable[str]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Leaving(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
