//! How other people's servers are started, and what their configuration says.

use std::fs;
use std::io;

use super::{Server, Site};
use crate::process::Launch;
use crate::tools;

/// The path of a program for Node in the repository.
pub(super) fn fixture(name: &str) -> String {
    tools::peers().join("node").join(name).display().to_string()
}

/// How a peer is started; `None` when it is not there.
///
/// # Errors
/// Its configuration cannot be written.
pub(super) fn launch(server: Server, site: &Site<'_>) -> io::Result<Option<Launch>> {
    let (host, port) = (site.address.ip().to_string(), site.address.port().to_string());
    let (address, workers) = (site.address.to_string(), site.workers.to_string());
    let node = |tool: &str, before: &[&str], policy: &str| {
        let program = site.tools.path(tool)?;
        let own = [fixture("cluster.cjs"), host.clone(), port.clone(), workers.clone(), policy.to_owned()];
        Some(Launch::new(program, before.iter().map(|arg| (*arg).to_owned()).chain(own)))
    };
    let rust = |tool: &str| Some(Launch::new(site.tools.path(tool)?, [address.clone(), workers.clone()]));
    Ok(match server {
        Server::NodeRr => node("node", &[], "rr"),
        Server::NodeNone => node("node", &[], "none"),
        Server::NodeNewestRr => node("node-26", &[], "rr"),
        Server::Deno => node("deno", &["run", "--allow-all", "--quiet"], "rr"),
        Server::Bun => site.tools.path("bun").map(|program| {
            Launch::new(program, [fixture("bun.js"), host.clone(), port.clone(), workers.clone()])
        }),
        Server::Pm2 => site.tools.path("pm2-runtime").map(|program| {
            let own = format!("{host} {port} {workers} rr");
            let home = site.directory.join("pm2").display().to_string();
            Launch::new(program, ["start", &fixture("cluster.cjs"), "-i", &workers])
                .env("PM2_HOME", home)
                .env("BENCH_ARGS", own)
        }),
        Server::Nginx => nginx(site, "")?,
        Server::NginxReuseport => nginx(site, " reuseport")?,
        Server::HaProxy => haproxy(site)?,
        Server::HyperPair => rust("hyper_pair"),
        Server::HyperThreads => rust("hyper_threads"),
        Server::AxumThreads => rust("axum_threads"),
        Server::Actix => rust("actix_web"),
        Server::Everycore(..) | Server::NodeUnder(_) | Server::Raw(_) => None,
    })
}

fn nginx(site: &Site<'_>, listen: &str) -> io::Result<Option<Launch>> {
    let Some(program) = site.tools.path("nginx") else { return Ok(None) };
    let (directory, address, workers) = (site.directory.display(), site.address, site.workers);
    // Kept connections: as many requests as the run has.
    let configuration = format!(
        "daemon off;
worker_processes {workers};
worker_rlimit_nofile 20000;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {address} backlog=4096{listen};
        location / {{ default_type text/plain; return 200 \"$pid\\n\"; }}
    }}
}}
"
    );
    let path = site.directory.join("nginx.conf");
    fs::write(&path, configuration)?;
    let args = [
        "-p".to_owned(),
        directory.to_string(),
        "-e".into(),
        "stderr".into(),
        "-c".into(),
        path.display().to_string(),
    ];
    Ok(Some(Launch::new(program, args)))
}

fn haproxy(site: &Site<'_>) -> io::Result<Option<Launch>> {
    let Some(program) = site.tools.path("haproxy") else { return Ok(None) };
    let (directory, address, workers) = (site.directory.display(), site.address, site.workers);
    // `expose-fd listeners` is what lets a reload take the socket over.
    let configuration = format!(
        "global
    nbthread {workers}
    maxconn 8192
    stats socket {directory}/haproxy.sock level admin expose-fd listeners
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
frontend bench
    bind {address} backlog 4096
    http-request return status 200 content-type text/plain lf-string \"%pid\\n\"
"
    );
    let path = site.directory.join("haproxy.cfg");
    fs::write(&path, configuration)?;
    // -W: a master that reloads on USR2 and re-executes itself with the sockets.
    Ok(Some(Launch::new(program, ["-W", "-db", "-f", &path.display().to_string()])))
}
