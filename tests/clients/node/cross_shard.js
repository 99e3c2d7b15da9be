// Two clients on different shards exchange peer messages: none lost, none reordered, none changed,
// and the gateway's own counters must show that every one of them crossed a lane.
// Usage: node cross_shard.js PATH_TO_CORELANE [--messages=100000] [--window=256]

import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { within, withDevGateway } from "./dev_gateway.js";
import { CLIENT, OK, decode, encodeRequest } from "./frames.js";
import { Session } from "./session.js";

const CROSSINGS = "corelane_lane_crossings_sent_total";
const RECONNECTS = 16;
const ALL_WITHIN_MS = 300_000;
/** Longer than one receive buffer of the gateway now and then, shorter otherwise. */
const SIZES = [1, 64, 200, 700, 2100];

async function crossings(adminUrl) {
  const response = await fetch(new URL("/metrics", adminUrl));
  assert.equal(response.status, 200, "/metrics");
  const samples = (await response.text())
    .split("\n")
    .filter((line) => line.startsWith(CROSSINGS) && /[ {]/.test(line[CROSSINGS.length]));
  assert.ok(samples.length > 0, `/metrics has no ${CROSSINGS}`);
  return samples.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

/** Whether a message between the two moves the lane counters. */
async function areApart(adminUrl, one, other) {
  const before = await crossings(adminUrl);
  const reply = await one.call(other.peerGuid, Buffer.from("probe"), { flags: CLIENT });
  assert.equal(reply.code, OK);
  await other.receive();
  // The counters are published about once a second.
  for (let waited = 0; waited < 2500; waited += 250) {
    if ((await crossings(adminUrl)) > before) return true;
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  return false;
}

/** Two sessions on different shards. The kernel chooses the shard of a connection, so try again. */
async function pairApart({ url, admin_url: adminUrl, tokens }) {
  const one = await Session.open(url, tokens[0]);
  for (let attempt = 0; attempt < RECONNECTS; attempt += 1) {
    const other = await Session.open(url, tokens[1 + (attempt % 3)]);
    if (await areApart(adminUrl, one, other)) return [one, other];
    await other.close();
  }
  throw new Error(`${RECONNECTS} connections in a row came to the same shard`);
}

/** Bytes that depend on the sender and on every index. */
function payloadOf(sender, index) {
  const payload = Buffer.alloc(8 + SIZES[index % SIZES.length], (index * 7 + sender) & 0xff);
  payload.writeUInt32BE(sender, 0);
  payload.writeUInt32BE(index, 4);
  return payload;
}

/** Sends `count` messages from `self` to `peer`, at most `window` unanswered, and checks what
 * comes the other way. Resolves when all answers and all messages have come. */
function exchange(self, peer, { sender, count, window }) {
  const { socket } = self;
  let sent = 0;
  let answered = 0;
  let arrived = 0;
  return new Promise((resolve, reject) => {
    const pump = () => {
      while (sent < count && sent - answered < window) {
        const payload = payloadOf(sender, sent);
        const messageId = BigInt(sent);
        socket.send(encodeRequest({ flags: CLIENT, guid: peer.peerGuid, messageId, payload }));
        sent += 1;
      }
      if (answered === count && arrived === count) resolve();
    };
    socket.removeAllListeners("message");
    socket.on("message", (bytes) => {
      try {
        const frame = decode(bytes);
        if (frame.kind === "reply") {
          assert.equal(frame.code, OK, `message ${frame.messageId} of ${sender}: code ${frame.code}`);
          answered += 1;
        } else {
          const expected = payloadOf(1 - sender, arrived);
          assert.equal(frame.messageId, BigInt(arrived), "lost or out of order");
          assert.ok(frame.payload.equals(expected), `message ${arrived} has changed`);
          arrived += 1;
        }
        pump();
      } catch (error) {
        reject(error);
      }
    });
    self.closed.then((code) => reject(new Error(`session ${sender} was closed with ${code}`)));
    pump();
  });
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    messages: { type: "string", default: "100000" },
    window: { type: "string", default: "256" },
  },
});
const count = Number(values.messages);
const window = Number(values.window);

await withDevGateway(positionals[0], 2, async (gateway) => {
  const [one, other] = await pairApart(gateway);
  const before = await crossings(gateway.admin_url);
  const started = performance.now();
  const both = Promise.all([
    exchange(one, other, { sender: 0, count, window }),
    exchange(other, one, { sender: 1, count, window }),
  ]);
  await within(ALL_WITHIN_MS, "all messages", both);
  const seconds = (performance.now() - started) / 1000;
  let crossed = 0;
  for (let tries = 0; tries < 10 && crossed < 2 * count; tries += 1) {
    await new Promise((resolve) => setTimeout(resolve, 300));
    crossed = (await crossings(gateway.admin_url)) - before;
  }
  assert.ok(crossed >= 2 * count, `only ${crossed} of ${2 * count} messages crossed a lane`);
  const rate = Math.round((2 * count) / seconds);
  console.log(`ok      node: ${2 * count} peer messages across shards, ${rate}/s, ${crossed} crossings`);
  await one.close();
  await other.close();
}, { quiet: true });
process.exit(0);
