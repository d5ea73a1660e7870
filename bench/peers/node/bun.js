// Bun's cluster: workers that bind for themselves, which is what Bun's own HTTP server does in a cluster.
// `bun bun.js HOST PORT WORKERS`
import cluster from 'node:cluster';

const [host, port, workers] = process.argv.slice(2);

if (cluster.isPrimary) {
  cluster.on('exit', () => cluster.fork());
  for (let n = 0; n < Number(workers); n++) cluster.fork();
} else {
  const body = `${process.pid}\n`;
  Bun.serve({ hostname: host, port: Number(port), reusePort: true, fetch: () => new Response(body) });
}
