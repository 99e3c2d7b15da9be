"""`corelane dev` as a child process: started, read for its one line of JSON, stopped by SIGTERM."""

import asyncio
import json
import signal
import tempfile

READY_WITHIN = 30
STOP_WITHIN = 30


class DevGateway:
    """Use as `async with DevGateway(path) as gateway`; the fields are those of the JSON line."""

    def __init__(self, binary: str, shards: int = 2, quiet: bool = False):
        self._binary = binary
        self._shards = shards
        self._quiet = ["--quiet"] if quiet else []

    async def __aenter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="corelane-dev-")
        arguments = ["--json", "--port", "0", "--shards", str(self._shards)]
        self._process = await asyncio.create_subprocess_exec(
            self._binary, "dev", *arguments, "--dir", self._folder.name, *self._quiet,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), READY_WITHIN)
            assert line, f"{self._binary} ended before it was ready"
            ready = json.loads(line)
            self.url: str = ready["url"]
            self.admin_url: str = ready["admin_url"]
            self.internal_url: str = ready["internal_url"]
            self.service_token: str = ready["service_token"]
            self.tokens: list[str] = ready["tokens"]
            self.accounts: list[str] = ready["accounts"]
            assert len(self.tokens) == 4, "dev mints four tokens"
            assert ready["shards"] == self._shards
            assert ready["pid"] == self._process.pid
        except BaseException:
            await self._kill()
            raise
        return self

    async def __aexit__(self, kind, error, trace):
        if kind is not None:
            await self._kill()
            return
        try:
            self._process.send_signal(signal.SIGTERM)
            status = await asyncio.wait_for(self._process.wait(), STOP_WITHIN)
            assert status == 0, f"after SIGTERM the gateway ended with {status}"
        except BaseException:
            await self._kill()
            raise
        self._folder.cleanup()

    async def _kill(self):
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._folder.cleanup()
