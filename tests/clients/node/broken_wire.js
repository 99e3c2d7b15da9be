// A TCP relay in front of the gateway that can be cut, as networks are: no close frame, no good-bye.

import { once } from "node:events";
import { connect, createServer } from "node:net";

export class BrokenWire {
  /** The heads of the requests that went through. */
  heads = [];
  #sockets = new Set();
  #isDown = false;

  static async before(url) {
    const wire = new BrokenWire();
    const { hostname, port, pathname } = new URL(url);
    wire.server = createServer((near) => wire.#relay(near, connect(Number(port), hostname)));
    wire.server.listen(0, "127.0.0.1");
    await once(wire.server, "listening");
    wire.url = `ws://127.0.0.1:${wire.server.address().port}${pathname}`;
    return wire;
  }

  /** Nothing goes through any more, on connections that are there and on new ones. */
  cut() {
    this.#isDown = true;
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  mend() {
    this.#isDown = false;
  }

  close() {
    this.cut();
    this.server.close();
  }

  #relay(near, far) {
    near.once("data", (bytes) => this.heads.push(bytes.toString("latin1")));
    for (const [from, to] of [[near, far], [far, near]]) {
      this.#sockets.add(from);
      from.on("error", () => {}); // a close follows
      from.on("close", () => {
        this.#sockets.delete(from);
        to.destroy();
      });
      from.pipe(to);
    }
    if (this.#isDown) near.resetAndDestroy();
  }
}
