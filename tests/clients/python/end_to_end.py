"""Sessions that are killed without good-bye, on bare `websockets`: events come again until they are
acknowledged, whatever becomes of connections.

Usage: python end_to_end.py PATH_TO_CORELANE
"""

import asyncio
import json
import os
import sys
import urllib.request
import uuid

from websockets.asyncio.client import connect

import frames
from dev_gateway import DevGateway

PATIENCE = 15
COUNTED = "test.counted"


class Killable:
    """A connection that reads events and acknowledges only what it is told to."""

    @classmethod
    async def open(cls, gateway, authorization: str) -> "Killable":
        self = cls()
        headers = {"Authorization": authorization}
        self.socket = await connect(gateway.url, additional_headers=headers, proxy=None)
        await self.acknowledge(0)
        manifest = (await self.event("connect.capability-manifest"))[1]
        self.session, self.reason = manifest["sessionId"], manifest["reason"]
        self.token = (await self.event("connect.session-token"))[1]["token"]
        return self

    async def event(self, name: str) -> tuple[int, dict]:
        """Message id and JSON of the next event, which has to have that name."""
        message = await asyncio.wait_for(self.socket.recv(), PATIENCE)
        frame = frames.decode(message)
        assert isinstance(frame, frames.Request) and frame.flags == frames.EVENT, frame
        event = json.loads(frame.payload)
        assert event["eventName"] == name, event
        return frame.message_id, event

    async def counts(self, *expected: int) -> int:
        """Reads as many events; the message id of the last."""
        for count in expected:
            message_id, event = await self.event(COUNTED)
            assert event["count"] == count, f"{event} and not {count}"
        return message_id

    async def acknowledge(self, message_id: int):
        payload = json.dumps({"eventName": "connect.ack", "sequence": str(message_id)}).encode()
        ack = frames.Request(frames.EVENT, 0, 0, frames.ZERO_GUID, 1, payload)
        await self.socket.send(ack.encode())

    async def is_heard(self):
        """Whatever was sent before has been handled when this is answered."""
        await self.socket.send(frames.Request(0, 0, 0, b"\x77" * 16, 9, b"{}").encode())
        reply = frames.decode(await asyncio.wait_for(self.socket.recv(), PATIENCE))
        assert isinstance(reply, frames.Reply) and reply.code == frames.SERVICE_NOT_FOUND, reply

    def kill(self):
        self.socket.transport.abort()


async def publish(gateway, session: str, count: int):
    event = {"eventName": COUNTED, "eventId": str(uuid.uuid4()), "count": count}
    request = urllib.request.Request(
        f"{gateway.internal_url}/bus/bannou-client-events?session={session}",
        data=json.dumps(event).encode(),
        headers={"X-Service-Token": gateway.service_token},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    response = await asyncio.to_thread(direct.open, request, None, PATIENCE)
    assert response.status == 202, response.status


async def events_come_again_until_they_are_acknowledged(gateway):
    jwt = f"Bearer {gateway.tokens[1]}"
    first = await Killable.open(gateway, jwt)
    assert first.reason == "session_connected"
    for count in (1, 2, 3):
        await publish(gateway, first.session, count)
    await first.counts(1, 2, 3)
    first.kill()

    second = await Killable.open(gateway, f"Reconnect {first.token}")
    assert (second.session, second.reason) == (first.session, "session_reconnected")
    two = await second.counts(1, 2)
    await second.counts(3)
    await second.acknowledge(two)
    await second.is_heard()
    second.kill()

    await publish(gateway, first.session, 4)
    third = await Killable.open(gateway, jwt)
    assert (third.session, third.reason) == (first.session, "session_reconnected")
    await third.acknowledge(await third.counts(3, 4))
    await third.is_heard()
    third.kill()

    fourth = await Killable.open(gateway, f"Reconnect {third.token}")
    await publish(gateway, first.session, 5)
    await fourth.acknowledge(await fourth.counts(5))
    await fourth.is_heard()
    await fourth.socket.close()


async def main() -> int:
    os.environ["CORELANE_EVENTS_CLIENT_EVENT_NAMES"] = COUNTED
    async with DevGateway(sys.argv[1], quiet=True) as gateway:
        await events_come_again_until_they_are_acknowledged(gateway)
        print("ok      python: events come again until they are acknowledged", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
