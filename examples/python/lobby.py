"""A backend that does everything a backend can do: a lobby that players join and leave.

It answers calls over HTTP and, over the gateway's internal listener, hears of sessions, says what one
may call, pushes events, publishes a shortcut and asks the client a question. Standard library only;
docs/BACKENDS.md explains each step. Run it beside a gateway with examples/corelane.toml:

    CONNECT_INTERNAL_SERVICE_TOKEN=secret python lobby.py
"""

import argparse
import base64
import json
import os
import secrets
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

SERVICE_TOKEN = os.environ["CONNECT_INTERNAL_SERVICE_TOKEN"]
CLIENT_EVENTS = "bannou-client-events"
ANSWERS = "lobby.answers"  # the topic for what clients answer to our questions
LOBBY_GUID = "10bb1e00-0000-4000-8000-000000000001"  # by it a client knows whose question it is

accounts: dict[str, str] = {}  # of all sessions
players: dict[str, str] = {}  # of those in the lobby


class Gateway:
    """The internal listener of the gateway."""

    def __init__(self, url: str):
        self.url = url
        self.opener = build_opener(ProxyHandler({}))  # straight there, whatever the environment says

    def ask(self, path: str, body: dict | None = None, timeout: float = 10):
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-Service-Token": SERVICE_TOKEN, "Content-Type": "application/json"}
        return self.opener.open(Request(self.url + path, data, headers), timeout=timeout)

    def publish(self, name: str, fields: dict, **to: str) -> bool:
        """Publishes an event for one `session` or for every session of an `account`; False if there
        is none. It waits for a client that is away for a moment."""
        event = {"eventName": name, "eventId": str(uuid.uuid4()), "timestamp": now(), **fields}
        try:
            self.ask(f"/bus/{CLIENT_EVENTS}?{urlencode(to)}", event).close()
        except HTTPError as refused:
            if refused.code != 404:
                raise
            return False
        return True

    def allow(self, session: str, paths: list[str], reason: str):
        """Replaces what the session may call; its client is sent a new manifest."""
        grant = {"permissions": {"lobby": paths}, "reason": reason}
        self.publish("permission.session-capabilities", grant, session=session)

    def call_client(self, session: str, question: dict):
        """Asks the client something; the answer comes as a record of the topic ANSWERS."""
        payload = base64.b64encode(json.dumps(question).encode()).decode()
        rpc = {
            "clientId": session,
            "serviceName": "lobby",
            "serviceGuid": LOBBY_GUID,
            "messageId": secrets.randbits(48),  # the answer has the same
            "payload": payload,
            "responseChannel": ANSWERS,
            "timeoutSeconds": 10,
        }
        self.ask("/events/client-rpc", rpc).close()

    def follow(self, *topics: str):
        """Topic and record of everything published from now on; for ever."""
        while True:
            try:
                # The gateway sends a comment every 15 s, so silence means that it is gone.
                query = urlencode([("topic", topic) for topic in topics])
                with self.ask(f"/bus?{query}", timeout=40) as stream:
                    print("following the bus", flush=True)
                    yield from records(stream)
            except OSError as error:
                print(f"the bus is out of reach: {error}", flush=True)
            time.sleep(1)


def records(stream):
    """Server-Sent Events: lines of fields, ended by an empty one."""
    topic, data = "", []
    for line in stream:
        field, _, value = line.decode().rstrip("\r\n").partition(":")
        if field == "event":
            topic = value.strip()
        elif field == "data":
            data.append(value)
        elif not field and not value and data:
            yield topic, json.loads("\n".join(data))
            topic, data = "", []


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def on_record(gateway: Gateway, topic: str, record: dict):
    if topic == "session.connected":
        accounts[record["sessionId"]] = record["accountId"]
    elif topic == "session.disconnected":
        accounts.pop(record["sessionId"], None)
        players.pop(record["sessionId"], None)
    elif topic == ANSWERS:
        # 0 and a payload, or why there is none: 60 no answer in time, 31 the client has gone.
        session, code = record["clientId"], record["responseCode"]
        answer = json.loads(base64.b64decode(record["payload"]) or b"null")
        print(f"{accounts.get(session)} answers {code}: {answer}", flush=True)
        if code == 0:
            gateway.publish("lobby.ready", {"answer": answer}, session=session)
    elif topic == "lagged":
        print(f"{record} records were missed", flush=True)


class Calls(BaseHTTPRequestHandler):
    """One POST per message of a client; the status becomes the code of its answer."""

    protocol_version = "HTTP/1.1"  # the gateway keeps its connections
    gateway: Gateway

    def do_POST(self):
        # Set by the gateway. Only the gateway may reach this port, or anybody could write it.
        session = self.headers["X-Bannou-Session-Id"]
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        work = {"/lobby/join": self.join, "/lobby/invite": self.invite, "/lobby/leave": self.leave}
        try:
            status, answer = work[self.path](session, json.loads(body))
        except (KeyError, TypeError, ValueError):
            status, answer = 400, None  # 50
        except OSError as error:
            print(f"{self.path} failed: {error}", flush=True)
            status, answer = 500, None  # 60
        body = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def join(self, session: str, _: dict):
        players[session] = accounts.get(session, "somebody")
        self.gateway.allow(session, ["/lobby/join", "/lobby/invite"], "joined")
        # A route of this session alone: the payload is bound, the client sends none.
        shortcut = {
            "routeGuid": str(uuid.uuid4()),
            "targetGuid": LOBBY_GUID,
            "boundPayload": json.dumps({"why": "the shortcut"}),
            "metadata": {
                "name": "lobby_leave",
                "description": "Leave the lobby",
                "sourceService": "lobby",
                "targetService": "lobby",
                "targetMethod": "POST",
                "targetEndpoint": "/lobby/leave",
            },
        }
        self.gateway.publish("session.shortcut-published", {"shortcut": shortcut}, session=session)
        self.gateway.call_client(session, {"question": "ready?"})
        return 200, {"players": len(players)}

    def leave(self, session: str, bound: dict):
        if players.pop(session, None) is None:
            return 409, None  # 53
        self.gateway.allow(session, ["/lobby/join"], "left")
        self.gateway.publish("session.shortcut-revoked", {"revokeByService": "lobby"}, session=session)
        return 200, {"left": bound["why"]}

    def invite(self, session: str, wish: dict):
        guest = wish["account"]
        told = self.gateway.publish("lobby.invited", {"by": accounts.get(session)}, account=guest)
        return (200, {"invited": guest}) if told else (404, None)  # 51

    def log_message(self, *_):
        pass  # one line per message is too much


def main():
    parser = argparse.ArgumentParser(description="A lobby behind corelane.")
    parser.add_argument("--gateway", default="http://127.0.0.1:8090", help="its internal listener")
    parser.add_argument("--port", type=int, default=9300, help="where the gateway calls us")
    arguments = parser.parse_args()
    Calls.gateway = Gateway(arguments.gateway)
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Calls)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for topic, record in Calls.gateway.follow("session.connected", "session.disconnected", ANSWERS):
        try:
            on_record(Calls.gateway, topic, record)
        except OSError as error:
            print(f"{topic} could not be handled: {error}", flush=True)


if __name__ == "__main__":
    main()
