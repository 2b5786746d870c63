"""A gRPC client. Usage: grpc_client.py PORT [CA_FILE HOST]. Prints a JSON report."""
import json
import queue
import sys

import grpc

PORT = sys.argv[1]
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
if len(sys.argv) > 2:
    ca_file, host = sys.argv[2:4]
    credentials = grpc.ssl_channel_credentials(open(ca_file, "rb").read())
    options = OPTIONS + [("grpc.ssl_target_name_override", host), ("grpc.default_authority", host)]
    channel = grpc.secure_channel(f"127.0.0.1:{PORT}", credentials, options)
else:
    channel = grpc.insecure_channel(f"127.0.0.1:{PORT}", OPTIONS)

unary = channel.unary_unary("/homing.Test/Unary")
server_stream = channel.unary_stream("/homing.Test/ServerStream")
client_stream = channel.stream_unary("/homing.Test/ClientStream")
bidi = channel.stream_stream("/homing.Test/Bidi")
slow = channel.unary_unary("/homing.Test/Slow")
LIMIT = 30
report = {}


def error_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return None


answer, call = unary.with_call(b"abc", timeout=LIMIT)
trailers = dict(call.trailing_metadata())
report["unary"] = [answer.decode(), trailers["x-length"], list(trailers["x-blob-bin"]), call.code().name]
big = bytes(range(256)) * 20000
report["big"] = unary(big, timeout=LIMIT) == big
report["empty"] = unary(b"", timeout=LIMIT) == b""
report["error"] = error_of(lambda: unary(b"fail", timeout=LIMIT))
report["unknown"] = error_of(lambda: channel.unary_unary("/homing.Test/Nothing")(b"", timeout=LIMIT))[0]
report["server_stream"] = [int(number) for number in server_stream(b"100", timeout=LIMIT)] == list(range(100))
parts = []
report["stream_error"] = error_of(lambda: parts.extend(server_stream(b"5", timeout=LIMIT)))
report["before_error"] = len(parts)
report["client_stream"] = client_stream((b"x" * 1000 for _ in range(500)), timeout=LIMIT).decode()

# Strictly alternating messages: the proxy may buffer neither direction.
questions = queue.Queue()
answers = bidi(iter(questions.get, None), timeout=LIMIT)
turns = []
for number in range(5):
    questions.put(str(number).encode())
    turns.append(next(answers).decode())
questions.put(None)
report["bidi"] = [turns, len(list(answers))]

homes = {}
for session in range(12):
    for _ in range(3):
        _, call = unary.with_call(b"who", timeout=LIMIT, metadata=(("x-session", f"s{session}"),))
        metadata = dict(call.initial_metadata())
        homes.setdefault(metadata["x-session"], set()).add(metadata["x-name"])
report["homes"] = {session: sorted(names) for session, names in homes.items()}

report["deadline"] = error_of(lambda: slow(b"", timeout=0.5))[0]
call = server_stream(b"1000000", timeout=LIMIT)
next(call)
call.cancel()
report["cancel"] = error_of(lambda: list(call))[0]
print(json.dumps(report))
