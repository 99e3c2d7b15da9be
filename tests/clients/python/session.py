"""One client session on `websockets`: connect, wait for the manifest, exchange frames."""

import asyncio
import json

from websockets.asyncio.client import connect

import frames

PATIENCE = 10


class Session:
    """Use as `async with Session.open(url, token) as session`."""

    def __init__(self, socket):
        self.socket = socket
        self._next_id = 1
        self.services: dict[str, bytes] = {}
        self.peer_guid = frames.ZERO_GUID
        self.events: list[dict] = []
        self.questions: list[dict] = []

    @classmethod
    def open(cls, url: str, token: str) -> "_Opening":
        return _Opening(url, token)

    async def receive(self) -> frames.Request | frames.Reply:
        """The next reply or peer message."""
        while (frame := await self._next()) is None:
            pass
        return frame

    async def event(self, name: str) -> dict:
        """The next event of that name, of those that nobody has asked for yet."""
        while not (found := [event for event in self.events if event["eventName"] == name]):
            assert await self._next() is None, "neither an event nor an RPC"
        self.events.remove(found[0])
        return found[0]

    async def question(self) -> dict:
        """What a service has asked; it was answered."""
        while not self.questions:
            assert await self._next() is None, "neither an event nor an RPC"
        return self.questions.pop(0)

    async def _next(self) -> frames.Request | frames.Reply | None:
        """The next reply or peer message; None if something else came. Events and RPCs are kept."""
        message = await asyncio.wait_for(self.socket.recv(), PATIENCE)
        if isinstance(message, str):  # the only text there is, before a close
            assert json.loads(message)["eventName"] == "connect.disconnect-notification", message
            return None
        frame = frames.decode(message)
        if isinstance(frame, frames.Reply) or frame.flags & frames.CLIENT:
            return frame
        body = json.loads(frame.payload)
        if frame.flags & frames.EVENT:
            assert (frame.flags, frame.channel, frame.sequence) == (frames.EVENT, 0, 0), frame
            assert frame.guid == frames.ZERO_GUID and frame.message_id != 0
            if body["eventName"] == "connect.capability-manifest":
                self._read_manifest(body)
            self.events.append(body)
        else:
            assert frame.flags == frames.BINARY, frame
            answer = b'{"name":"a test"}'
            reply = frames.Reply(frames.RESPONSE, frame.channel, 0, frame.message_id, frames.OK, answer)
            await self.socket.send(reply.encode())
            self.questions.append(body)

    def _read_manifest(self, manifest: dict):
        self.services.clear()  # each replaces the one before
        for api in manifest["availableApis"]:
            assert api["service"], api
            self.services[api["endpoint"]] = guid_bytes(api["serviceId"])
        self.peer_guid = guid_bytes(manifest["peerGuid"])  # Relayed mode only

    async def send(self, guid: bytes, payload: bytes, flags: int = 0, channel: int = 0) -> int:
        """Sends one request and returns its message id."""
        message_id = self._next_id
        self._next_id += 1
        request = frames.Request(flags, channel, message_id, guid, message_id, payload)
        await self.socket.send(request.encode())
        return message_id

    async def call(self, guid: bytes, payload: bytes, flags: int = 0, channel: int = 0):
        """Sends one request and returns its reply; only events may come before it."""
        message_id = await self.send(guid, payload, flags, channel)
        reply = await self.receive()
        assert isinstance(reply, frames.Reply), reply
        assert reply.flags == flags | frames.RESPONSE, reply
        assert (reply.channel, reply.sequence) == (channel, message_id), reply
        assert reply.message_id == message_id, reply
        assert reply.code == frames.OK or reply.payload == b"", reply
        return reply


class _Opening:
    def __init__(self, url: str, token: str):
        headers = {"Authorization": f"Bearer {token}"}
        # Nothing between here and the gateway is a proxy, whatever the environment says.
        self._connect = connect(url, additional_headers=headers, max_size=None, proxy=None)

    async def __aenter__(self) -> Session:
        session = Session(await self._connect.__aenter__())
        await session.event("connect.capability-manifest")
        return session

    async def __aexit__(self, *error):
        await self._connect.__aexit__(*error)


def guid_bytes(text: str) -> bytes:
    """The wire carries a GUID in the order of its text."""
    raw = bytes.fromhex(text.replace("-", ""))
    assert len(raw) == 16, text
    return raw
