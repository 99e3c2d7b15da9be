"""Runs the Autobahn testsuite against echo routes, and compares its results with those expected.

Usage: python autobahn.py PATH_TO_WSTEST REPORTS own PATH_TO_CORELANE
       python autobahn.py PATH_TO_WSTEST REPORTS PROFILE URL...

The first starts a gateway for each limit profile, the second judges servers that run already. REPORTS is
a folder for the suite's pages, its words and the gateway's.
"""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
PROFILES = ["conformance", "production"]
# Compression extensions, which the gateway does not negotiate.
EXCLUDED = ["12.*", "13.*"]
GOOD = {"OK", "INFORMATIONAL"}
START_WITHIN = 30
SUITE_WITHIN = 300
STOP_WITHIN = 30
# Which fields of the gateway's line `serving` name listeners, and how those are spoken to.
LISTENERS = {"public": "ws", "tls": "wss"}
# What the TLS listener adds to the configuration.
TLS = """
[listen.tls]
address = ["127.0.0.1:0"]

[[listen.tls.certificate]]
certificate = "{folder}/certificate.pem"
key = "{folder}/key.pem"
"""


def read_expected(text: str) -> tuple[int, dict[str, str]]:
    """The number of cases, and for each one that deviates how."""
    count, deviations = None, {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["cases"]:
            count = int(words[1])
        elif words:
            deviations[words[0]] = " ".join(words[1:])
    assert count is not None, "how many cases there are is not said"
    return count, deviations


def deviation(result: dict) -> str | None:
    """How a case deviates, in the words of the file of those expected."""
    outcomes = [result["behavior"], result["behaviorClose"]]
    if all(outcome in GOOD for outcome in outcomes):
        return None
    return " / ".join(outcomes) + f", closed with {result['remoteCloseCode']}"


def differences(expected: tuple[int, dict[str, str]], found: dict[str, dict]) -> list[str]:
    """A line for each case that is not as expected; nothing when all are."""
    count, deviations = expected
    lines = []
    if len(found) != count:
        lines.append(f"{count} cases were expected, and {len(found)} were run")
    actual = {case: deviation(result) for case, result in found.items()}
    for case in sorted(actual.keys() | deviations.keys(), key=by_number):
        wanted, got = deviations.get(case), actual.get(case)
        if case not in actual:
            lines.append(f"{case}: was not run")
        elif wanted != got:
            lines.append(f"{case}: expected {wanted or 'OK'}, found {got or 'OK'}")
    return lines


def by_number(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def check_itself():
    """Every kind of difference is one; a comparison that overlooks some would prove nothing."""

    def result(behavior, close="OK", code=1000):
        return {"behavior": behavior, "behaviorClose": close, "remoteCloseCode": code}

    expected = read_expected("# why\ncases 3\n1.10 FAILED / OK, closed with 1009 # too long\n")
    good = {"1.2": result("OK"), "1.9": result("INFORMATIONAL"), "1.10": result("FAILED", code=1009)}
    assert differences(expected, good) == []
    faults = [
        {"1.2": result("NON-STRICT")},
        {"1.2": result("OK", close="UNCLEAN")},
        {"1.10": result("OK")},
        {"1.10": result("FAILED", code=1002)},
        {"1.11": result("OK")},
    ]
    for fault in faults:
        assert len(differences(expected, good | fault)) == 1, fault
    assert len(differences(expected, {"1.2": good["1.2"], "1.9": good["1.9"]})) == 2


def run_suite(wstest: str, reports: Path, urls: list[str]) -> dict[str, dict[str, dict]]:
    """The result of every case, by URL."""
    reports.mkdir(parents=True, exist_ok=True)
    specification = {
        "outdir": str(reports),
        "servers": [{"agent": url, "url": url, "options": {"version": 18}} for url in urls],
        "cases": ["*"],
        "exclude-cases": EXCLUDED,
        "exclude-agent-cases": {},
    }
    index = reports / "index.json"
    index.unlink(missing_ok=True)
    (reports / "specification.json").write_text(json.dumps(specification))
    words = reports / "wstest.log"
    command = [wstest, "-m", "fuzzingclient", "-s", str(reports / "specification.json")]
    with words.open("w") as log:
        status = subprocess.run(command, stdout=log, stderr=log, timeout=SUITE_WITHIN * len(urls)).returncode
    if status != 0 or not index.exists():
        tail = "\n".join(words.read_text().splitlines()[-20:])
        raise SystemExit(f"the suite ended with {status} and without results:\n{tail}")
    return json.loads(index.read_text())


def judge(wstest: str, reports: Path, profile: str, urls: list[str]) -> bool:
    """Whether all is as expected of `profile` at all `urls`; says what is not."""
    expected = read_expected((HERE / f"expected_{profile}.txt").read_text())
    results = run_suite(wstest, reports / profile, urls)
    as_expected = True
    for url in urls:
        found = results.get(url, {})
        wrong = differences(expected, found)
        verdict = "ok" if not wrong else "FAILED"
        print(f"{verdict:7} {profile}: {len(found)} cases, {len(expected[1])} expected to deviate, {url}")
        for line in wrong:
            print(f"        {line}")
        as_expected = as_expected and not wrong
    if not as_expected:
        print(f"        what was sent and received: {reports / profile / 'index.html'}")
    sys.stdout.flush()
    return as_expected


def listening(log: Path) -> list[str] | None:
    """URLs of the echo routes, once the gateway serves."""
    for line in log.read_text().splitlines(keepends=True):
        if '"serving"' in line and line.endswith("\n"):
            fields = json.loads(line)
            return [
                f"{scheme}://{address}/echo"
                for field, scheme in LISTENERS.items()
                for address in fields.get(field, "").strip("[]").split(", ")
                if address
            ]
    return None


def make_certificate(folder: Path):
    """One for the loopback address, which the suite does not check."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "7"]
    command += ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        raise SystemExit("openssl is missing: the certificate for wss is made with it") from None


@contextmanager
def gateway(binary: str, profile: str, log: Path):
    """URLs of a gateway that serves while the block runs."""
    folder = log.parent
    folder.mkdir(parents=True, exist_ok=True)
    make_certificate(folder)
    config = folder / "corelane.toml"
    config.write_text((HERE / "corelane.toml").read_text() + TLS.format(folder=folder))
    command = [binary, "serve", "-c", str(config), "--set", f"limits.profile={profile}"]
    with log.open("w") as stderr, subprocess.Popen(command, stderr=stderr) as process:
        try:
            deadline = time.monotonic() + START_WITHIN
            while not (urls := listening(log)):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the gateway does not serve:\n{log.read_text()}")
                time.sleep(0.02)
            yield urls
            process.terminate()
            status = process.wait(STOP_WITHIN)
            if status != 0:
                raise SystemExit(f"after SIGTERM the gateway ended with {status}:\n{log.read_text()}")
        finally:
            process.kill()


def main():
    wstest, reports, what, *rest = sys.argv[1:]
    reports = Path(reports).absolute()
    check_itself()
    if what != "own":
        raise SystemExit(0 if judge(wstest, reports, what, rest) else 1)
    [binary] = rest
    verdicts = []
    for profile in PROFILES:
        with gateway(binary, profile, reports / profile / "corelane.log") as urls:
            verdicts.append(judge(wstest, reports, profile, urls))
    raise SystemExit(0 if all(verdicts) else 1)


if __name__ == "__main__":
    main()
