"""What a client that shares no code with the gateway may expect of it.

Usage: python conformance.py PATH_TO_CORELANE [--max-message BYTES] [--hard-limit BYTES]
"""

import argparse
import asyncio
import json
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import frames
from dev_gateway import DevGateway
from session import Session


async def calls_reach_both_kinds_of_backend(gateway, limits):
    async with Session.open(gateway.url, gateway.tokens[0]) as session:
        for endpoint in ("/demo/echo", "/demo/link-echo"):
            for payload in (b'{"hello":"world"}', json.dumps("x" * 5000).encode()):
                reply = await session.call(session.services[endpoint], payload, channel=3)
                assert reply.code == frames.OK, f"{endpoint}: code {reply.code}"
                assert reply.payload == payload, f"{endpoint}: another payload came back"
        reply = await session.call(session.services["/demo/time"], b"{}")
        assert reply.code == frames.OK and json.loads(reply.payload)


async def peers_exchange_messages(gateway, limits):
    async with (
        Session.open(gateway.url, gateway.tokens[0]) as alice,
        Session.open(gateway.url, gateway.tokens[1]) as bob,
    ):
        assert alice.peer_guid != bob.peer_guid
        for sender, target in ((alice, bob), (bob, alice)):
            payload = os.urandom(300)
            reply = await sender.call(target.peer_guid, payload, frames.CLIENT)
            assert reply.code == frames.OK, reply
            receipt = json.loads(reply.payload)
            assert receipt["Status"] == "delivered", receipt
            assert receipt["OriginalMessageId"] == reply.message_id, receipt
            arrived = await target.receive()
            assert isinstance(arrived, frames.Request), arrived
            assert arrived.flags == frames.CLIENT and arrived.guid == target.peer_guid, arrived
            assert arrived.message_id == reply.message_id and arrived.payload == payload
        gone = alice.peer_guid[:-1] + bytes([alice.peer_guid[-1] ^ 1])
        reply = await bob.call(gone, b"?", frames.CLIENT)
        assert reply.code == frames.CLIENT_NOT_FOUND, reply


async def services_push_events_shortcuts_and_questions(gateway, limits):
    async with Session.open(gateway.url, gateway.tokens[0]) as session:
        assert (await session.question())["question"] == "who are you?"
        assert (await session.event("demo.tick"))["n"] > 0
        reply = await session.call(session.services["demo_time"], b"")
        assert reply.code == frames.OK and json.loads(reply.payload), reply


async def a_bad_token_is_refused(gateway, limits):
    good = gateway.tokens[0]
    forged = good[:-6] + ("AAAAAA" if good[-6:] != "AAAAAA" else "BBBBBB")
    for what, headers in (
        ("no token", {}),
        ("not a token", {"Authorization": "Bearer nonsense"}),
        ("a forged signature", {"Authorization": f"Bearer {forged}"}),
    ):
        try:
            async with connect(gateway.url, additional_headers=headers, proxy=None):
                raise AssertionError(f"{what} opened a session")
        except InvalidStatus as refusal:
            assert refusal.response.status_code == 401, f"{what}: {refusal}"


async def a_text_frame_is_refused(gateway, limits):
    async with Session.open(gateway.url, gateway.tokens[0]) as session:
        for sequence in (1, 2):
            await session.socket.send("text is not part of the protocol")
            reply = await session.receive()
            assert isinstance(reply, frames.Reply) and reply.flags == frames.RESPONSE, reply
            assert (reply.channel, reply.sequence) == (0, sequence), reply
            assert reply.code == frames.TEXT_NOT_SUPPORTED and reply.payload == b"", reply


async def an_unknown_guid_is_refused(gateway, limits):
    async with Session.open(gateway.url, gateway.tokens[0]) as session:
        reply = await session.call(os.urandom(16), b"{}")
        assert reply.code == frames.SERVICE_NOT_FOUND, reply


async def a_message_too_large_is_answered(gateway, limits):
    async with Session.open(gateway.url, gateway.tokens[0]) as session:
        echo = session.services["/demo/echo"]
        reply = await session.call(echo, b"x" * (limits.max_message + 1))
        assert reply.code == frames.REQUEST_TOO_LARGE, reply
        reply = await session.call(echo, b'"still open"')
        assert reply.code == frames.OK, reply


async def a_message_beyond_the_hard_limit_closes(gateway, limits):
    async with Session.open(gateway.url, gateway.tokens[0]) as session:
        try:
            await session.send(session.services["/demo/echo"], b"x" * (limits.hard_limit + 1))
            await session.receive()
            raise AssertionError("a frame came back")
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "the connection ended without a close frame"
            assert closed.rcvd.code == 1009, closed


EXPECTATIONS = (
    calls_reach_both_kinds_of_backend,
    peers_exchange_messages,
    services_push_events_shortcuts_and_questions,
    a_bad_token_is_refused,
    a_text_frame_is_refused,
    an_unknown_guid_is_refused,
    a_message_too_large_is_answered,
    a_message_beyond_the_hard_limit_closes,
)


async def main() -> int:
    parser = argparse.ArgumentParser(description="Check a gateway with Python's websockets.")
    parser.add_argument("binary", help="the corelane program")
    parser.add_argument("--max-message", type=int, default=65_536, help="answered 11 above this")
    parser.add_argument("--hard-limit", type=int, default=1_048_576, help="closed 1009 above this")
    limits = parser.parse_args()
    failed = 0
    async with DevGateway(limits.binary) as gateway:
        for expectation in EXPECTATIONS:
            name = expectation.__name__.replace("_", " ")
            try:
                await expectation(gateway, limits)
                print(f"ok      python: {name}", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAILED  python: {name}: {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
