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

    @classmethod
    def open(cls, url: str, token: str) -> "_Opening":
        return _Opening(url, token)

    async def receive(self) -> frames.Request | frames.Reply:
        message = await asyncio.wait_for(self.socket.recv(), PATIENCE)
        assert isinstance(message, bytes), f"unexpected text frame {message!r}"
        return frames.decode(message)

    async def read_manifest(self):
        frame = await self.receive()
        assert isinstance(frame, frames.Request), frame
        assert (frame.flags, frame.channel, frame.sequence) == (frames.EVENT, 0, 0), frame
        assert frame.guid == frames.ZERO_GUID and frame.message_id != 0
        manifest = json.loads(frame.payload)
        assert manifest["eventName"] == "connect.capability-manifest", manifest
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
        """Sends one request and returns its reply, which must be the next frame."""
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
        await asyncio.wait_for(session.read_manifest(), PATIENCE)
        return session

    async def __aexit__(self, *error):
        await self._connect.__aexit__(*error)


def guid_bytes(text: str) -> bytes:
    """The wire carries a GUID in the order of its text."""
    raw = bytes.fromhex(text.replace("-", ""))
    assert len(raw) == 16, text
    return raw
