"""A WebSocket echo server. Usage: ws_server.py NAME.

`close CODE REASON` closes the connection. `who` returns the server's name, the request's path and
its cookie. `ping me` makes the server ping the client first.
"""
import asyncio
import sys

from websockets.asyncio.server import serve

NAME = sys.argv[1]


async def talk(connection):
    async for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            await connection.close(int(code), reason)
        elif message == "who":
            headers = connection.request.headers
            await connection.send(f"{NAME} {connection.request.path} {headers.get('Cookie', '')}")
        elif message == "ping me":
            waiter = await connection.ping(b"are you there")
            await waiter
            await connection.send("you are")
        else:
            await connection.send(message)


async def main():
    async with serve(talk, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
