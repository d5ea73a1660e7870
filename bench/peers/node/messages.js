'use strict';
// Node's own messages: `node messages.js json|advanced SIZE ROUND_TRIPS ONE_WAYS` forks itself and prints nanoseconds per
// round trip and messages per second one way.
const { fork } = require('node:child_process');

if (process.send) {
  // `answering` until told otherwise; then only the last message of a run is answered.
  let answering = true;
  process.on('message', (message) => {
    if (message.mode !== undefined) answering = message.mode;
    if (answering || message.last) process.send(message.last ? { last: true } : message);
  });
} else {
  const [serialization, size, roundTrips, oneWays] = process.argv.slice(2);
  const data = 'x'.repeat(Number(size));
  const child = fork(__filename, { serialization });
  const heard = () => new Promise((resolve) => child.once('message', resolve));

  const main = async () => {
    // The first eighth warms up.
    const rounds = Number(roundTrips);
    const warm = Math.ceil(rounds / 8);
    let began = process.hrtime.bigint();
    for (let n = 0; n < rounds + warm; n++) {
      if (n === warm) began = process.hrtime.bigint();
      child.send({ data });
      await heard();
    }
    const roundTrip = Number(process.hrtime.bigint() - began) / rounds;

    child.send({ mode: false, last: true });
    await heard();
    const count = Number(oneWays);
    const last = heard();
    began = process.hrtime.bigint();
    for (let n = 0; n < count; n++) {
      // What Node offers against an endless queue: wait until a piece was written.
      if (!child.send({ data })) await new Promise((resolve) => child.send({ data: '' }, resolve));
    }
    child.send({ last: true });
    await last;
    const seconds = Number(process.hrtime.bigint() - began) / 1e9;
    console.log(`${Math.round(roundTrip)} ${Math.round(count / seconds)}`);
    child.disconnect();
  };
  main();
}
