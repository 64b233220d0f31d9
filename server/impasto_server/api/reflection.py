"""Server reflection, versions v1alpha and v1. Tools ask for either; grpcio-reflection has v1alpha only.

The messages of both versions are the same on the wire, so one servicer answers both.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

ALPHA, STABLE = "grpc.reflection.v1alpha", "grpc.reflection.v1"


def enable(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Add both versions of the reflection service.

    Args:
        server: The server, not started yet.
        services: Full names of its other services.
    """
    _describe_stable()
    names = [f"{version}.ServerReflection" for version in (ALPHA, STABLE)]
    servicer = reflection.aio.ReflectionServicer((*services, *names))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers) for name in names])


def _describe_stable() -> None:
    """Add the descriptor of v1 to the pool, so that tools that ask for it can describe it too."""
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = file.name.replace("v1alpha", "v1")
    file.package = STABLE
    file.ClearField("options")  # the packages of other languages
    for message in file.message_type:
        for field in message.field:
            if field.HasField("type_name"):
                field.type_name = field.type_name.replace(ALPHA, STABLE)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(ALPHA, STABLE)
        method.output_type = method.output_type.replace(ALPHA, STABLE)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())  # again: no effect
