"""A gRPC server without generated code. Usage: grpc_server.py NAME.

Messages are plain bytes. Prints its port, then a line for each call that ended early.
"""
import sys
import time
from concurrent import futures

import grpc


def say(line):
    """Prints a line in a single write, because several threads print."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

NAME = sys.argv[1]


def unary(request, context):
    context.set_trailing_metadata((("x-length", str(len(request))), ("x-blob-bin", b"\x00\xff")))
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-name", NAME), ("x-session", metadata.get("x-session", "none"))))
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not läke this")
    return request[::-1] if len(request) < 100 else request


def server_stream(request, context):
    if request == b"1000000":
        context.add_callback(lambda: say("cancelled"))
    for number in range(int(request)):
        yield str(number).encode()
    if request == b"5":
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "five is enough")


def client_stream(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def bidi(requests, context):
    for request in requests:
        yield b"<" + request + b">"


def slow(request, context):
    while context.is_active():
        time.sleep(0.01)
    say("deadline exceeded")
    return b""


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
}
options = [("grpc.max_receive_message_length", -1)]
server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("homing.Test", handlers),))
say(server.add_insecure_port("127.0.0.1:0"))
server.start()
server.wait_for_termination()
