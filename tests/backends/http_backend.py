"""An HTTP backend in Python, standard library only: one POST per message.

The payload of the client's message is the body, the answer's body is the reply's payload, and the
status becomes the response code (docs/BACKENDS.md). Run it with

    python http_backend.py --port 9301
"""

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # the gateway keeps its connections open

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # For correlation in logs; it proves nothing about who is calling.
        session = self.headers.get("X-Bannou-Session-Id", "")
        if self.path.endswith("/echo"):
            self.answer(200, body)
        elif self.path.endswith("/time"):
            now = {"unixMs": time.time_ns() // 1_000_000, "session": session}
            self.answer(200, json.dumps(now).encode())
        else:
            self.answer(404, b"")

    def do_GET(self):
        if self.path.endswith("/meta/info"):  # what a meta request of channel 0 asks for
            path = self.path.removesuffix("/meta/info")
            info = {"metaType": "endpoint-info", "method": "POST", "path": path, "data": {}}
            self.answer(200, json.dumps(info).encode())
        else:
            self.answer(404, b"")

    def answer(self, status: int, body: bytes):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass  # one line per message is too much


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An echoing HTTP backend.")
    parser.add_argument("--port", type=int, default=9301)
    port = parser.parse_args().port
    with ThreadingHTTPServer(("127.0.0.1", port), Backend) as server:
        print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
