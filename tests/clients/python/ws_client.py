"""A WebSocket client. Usage: ws_client.py PORT [CA_FILE HOST]. Prints a JSON report."""
import asyncio
import json
import os
import ssl
import sys

import websockets
from websockets.asyncio.client import connect

PORT = int(sys.argv[1])
OPTIONS = {"proxy": None, "max_size": None, "ping_interval": None, "open_timeout": 30}
URL = f"ws://127.0.0.1:{PORT}"
if len(sys.argv) > 2:
    ca_file, host = sys.argv[2:4]
    URL = f"wss://{host}:{PORT}"
    OPTIONS |= {"ssl": ssl.create_default_context(cafile=ca_file), "host": "127.0.0.1", "server_hostname": host}


async def main():
    report = {}
    async with connect(f"{URL}/chat?room=1", **OPTIONS) as ws:
        await ws.send("grüße")
        report["text"] = await ws.recv()
        await ws.send(b"\x00\xff" * 10)
        report["binary"] = (await ws.recv()) == b"\x00\xff" * 10
        big = os.urandom(5 << 20)
        await ws.send(big)
        report["big"] = (await ws.recv()) == big
        await ws.send([f"{part:04}" for part in range(1000)])
        report["fragments"] = len(await ws.recv())
        waiter = await ws.ping(b"client's")
        report["latency"] = (await waiter) >= 0
        await ws.send("ping me")
        report["pinged"] = await ws.recv()
        await ws.send("who")
        report["who"] = await ws.recv()
        await ws.send("close 4001 that is all")
        try:
            await ws.recv()
        except websockets.ConnectionClosed as closed:
            report["closed"] = [closed.rcvd.code, closed.rcvd.reason, closed.rcvd_then_sent]
    ws = await connect(URL, **OPTIONS)
    await ws.close(3000, "mine")
    report["close_mine"] = [ws.close_code, ws.close_reason]

    homes = {}
    for session in range(12):
        for _ in range(3):
            headers = {"Cookie": f"SID=s{session}"}
            async with connect(URL, additional_headers=headers, **OPTIONS) as ws:
                await ws.send("who")
                name, _, cookie = (await ws.recv()).split(" ")
                homes.setdefault(cookie, set()).add(name)
    report["homes"] = {session: sorted(names) for session, names in homes.items()}
    print(json.dumps(report))


asyncio.run(main())
