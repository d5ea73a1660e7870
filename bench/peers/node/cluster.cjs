'use strict';
// Node's cluster with its http server: `node cluster.cjs HOST PORT WORKERS rr|none`. Under PM2 only the worker's half runs.
const cluster = require('node:cluster');
const http = require('node:http');

// PM2 does not hand arguments on in every mode.
const [host, port, workers, policy] = process.env.BENCH_ARGS?.split(' ') ?? process.argv.slice(2);

if (cluster.isPrimary) {
  cluster.schedulingPolicy = policy === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR;
  // One line per start, in microseconds from fork to listening; the bench reads them.
  const fork = () => {
    const began = process.hrtime.bigint();
    cluster.fork().on('listening', () => {
      process.stdout.write(`started ${(process.hrtime.bigint() - began) / 1000n}\n`);
    });
  };
  cluster.on('exit', (worker) => {
    if (!worker.exitedAfterDisconnect) fork();
  });
  for (let n = 0; n < Number(workers); n++) fork();
  process.on('SIGTERM', () => process.exit(0));
} else {
  const body = Buffer.from(`${process.pid}\n`);
  const head = { 'Content-Type': 'text/plain', 'Content-Length': body.length };
  const burn = (ms) => {
    const until = performance.now() + ms;
    while (performance.now() < until);
  };
  const server = http.createServer((request, response) => {
    if (request.url.startsWith('/block?ms=')) burn(Number(request.url.slice(10)));
    response.writeHead(200, head);
    response.end(body);
  });
  // A kept connection must not time out between two requests of a slow run.
  server.keepAliveTimeout = 60000;
  server.listen({ host, port: Number(port), backlog: 4096 });
}
