// Loaded into Node workers ahead of their program, by `--require` in NODE_OPTIONS (BUN_OPTIONS for Bun).
//
// Tells the primary how many connections are open and how late the event loop is, and lets HTTP clients know that a
// worker leaves. A program serves without it as well. What it says goes in messages of the cluster's own kind, which
// no `message` listener sees.
'use strict';

const cluster = require('node:cluster');
const diagnostics = require('node:diagnostics_channel');
const net = require('node:net');

/** Milliseconds from a change to its report: what changes within them is told at once. */
const SOON = 20;

/** An event loop that is later than this is worth a report of its own. */
const LATE = 100;

/** How long an idle HTTP connection may still bring a request while the worker leaves; less if it has to leave sooner. */
const LAST_REQUEST = 1000;

const { setImmediate, setTimeout } = globalThis;
const settings = process.env.EVERYCORE_PRELOAD;
if (settings !== undefined && cluster.isWorker && typeof process.send === 'function') {
  const { drain, variable, before } = JSON.parse(settings);
  // What this worker starts is no worker.
  delete process.env.EVERYCORE_PRELOAD;
  if (before === null) delete process.env[variable];
  else process.env[variable] = before;
  if (globalThis.Bun) tellOwnServers(globalThis.Bun);
  if (globalThis.Deno) {
    letProgramStart();
    keepEarlyMessages();
    tellOwnServers(
      globalThis.Deno,
      ': every worker but the first finds its port taken; serve with node:http, or with reusePort: true and --unstable-net',
    );
  }
  leaveGently(Math.min(LAST_REQUEST, drain / 2), report());
}

/**
 * Servers of the runtime's own that never ask the primary: it hears where they listen, and they end with the others
 * when the worker is told to leave. Bun shares their port among
 * workers by itself. Deno does where it is told to, else one worker has it, and the others hear what to do.
 */
function tellOwnServers(runtime, hint) {
  const { serve } = runtime;
  const { send } = process;
  const servers = new Set();
  process.on('internalMessage', (message) => {
    if (message?.cmd !== 'NODE_CLUSTER' || message.act !== 'disconnect') return;
    for (const server of servers) (server.shutdown ?? server.stop).call(server);
    servers.clear();
  });
  runtime.serve = function (...args) {
    let server;
    try {
      server = serve.apply(this, args);
    } catch (error) {
      if (hint !== undefined && error.name === 'AddrInUse') error.message += hint;
      throw error;
    }
    servers.add(server);
    const at = whereItListens(server.addr ?? server.address);
    send.call(process, { cmd: 'NODE_CLUSTER', act: 'listening', ...at, 'everycore:own': true });
    return server;
  };
}

/** In the cluster module's words. */
function whereItListens(at) {
  const path = typeof at === 'string' ? at : at.path;
  if (path !== undefined) return { address: path, port: -1, addressType: -1 };
  const address = at.hostname ?? at.address;
  return { address, port: at.port, addressType: address.includes(':') ? 6 : 4 };
}

/** Deno runs what is loaded first to its end, which an open channel would put off for ever. */
function letProgramStart() {
  process.channel.unref();
  let kept = false;
  const keep = () => {
    if (!kept) process.channel?.ref();
    kept = true;
  };
  const ask = cluster._getServer;
  cluster._getServer = function (...args) {
    keep();
    return ask.apply(this, args);
  };
  process.on('newListener', function started(event) {
    if (event !== 'message') return;
    process.off('newListener', started);
    keep();
  });
}

/**
 * Between this script and the program Deno reads the channel, and drops what the program is not there to hear. Kept until
 * it listens, up to a number that only a program that never does can reach.
 */
function keepEarlyMessages() {
  const early = [];
  const { emit } = process;
  process.emit = function (event, ...args) {
    if (event !== 'message') return emit.call(this, event, ...args);
    if (early.length < 65536) early.push(args);
    // An open handle would put the program off for ever.
    args[1]?.unref?.();
    return true;
  };
  // The worker's own listener, which passes messages on to it, is there already.
  const sources = [process, cluster.worker];
  function heard(event) {
    if (event !== 'message') return;
    for (const source of sources) source.off('newListener', heard);
    process.emit = emit;
    process.nextTick(() => early.forEach((args) => {
      args[1]?.ref?.();
      process.emit('message', ...args);
    }));
  }
  for (const source of sources) source.on('newListener', heard);
}

/** Reports connections and delays; returns what is to be called ahead of work, so that a loop it holds up shows. */
function report() {
  const send = process.send;
  const now = () => performance.now();
  const deno = globalThis.Deno !== undefined;
  const live = countConnections(change);
  // Also when a connection came and went in between: the primary has seen it come.
  let changed = false;
  let late = 0;
  let due = 0;
  let scheduled = false;
  let unsent = false;

  function soon() {
    if (scheduled) return;
    scheduled = true;
    due = now() + SOON;
    setTimeout(look, SOON).unref();
  }

  function look() {
    scheduled = false;
    late = Math.max(late, Math.round(now() - due));
    if (!unsent && (changed || late >= LATE)) tell();
  }

  /** One report at a time: a primary that does not read finds one waiting, not a thousand. */
  function tell() {
    if (!process.connected) return;
    const message = { cmd: 'NODE_CLUSTER', act: 'everycore:report', live: live(), late, deno };
    unsent = true;
    changed = false;
    late = 0;
    send.call(process, message, undefined, { swallowErrors: true }, () => {
      unsent = false;
      if (changed) soon();
    });
  }

  function change() {
    changed = true;
    soon();
  }

  tell();
  return soon;
}

/**
 * Counts connections that are handed over one by one. The server counts them itself, so nothing is added to a socket:
 * `changed` is called when its count changes. Returns what tells the sum.
 */
function countConnections(changed) {
  // One that is closed and forgotten has no connections.
  const open = new Set();
  const ask = cluster._getServer;
  // Bun's servers do not ask.
  if (typeof ask !== 'function') return () => 0;
  cluster._getServer = function (server, options, callback) {
    return ask.call(this, server, options, function (error, handle, ...rest) {
      if (isStandIn(handle) && typeof server._connections === 'number') watch(server);
      return callback.call(this, error, handle, ...rest);
    });
  };

  function watch(server) {
    if (Object.getOwnPropertyDescriptor(server, '_connections')?.set) return;
    let count = server._connections;
    Object.defineProperty(server, '_connections', {
      configurable: true,
      enumerable: true,
      get: () => count,
      set(value) {
        if (count === 0) open.add(server);
        count = value;
        if (count === 0) open.delete(server);
        changed();
      },
    });
  }

  return () => {
    let live = 0;
    for (const server of open) live += server._connections;
    return live;
  };
}

/** What a server that is handed its connections has for a handle. */
function isStandIn(handle) {
  return handle != null && Object.getPrototypeOf(handle) === Object.prototype;
}

/** Has HTTP clients hear `Connection: close` before their connection ends. */
function leaveGently(patience, busy) {
  // With their own list of connections, where they keep one.
  const servers = new Map();
  // Of servers that keep no list.
  const sockets = new Set();
  // The last response of a connection whose client did not wait for the one before.
  const queued = new WeakMap();
  const closing = new WeakSet();
  let leaving = false;
  let connected;
  let asked;
  let listed = false;

  const lastOf = (socket) => {
    const response = queued.get(socket);
    return response === undefined || response.writableFinished ? socket._httpMessage : response;
  };

  function open() {
    const lists = [...servers.values()].filter((list) => list !== undefined);
    return [...sockets, ...lists.flatMap((list) => list.all().map((parser) => parser?.socket))].filter(Boolean);
  }

  // Those whose first request has not come may be closed with the server, too: Node 26 counts them as idle.
  diagnostics.channel('net.server.socket').subscribe(({ socket }) => {
    busy();
    const server = socket.server ?? socket._server;
    if (server === connected) return;
    connected = server;
    if (typeof server?.closeIdleConnections === 'function' && !servers.has(server)) servers.set(server, undefined);
  });

  diagnostics.channel('http.server.request.start').subscribe(({ request, response, server }) => {
    busy();
    const { socket } = request;
    if (server !== asked) {
      const list = servers.get(server) ?? connectionList(server, socket);
      servers.set(server, list);
      asked = server;
      listed = list !== undefined;
    }
    if (!listed && !sockets.has(socket)) {
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
    }
    const before = leaving || socket._httpMessage ? lastOf(socket) : undefined;
    if (before && before !== response) queued.set(socket, response);
    if (!leaving) return;
    // The last answer on a connection closes it: not one that others follow.
    if (before && before !== response && !before.headersSent && closing.delete(before)) before.shouldKeepAlive = true;
    closeAfter(response);
  });

  // Ahead of the cluster module, which serves what is handed over and closes the servers.
  process.prependListener('internalMessage', (message) => {
    busy();
    if (leaving || message?.cmd !== 'NODE_CLUSTER' || message.act !== 'disconnect') return;
    leaving = true;
    const connections = open();
    for (const socket of connections) closeAfter(lastOf(socket));
    for (const server of servers.keys()) keepIdle(server);
    later(new Set(connections.filter((socket) => !socket._httpMessage)));
  });

  /** Has a response say that it is the last, also where its program says otherwise. */
  function closeAfter(response) {
    if (!response || response.headersSent || response.shouldKeepAlive === false) return;
    response.shouldKeepAlive = false;
    closing.add(response);
    const store = response._storeHeader;
    if (typeof store !== 'function') return;
    response._storeHeader = function (...args) {
      store.apply(this, args);
      const head = closing.has(this) && sayingClose(this._header);
      if (!head) return;
      this._header = head;
      this._last = true;
    };
    // To close a connection with something unread is to reset it, and the answer with it.
    response.prependOnceListener('finish', () => {
      const { req: request, socket } = response;
      if (!request || request.complete || !closing.has(response) || typeof socket?.destroySoon !== 'function') return;
      const restore = replace(socket, 'destroySoon', () => {
        restore();
        request.once('close', () => socket.destroySoon());
        request.resume();
      });
    });
  }

  /** Timers run ahead of what came while the loop was held up: that is read first. */
  function later(idle) {
    setTimeout(() => setImmediate(() => letGo(idle)), patience).unref();
  }

  /** Closes the connections that are idle and were so the last time, and looks again after a while. */
  function letGo(before) {
    const idle = new Set();
    for (const socket of wouldBeClosed(servers.keys())) {
      // To the server an answer that is ended is over, whether or not it has left; and who has never asked, idle.
      if (socket._httpMessage || socket.bytesRead === 0) continue;
      if (before.has(socket)) socket.destroy();
      else idle.add(socket);
    }
    if (open().length > 0) later(idle);
  }
}

/** Node's HTTP servers keep a list of parsers, each with its socket, which costs nothing here; a look tells if this one does. */
function connectionList(server, socket) {
  const name = Object.getOwnPropertySymbols(server).find(({ description }) => description === 'http.server.connections');
  const list = name && server[name];
  if (typeof list?.all !== 'function') return undefined;
  return list.all().some((parser) => parser.socket === socket) ? list : undefined;
}

/** The connections that these servers think idle. */
function wouldBeClosed(servers) {
  const idle = [];
  const restore = replace(net.Socket.prototype, 'destroy', function () {
    idle.push(this);
    return this;
  });
  try {
    for (const server of servers) server.closeIdleConnections?.();
  } finally {
    restore();
  }
  return idle;
}

/** The head of an answer, closing the connection where it said nothing or to keep it; `undefined` if it says something else. */
function sayingClose(head) {
  if (typeof head !== 'string') return undefined;
  const field = /\r\nconnection:[ \t]*([^\r\n]*)/i.exec(head);
  if (field === null) return head.replace(/\r\n\r\n$/, '\r\nConnection: close\r\n\r\n');
  return /^(close|keep-alive)[ \t]*$/i.test(field[1]) ? head.replace(field[0], '\r\nConnection: close') : undefined;
}

/** Closing a server ends its idle connections, perhaps with a request on its way: this once it does not. */
function keepIdle(server) {
  if (typeof server.closeIdleConnections !== 'function') return;
  process.nextTick(replace(server, 'closeIdleConnections', () => {}));
}

/** Gives an object a method of its own; returns what takes it away again. */
function replace(object, name, method) {
  const own = Object.getOwnPropertyDescriptor(object, name);
  Object.defineProperty(object, name, { value: method, configurable: true, writable: true });
  return () => {
    if (own === undefined) delete object[name];
    else Object.defineProperty(object, name, own);
  };
}
