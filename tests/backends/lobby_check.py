"""Plays two players against a gateway with a sample lobby behind it (examples/).

Usage: python lobby_check.py PATH_TO_CORELANE COMMAND OF THE LOBBY...

Gateway and lobby are started with examples/corelane.toml on free ports; the command is given the
gateway's internal address and the port to listen on by the words GATEWAY and PORT in it.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from websockets.asyncio.client import connect

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
REQUEST = struct.Struct(">BHI16sQ")
REPLY = struct.Struct(">BHIQB")
BINARY, EVENT, RESPONSE = 0x01, 0x10, 0x40
OK, BAD_REQUEST, NOT_FOUND, CONFLICT, NO_ENDPOINT = 0, 50, 51, 53, 30
PATIENCE = 20


class Player:
    """A client that sorts what comes: answers, events by name, RPCs, and the newest manifest."""

    def __init__(self, connection):
        self.socket = connection
        self.routes: dict[str, bytes] = {}
        self.events: dict[str, list[dict]] = {}
        self.questions: list[tuple[bytes, int, dict]] = []
        self.replies: dict[int, tuple[int, bytes]] = {}
        self.calls = 0

    async def until(self, found):
        """Reads on until `found` gives something."""
        async with asyncio.timeout(PATIENCE):
            while not (result := found()):
                self.take(await self.socket.recv())
        return result

    def take(self, message):
        if isinstance(message, str):
            return  # the good-bye as a text frame
        if message[0] & RESPONSE:
            *_, message_id, code = REPLY.unpack_from(message)
            self.replies[message_id] = (code, message[REPLY.size :])
            return
        flags, _, _, guid, message_id = REQUEST.unpack_from(message)
        body = json.loads(message[REQUEST.size :])
        if not flags & EVENT:
            assert flags == BINARY, flags
            self.questions.append((guid, message_id, body))
        elif body["eventName"] == "connect.capability-manifest":
            apis = body["availableApis"]
            self.routes = {api["endpoint"]: bytes.fromhex(api["serviceId"].replace("-", "")) for api in apis}
        else:
            self.events.setdefault(body["eventName"], []).append(body)

    async def may(self, endpoint: str) -> bytes:
        return await self.until(lambda: self.routes.get(endpoint))

    async def event(self, name: str) -> dict:
        return await self.until(lambda: self.events.get(name) and self.events[name].pop(0))

    async def call(self, route: bytes, payload: bytes) -> tuple[int, bytes]:
        self.calls += 1
        mine = self.calls
        await self.socket.send(REQUEST.pack(0, 0, mine, route, mine) + payload)
        return await self.until(lambda: self.replies.get(mine))

    async def answer(self, message_id: int, payload: dict):
        reply = REPLY.pack(RESPONSE, 0, 0, message_id, OK)
        await self.socket.send(reply + json.dumps(payload).encode())


async def scenario(url: str, tokens: dict[str, str]):
    async with player(url, tokens["anna"]) as anna, player(url, tokens["ben"]) as ben:
        join = await anna.may("/lobby/join")
        assert set(anna.routes) == {"/lobby/join"}, anna.routes
        code, body = await anna.call(join, b"{}")
        assert (code, json.loads(body)) == (OK, {"players": 1}), (code, body)
        invite = await anna.may("/lobby/invite")
        print("ok      capabilities by event", flush=True)

        for payload, code in ((b'{"account":"ben"}', OK), (b'{"account":"nobody"}', NOT_FOUND), (b"{", BAD_REQUEST)):
            answered, body = await anna.call(invite, payload)
            assert answered == code, (payload, answered)
            assert json.loads(body) == {"invited": "ben"} if code == OK else body == b""
        invited = await ben.event("lobby.invited")
        assert invited["by"] == "anna", invited
        assert "lobby.invited" not in anna.events
        print("ok      statuses become codes, an event reaches the named account alone", flush=True)

        join = await ben.may("/lobby/join")
        code, body = await ben.call(join, b"{}")
        assert (code, json.loads(body)) == (OK, {"players": 2}), (code, body)
        leave = await ben.may("lobby_leave")
        assert leave != await anna.may("lobby_leave")
        print("ok      a shortcut for one session", flush=True)

        _, message_id, question = await ben.until(lambda: ben.questions and ben.questions.pop(0))
        assert question == {"question": "ready?"}, question
        await ben.answer(message_id, {"ready": True})
        ready = await ben.event("lobby.ready")
        assert ready["answer"] == {"ready": True}, ready
        print("ok      a question to a client and its answer", flush=True)

        code, body = await ben.call(leave, b"")
        assert (code, json.loads(body)) == (OK, {"left": "the shortcut"}), (code, body)
        await ben.until(lambda: set(ben.routes) == {"/lobby/join"})
        code, _ = await ben.call(leave, b"{}")
        assert code == NO_ENDPOINT, code
        print("ok      a shortcut carries its payload, and is revoked", flush=True)

        # The lobby hears of ends too: whoever joins now is the only one.
        assert (await ben.call(join, b"{}"))[0] == OK
    async with player(url, tokens["anna"]) as anna:
        join = await anna.may("/lobby/join")
        async with asyncio.timeout(PATIENCE):
            while json.loads((await anna.call(join, b"{}"))[1])["players"] != 1:
                pass
        print("ok      the end of a session is heard", flush=True)


@contextlib.asynccontextmanager
async def player(url: str, token: str):
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(url, additional_headers=headers, proxy=None) as connection:
        yield Player(connection)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all are held until all are found."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def lines_of(process, wanted: str):
    """Reads the process's lines up to one that contains `wanted`."""
    for line in process.stdout:
        if wanted in line:
            return
    raise AssertionError(f"{process.args[0]} ended before it said {wanted!r}")


def main():
    corelane, *lobby = sys.argv[1:]
    public, internal, admin, calls = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="corelane-lobby-") as folder, contextlib.ExitStack() as started:
        text = (EXAMPLES / "corelane.toml").read_text()
        for port, other in ((8080, public), (8090, internal), (9300, calls)):
            assert text.count(f":{port}") == 1, port
            text = text.replace(f":{port}", f":{other}")
        config = Path(folder, "corelane.toml")
        config.write_text(text)
        Path(folder, "token.key").write_text(secrets.token_hex(32))
        environment = os.environ | {
            "CONNECT_INTERNAL_SERVICE_TOKEN": secrets.token_hex(16),
            "CORELANE_LOG_LEVEL": "warn",
            "PYTHONUNBUFFERED": "1",
        }

        def start(*command):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            started.callback(process.wait, PATIENCE)
            started.callback(process.terminate)
            return process

        def token(account: str) -> str:
            mint = [corelane, "token", "mint", "-c", str(config), "--account", account]
            return subprocess.check_output(mint, text=True, env=environment).strip()

        tokens = {account: token(account) for account in ("anna", "ben")}
        quick = ["drain.grace=0s", "drain.spread=0s", f"listen.admin.address=127.0.0.1:{admin}"]
        sets = [word for setting in quick for word in ("--set", setting)]
        start(corelane, "serve", "-c", str(config), "--shards", "1", *sets)
        words = {"GATEWAY": f"http://127.0.0.1:{internal}", "PORT": str(calls)}
        lines_of(start(*[words.get(word, word) for word in lobby]), "following the bus")
        asyncio.run(scenario(f"ws://127.0.0.1:{public}/connect", tokens))


if __name__ == "__main__":
    assert shutil.which(sys.argv[1]), f"no program {sys.argv[1]}"
    main()
