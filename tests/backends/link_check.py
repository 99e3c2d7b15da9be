"""Plays the gateway's side of a link against a backend and checks the rules of docs/LINK.md.

Usage: LINK_TOKEN=secret python link_check.py ws://127.0.0.1:9300/corelane-link

The backend must echo the calls of the endpoint `/check/echo`.
"""

import asyncio
import json
import os
import struct
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

PREFIX = struct.Struct(">BBHI16s")
REQUEST = struct.Struct(">BHI16sQ")
REPLY = struct.Struct(">BHIQB")
HELLO, OPEN, CLOSE, DATA, CREDIT, GOAWAY = range(1, 7)
SESSION, PATIENCE = bytes(range(16)), 5
GREETING = {
    "versions": [1],
    "service": "check",
    "endpoints": ["/check/other", "/check/echo"],
    "node": "check",
    "shard": 0,
    "credit": {"messages": 32, "bytes": 65536},
}
IDENTITY = {"account": "a", "roles": ["user"], "tenant": "default", "peer": "192.0.2.1:1"}


def link(token: str | None = None):
    token = os.environ.get("LINK_TOKEN", "") if token is None else token
    return connect(
        sys.argv[1],
        additional_headers={"X-Service-Token": token},
        subprotocols=["corelane-link.1"],
        compression=None,
        proxy=None,
    )


def message(kind: int, body: bytes = b"", *, flags=0, endpoint=0xFFFF, tag=0, session=bytes(16)):
    return PREFIX.pack(kind, flags, endpoint, tag, session) + body


def call(payload: bytes, *, tag=7, flags=0, endpoint=1, trace=b"") -> bytes:
    frame = REQUEST.pack(flags, 3, 4, bytes(16), 5) + payload
    link_flags = 1 if trace else 0
    return message(
        DATA, trace + frame, flags=link_flags, endpoint=endpoint, tag=tag, session=SESSION
    )


async def receive(socket):
    raw = await asyncio.wait_for(socket.recv(), PATIENCE)
    return PREFIX.unpack_from(raw), raw[PREFIX.size :]


async def greet(socket):
    await socket.send(message(HELLO, json.dumps(GREETING).encode()))
    (kind, flags, _, tag, session), body = await receive(socket)
    assert (kind, flags, tag, session) == (HELLO, 0, 0, bytes(16))
    hello = json.loads(body)
    assert hello["version"] == 1 and hello["credit"]["messages"] > 0, hello
    await socket.send(message(OPEN, json.dumps(IDENTITY).encode(), session=SESSION))


async def expect_reply(socket, tag: int, flags: int, code: int, payload: bytes):
    (kind, link_flags, endpoint, got, session), body = await receive(socket)
    assert (kind, link_flags, endpoint, got, session) == (DATA, 0, 0xFFFF, tag, SESSION)
    assert REPLY.unpack_from(body) == (flags, 3, 4, 5, code), body
    assert body[REPLY.size :] == payload, body


async def calls_are_answered():
    async with link() as socket:
        await greet(socket)
        await socket.send(call(b"{}"))
        await expect_reply(socket, 7, 0x40, 0, b"{}")
        # Flags are echoed, but never the one for compression.
        await socket.send(call(b"\x00\xff", tag=8, flags=0x05))
        await expect_reply(socket, 8, 0x41, 0, b"\x00\xff")
        await socket.send(call(b"traced", tag=9, trace=bytes(25)))
        await expect_reply(socket, 9, 0x40, 0, b"traced")


async def an_unknown_endpoint_is_answered_without_payload():
    async with link() as socket:
        await greet(socket)
        await socket.send(call(b"{}", endpoint=999))
        await expect_reply(socket, 7, 0x40, 51, b"")


async def a_message_without_tag_gives_its_credit_back_and_no_answer():
    async with link() as socket:
        await greet(socket)
        await socket.send(call(b"event", tag=0, flags=0x10))
        (kind, _, _, tag, session), body = await receive(socket)
        assert (kind, tag, session) == (CREDIT, 0, SESSION)
        assert json.loads(body) == {"messages": 1, "bytes": REQUEST.size + len(b"event")}
        await socket.send(call(b"{}"))
        await expect_reply(socket, 7, 0x40, 0, b"{}")


async def a_reload_appends_endpoints():
    async with link() as socket:
        await greet(socket)
        longer = GREETING | {"endpoints": [*GREETING["endpoints"], "/check/late-echo"]}
        await socket.send(message(HELLO, json.dumps(longer).encode()))
        await socket.send(call(b"late", endpoint=2))
        await expect_reply(socket, 7, 0x40, 0, b"late")


async def what_runs_is_finished_after_goaway():
    async with link() as socket:
        await greet(socket)
        await socket.send(message(GOAWAY, b'{"deadlineMs":1000}'))
        await socket.send(call(b"{}"))
        await expect_reply(socket, 7, 0x40, 0, b"{}")


async def broken_rules_close_the_link():
    no_version = json.dumps(GREETING | {"versions": [99]}).encode()
    for what, code, sent in (
        ("no common version", 1008, message(HELLO, no_version)),
        ("data before hello", 1002, call(b"{}")),
        ("an unknown kind", 1002, message(9)),
        ("a short message", 1002, bytes(23)),
        ("text", 1002, "text"),
    ):
        async with link() as socket:
            await socket.send(sent)
            try:
                await asyncio.wait_for(socket.recv(), PATIENCE)
                raise AssertionError(f"{what} was answered")
            except ConnectionClosed as closed:
                assert closed.rcvd and closed.rcvd.code == code, f"{what}: {closed}"


async def a_bad_token_is_refused():
    try:
        async with link(token="wrong"):
            raise AssertionError("the link was accepted")
    except InvalidStatus as refusal:
        assert refusal.response.status_code == 401, refusal


async def main() -> int:
    failed = 0
    for expectation in (
        calls_are_answered,
        an_unknown_endpoint_is_answered_without_payload,
        a_message_without_tag_gives_its_credit_back_and_no_answer,
        a_reload_appends_endpoints,
        what_runs_is_finished_after_goaway,
        broken_rules_close_the_link,
        a_bad_token_is_refused,
    ):
        name = expectation.__name__.replace("_", " ")
        try:
            await expectation()
            print(f"ok      link: {name}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAILED  link: {name}: {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
