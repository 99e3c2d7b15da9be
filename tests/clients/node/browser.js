// The example client in a real browser: each route of a token that a page has, from a page whose origin
// may connect and from one whose origin may not.
// Usage: node browser.js PATH_TO_CORELANE [BROWSER]

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { within, withDevGateway } from "./dev_gateway.js";

const OUTCOMES_WITHIN_MS = 90_000;
const COOKIE = "session";
const QUIET = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
  "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
  "--no-proxy-server", "--remote-debugging-port=0",
];
const here = dirname(fileURLToPath(import.meta.url));
const FILES = { "/": ["page.html", "text/html"], "/client.mjs": ["client.mjs", "text/javascript"] };

/** Serves the page; `outcomes` resolves with what it reports. */
class Site {
  static async open() {
    const site = new Site();
    site.outcomes = new Promise((resolve) => (site.report = resolve));
    site.server = createServer((request, response) => site.#serve(request, response));
    site.server.listen(0, "127.0.0.1");
    await once(site.server, "listening");
    site.origin = `http://127.0.0.1:${site.server.address().port}`;
    return site;
  }

  async #serve(request, response) {
    if (request.url === "/outcomes") {
      let body = "";
      for await (const chunk of request) body += chunk;
      this.report(JSON.parse(body));
      return response.end();
    }
    if (request.url === "/gateway") {
      response.setHeader("Set-Cookie", `${COOKIE}=${this.gateway.jwt}; HttpOnly; SameSite=Strict; Path=/`);
      return response.end(JSON.stringify(this.gateway));
    }
    const [file, type] = FILES[request.url] ?? [];
    if (!file) return response.writeHead(404).end();
    response.setHeader("Content-Type", type);
    response.end(await readFile(join(here, file)));
  }
}

/** Runs `body` while a browser shows the page. */
async function withBrowser(browser, page, body) {
  const profile = await mkdtemp(join(tmpdir(), "corelane-browser-"));
  const child = spawn(browser, [...QUIET, `--user-data-dir=${profile}`, page], { stdio: "ignore" });
  const kill = () => child.kill("SIGKILL");
  process.once("exit", kill);
  const ended = once(child, "exit");
  try {
    const gone = ended.then(([status]) => {
      throw new Error(`${browser} ended with ${status}`);
    });
    return await Promise.race([within(OUTCOMES_WITHIN_MS, "the page's outcomes", body), gone]);
  } finally {
    process.off("exit", kill);
    kill();
    await ended;
    await rm(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}

const [binary, browser = "chromium"] = process.argv.slice(2);
const [listed, foreign] = [await Site.open(), await Site.open()];
const variables = {
  CORELANE_AUTH_COOKIE: COOKIE,
  CORELANE_AUTH_ORIGINS: listed.origin,
  CORELANE_AUTH_SUBPROTOCOL: "true",
};
await withDevGateway(binary, 1, async ({ url, tokens }) => {
  listed.gateway = foreign.gateway = { url, jwt: tokens[0] };
  assert.deepEqual(await withBrowser(browser, listed.origin, listed.outcomes), {
    query: "echo of query", subprotocol: "echo of subprotocol", cookie: "echo of cookie",
  });
  console.log("ok      browser: a page connects by query, subprotocol and cookie");
  assert.deepEqual(await withBrowser(browser, foreign.origin, foreign.outcomes), {
    query: "lost 1006", subprotocol: "lost 1006", cookie: "lost 1006",
  });
  console.log("ok      browser: a page of another origin is refused");
}, { variables, quiet: true });
process.exit(0);
