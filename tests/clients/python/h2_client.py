"""HTTP/2 clients. Usage: h2_client.py PORT CA_FILE HOST. Prints a JSON report.

First many sessions on one connection of the h2 library, then httpx.
"""
import asyncio
import json
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events
import httpx

PORT, CA_FILE, HOST = int(sys.argv[1]), sys.argv[2], sys.argv[3]


class Connection:
    """A connection on the h2 library."""

    def __init__(self):
        context = ssl.create_default_context(cafile=CA_FILE)
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", PORT), timeout=30)
        self.socket = context.wrap_socket(plain, server_hostname=HOST)
        self.protocol = self.socket.selected_alpn_protocol()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def request(self, path, fields=(), body=b"", trailers=None):
        stream = self.h2.get_next_available_stream_id()
        method = "POST" if body or trailers else "GET"
        pseudo = [(":method", method), (":scheme", "https"), (":authority", HOST), (":path", path)]
        self.h2.send_headers(stream, pseudo + list(fields), end_stream=not (body or trailers))
        if body:
            self.h2.send_data(stream, body, end_stream=not trailers)
        if trailers:
            self.h2.send_headers(stream, trailers, end_stream=True)
        self.flush()
        return stream

    def responses(self, streams):
        """Reads until all these streams have ended, and returns their responses."""
        found = {stream: {"interim": [], "body": b"", "trailers": {}} for stream in streams}
        open_streams = set(streams)
        while open_streams:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("connection closed")
            for event in self.h2.receive_data(data):
                response = found.get(getattr(event, "stream_id", None))
                if isinstance(event, h2.events.InformationalResponseReceived):
                    response["interim"].append(dict(event.headers))
                elif isinstance(event, h2.events.ResponseReceived):
                    response["head"] = dict(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    response["body"] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.TrailersReceived):
                    response["trailers"] = dict(event.headers)
                elif isinstance(event, h2.events.StreamEnded):
                    open_streams.discard(event.stream_id)
                elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    raise EOFError(repr(event))
            self.flush()
        return [found[stream] for stream in streams]


def sessions(connection):
    """Sends three requests for each of twelve sessions, concurrently on one connection."""
    homes = {}
    for _ in range(3):
        names = [f"s{number}" for number in range(12)]
        streams = [connection.request("/seen", [("cookie", f"SID={name}")]) for name in names]
        for name, response in zip(names, connection.responses(streams)):
            assert response["head"][":status"] == "200", response
            homes.setdefault(name, set()).add(response["head"]["x-backend"])
    return {name: sorted(backends) for name, backends in homes.items()}


async def with_httpx():
    context = ssl.create_default_context(cafile=CA_FILE)
    headers = {"host": HOST}
    async with httpx.AsyncClient(http2=True, verify=context, trust_env=False, timeout=30) as client:
        async def get(path):
            extensions = {"sni_hostname": HOST}
            return await client.get(f"https://127.0.0.1:{PORT}{path}", headers=headers, extensions=extensions)

        responses = await asyncio.gather(*(get(f"/bytes/{size}") for size in range(1000, 60000, 1000)))
        return {
            "versions": sorted({response.http_version for response in responses}),
            "whole": all(len(r.content) == size for r, size in zip(responses, range(1000, 60000, 1000))),
        }


connection = Connection()
report = {"protocol": connection.protocol, "homes": sessions(connection)}
[response] = connection.responses([connection.request("/trailers", [("te", "trailers")])])
report["trailers"] = response["trailers"]
connection.responses([connection.request("/trailers", [("te", "trailers")], b"up", [("x-up", "yes")])])
[response] = connection.responses([connection.request("/hints")])
report["hints"] = [response["interim"], response["head"][":status"], response["body"].decode()]
report["httpx"] = asyncio.run(with_httpx())
print(json.dumps(report))
