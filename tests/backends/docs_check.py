"""Runs the commands of docs/BACKENDS.md against `corelane dev`, and looks what their player sees.

Usage: python docs_check.py PATH_TO_CORELANE
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from lobby_check import PATIENCE, player

PAGE = Path(__file__).parent.parent.parent / "docs" / "BACKENDS.md"


def commands() -> str:
    """The shell blocks from the first that needs the internal listener, as one script."""
    page = PAGE.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page[page.index("## Pushing an event") :], re.M | re.S)
    assert len(blocks) >= 7, blocks
    follow = [block for block in blocks if block.startswith("curl -N") and "&\n" not in block and "& " not in block]
    assert len(follow) == 1, follow
    # Whoever follows the bus does so for ever.
    blocks = [block.rstrip() + " &\nsleep 1\n" if block in follow else block for block in blocks]
    return "set -eu\n" + "".join(blocks) + "sleep 1\nkill $(jobs -p)\n"


async def see(gateway: dict):
    variables = {
        "GATEWAY": gateway["internal_url"],
        "SERVICE_TOKEN": gateway["service_token"],
        "ACCOUNT": gateway["accounts"][0],
    }
    async with player(gateway["url"], gateway["tokens"][0]) as anna:
        await anna.may("/demo/time")
        script = await asyncio.create_subprocess_exec(
            "bash", "-c", commands(), env=os.environ | variables,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )
        output = asyncio.create_task(script.communicate())
        assert (await anna.event("system.notification"))["message"] == "Hello"
        await anna.until(lambda: set(anna.routes) == {"/demo/echo"})
        route = await anna.may("say_why")
        assert route.hex().startswith("e396fa78")
        await anna.until(lambda: "say_why" not in anna.routes)
        _, message_id, question = await anna.until(lambda: anna.questions and anna.questions.pop(0))
        assert (message_id, question) == (77, {"question": "ready?"})
        await anna.answer(message_id, {"ready": True})
        try:
            await anna.until(lambda: False)
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 4001 and closed.rcvd.reason.endswith("Logout"), closed
        said, _ = await asyncio.wait_for(output, PATIENCE)
    said = said.decode()
    assert script.returncode == 0, f"a command of the page failed:\n{said}"
    assert said.count('{"published":1}') >= 6, said
    answer = next(json.loads(line[5:]) for line in said.splitlines() if line.startswith('data: {"clientId"'))
    assert (answer["responseCode"], answer["payload"]) == (0, "eyJyZWFkeSI6IHRydWV9"), answer
    assert "event: session.disconnected" in said, said


def main():
    with tempfile.TemporaryDirectory(prefix="corelane-docs-") as folder:
        command = [sys.argv[1], "dev", "--json", "--quiet", "--port", "0", "--shards", "1", "--dir", folder]
        environment = os.environ | {"CORELANE_LOG_LEVEL": "warn"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as dev:
            try:
                asyncio.run(see(json.loads(dev.stdout.readline())))
            finally:
                dev.terminate()
    print("ok      the commands of docs/BACKENDS.md do what it says", flush=True)


if __name__ == "__main__":
    main()
