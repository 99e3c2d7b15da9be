"""A link backend in Python: one WebSocket connection per gateway shard carries all its sessions.

Written from docs/LINK.md alone. Endpoints whose path ends in `echo` give the payload back;
those ending in `push` also push it to the client as an event. Run it with

    pip install -r requirements.txt
    LINK_TOKEN=secret python link_backend.py --listen 127.0.0.1:9300      (or unix:/path)
"""

import argparse
import asyncio
import hmac
import itertools
import json
import os
import signal
import struct
from dataclasses import dataclass, field

from websockets.asyncio.server import serve, unix_serve
from websockets.exceptions import ConnectionClosed

HELLO, OPEN, CLOSE, DATA, CREDIT, GOAWAY = range(1, 7)
PREFIX = struct.Struct(">BBHI16s")  # kind, flags, endpoint, tag, session
REQUEST = struct.Struct(">BHI16sQ")  # flags, channel, sequence, guid, message id
REPLY = struct.Struct(">BHIQB")  # flags, channel, sequence, message id, code
TRACE_CONTEXT, TRACE_BYTES = 0x01, 25
NO_ENDPOINT, NO_SESSION = 0xFFFF, bytes(16)
COMPRESSED, EVENT, RESPONSE, META = 0x04, 0x10, 0x40, 0x80
OK, NOT_FOUND, INTERNAL_ERROR = 0, 51, 60
WINDOW = {"messages": 32, "bytes": 65536}  # what the gateway may have under way per session
HELLO_WITHIN = 5


@dataclass
class Session:
    """A client session as this link knows it, with the credit we have towards the gateway."""

    identity: dict
    messages: int
    bytes: int
    full: dict  # the untouched window
    waiting: list[bytes] = field(default_factory=list)


class ProtocolError(Exception):
    """The gateway broke the rules; the link is closed with the code."""

    def __init__(self, code: int, reason: str):
        super().__init__(reason)
        self.code = code


class Link:
    def __init__(self, socket):
        self.socket = socket
        self.endpoints: list[str] = []
        self.push_window: dict | None = None  # set by the gateway's hello
        self.sessions: dict[bytes, Session] = {}
        self.message_ids = itertools.count(1)

    async def run(self):
        try:
            await self.receive(await asyncio.wait_for(self.socket.recv(), HELLO_WITHIN))
            async for message in self.socket:
                await self.receive(message)
        except TimeoutError:
            await self.socket.close(1002, "no hello")
        except ProtocolError as error:
            await self.socket.close(error.code, str(error))
        except ConnectionClosed:
            pass

    async def receive(self, message: str | bytes):
        if isinstance(message, str) or len(message) < PREFIX.size:
            raise ProtocolError(1002, "not a link message")
        kind, flags, endpoint, tag, session = PREFIX.unpack_from(message)
        body = message[PREFIX.size :]
        if flags & TRACE_CONTEXT:
            body = body[TRACE_BYTES:]
        if kind == HELLO:
            await self.hello(json.loads(body))
        elif kind not in (OPEN, CLOSE, DATA, CREDIT, GOAWAY):
            raise ProtocolError(1002, f"unknown kind {kind}")
        elif self.push_window is None:
            raise ProtocolError(1002, "something came before hello")
        elif kind == OPEN:
            window = self.push_window
            identity = json.loads(body)
            self.sessions[session] = Session(identity, window["messages"], window["bytes"], window)
        elif kind == CLOSE:
            self.sessions.pop(session, None)
        elif kind == CREDIT:
            await self.credit(session, json.loads(body))
        elif kind == DATA:
            await self.data(endpoint, tag, session, body)
        # GOAWAY: the gateway opens no new sessions here; what runs is answered as ever.

    async def hello(self, hello: dict):
        if 1 not in hello["versions"]:
            raise ProtocolError(1008, "no common version")
        self.endpoints = hello["endpoints"]  # a reload sends a longer list, indices stay
        if self.push_window is None:
            self.push_window = hello["credit"]
            await self.send(HELLO, json.dumps({"version": 1, "credit": WINDOW}).encode())

    async def data(self, endpoint: int, tag: int, session: bytes, frame: bytes):
        if tag == 0:
            # Nobody waits for an answer, so nothing but this message gives the credit back.
            grant = json.dumps({"messages": 1, "bytes": len(frame)}).encode()
            await self.send(CREDIT, grant, session)
        if endpoint == NO_ENDPOINT:
            return  # the client's answer to an RPC; this backend makes none
        flags, channel, sequence, _guid, message_id = REQUEST.unpack_from(frame)
        code, payload = await self.answer(endpoint, flags, session, frame[REQUEST.size :])
        if tag != 0:
            flags = (flags | RESPONSE) & ~COMPRESSED
            header = REPLY.pack(flags, channel, sequence, message_id, code)
            await self.send(DATA, header + payload, session, tag)

    async def answer(self, endpoint: int, flags: int, session: bytes, payload: bytes):
        """The code and payload for one call: the place for a service's own work."""
        path = self.endpoints[endpoint] if endpoint < len(self.endpoints) else ""
        if session not in self.sessions:
            return INTERNAL_ERROR, b""
        if flags & META or not path.endswith(("echo", "push")):
            return NOT_FOUND, b""
        if path.endswith("push"):
            await self.push(session, payload)
        return OK, payload

    async def push(self, session: bytes, payload: bytes):
        """An event to the client, or into the line if the session's credit is used up."""
        header = REQUEST.pack(EVENT, 0, 0, bytes(16), next(self.message_ids))
        self.sessions[session].waiting.append(header + payload)
        await self.flush(session)

    async def credit(self, session: bytes, grant: dict):
        if known := self.sessions.get(session):
            known.messages += grant["messages"]
            known.bytes += grant["bytes"]
            await self.flush(session)

    async def flush(self, session: bytes):
        known = self.sessions[session]
        while known.waiting and known.messages > 0:
            size = len(known.waiting[0])
            # What is larger than the window passes alone, when the window is untouched.
            if size > known.bytes and known.bytes < known.full["bytes"]:
                return
            known.messages -= 1
            known.bytes -= size
            await self.send(DATA, known.waiting.pop(0), session)

    async def send(self, kind: int, body: bytes, session: bytes = NO_SESSION, tag: int = 0):
        await self.socket.send(PREFIX.pack(kind, 0, NO_ENDPOINT, tag, session) + body)


def authorize(token: str):
    def check(connection, request):
        given = request.headers.get("X-Service-Token", "")
        if not hmac.compare_digest(given.encode(), token.encode()):
            return connection.respond(401, "a service token is needed\n")
        return None if request.path == "/corelane-link" else connection.respond(404, "")

    return check


async def main():
    parser = argparse.ArgumentParser(description="An echoing link backend.")
    parser.add_argument("--listen", default="127.0.0.1:9300", help="HOST:PORT or unix:PATH")
    address = parser.parse_args().listen
    links: set[Link] = set()

    async def handle(socket):
        link = Link(socket)
        links.add(link)
        await link.run()
        links.discard(link)

    # Credit bounds what a gateway sends, and its frames are small: no compression, ever.
    options = {
        "process_request": authorize(os.environ.get("LINK_TOKEN", "")),
        "subprotocols": ["corelane-link.1"],
        "compression": None,
    }
    if address.startswith("unix:"):
        server = unix_serve(handle, address.removeprefix("unix:"), **options)
    else:
        host, port = address.rsplit(":", 1)
        server = serve(handle, host, int(port), **options)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with server as listening:
        bound = listening.sockets[0].getsockname()
        print(f"listening on {bound if isinstance(bound, str) else '%s:%d' % bound[:2]}", flush=True)
        await stop.wait()
        for link in list(links):
            await link.send(GOAWAY, b'{"deadlineMs":1000}')


if __name__ == "__main__":
    asyncio.run(main())
