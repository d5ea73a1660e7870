//! `cluster.settings` for Node workers, and what further calls of `setupPrimary` change.

use std::io::Read;

use everycore::{Cluster, ExitStatus, NodeSettings, Serialization, WorkerStdio};
use serde_json::json;

use crate::support::{Directory, Nodes, Runtime, Seen, need_node};

/// Tells how it was started, and stays.
const APP: &str = "
    process.on('message', () => {});
    process.send({
      argv: process.argv.slice(2), options: process.execArgv, cwd: process.cwd(), uid: process.getuid(), gid: process.getgid(),
    });";

fn app(test: &str, text: &str) -> (Directory, String) {
    let directory = Directory::new(test);
    let file = directory.0.join("app.cjs");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (directory, file)
}

fn cluster(node: &Runtime, settings: NodeSettings) -> Cluster {
    Cluster::builder()
        .setup_primary(NodeSettings::change().exec_path(&node.program))
        .setup_primary(settings)
        .workers(1)
        .readiness(everycore::Readiness::Online)
        .signals(false)
}

#[test]
fn each_setting_reaches_the_worker() {
    let node = need_node!(Node);
    let (directory, file) = app("settings", APP);
    let settings = NodeSettings::new(file).args(["a", "--b"]).exec_argv(["--no-warnings"]).cwd(&directory.0);
    let nodes = Nodes::start(cluster(node, settings));
    let said = nodes.said();
    assert_eq!(said["argv"], json!(["a", "--b"]));
    assert_eq!(said["options"], json!(["--no-warnings"]), "before the script");
    assert_eq!(said["cwd"], std::fs::canonicalize(&directory.0).unwrap().to_str().unwrap());
}

#[test]
fn user_and_group_are_those_asked_for() {
    let node = need_node!(Node);
    if !rustix::process::geteuid().is_root() {
        return everycore_peers::pass_over("only root can start a worker as somebody else");
    }
    let (directory, file) = app("settings-user", APP);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&directory.0, open).unwrap();
    let mut node = node.clone();
    if !node.is_open_to_all() {
        // Others may not enter where it is.
        let copy = directory.0.join("node");
        std::fs::copy(&node.program, &copy).unwrap();
        node.program = copy;
    }
    let settings = NodeSettings::new(file).uid(65534).gid(65534).cwd("/");
    let nodes = Nodes::start(cluster(&node, settings));
    let said = nodes.said();
    assert_eq!((&said["uid"], &said["gid"]), (&json!(65534), &json!(65534)));
}

#[test]
fn a_further_call_goes_for_workers_forked_from_then_on() {
    let node = need_node!(Node);
    let (_directory, file) = app("settings-again", APP);
    let nodes =
        Nodes::start(cluster(node, NodeSettings::new(file).args(["first"]).exec_argv(["--no-warnings"])));
    assert_eq!(nodes.said()["argv"], json!(["first"]));
    nodes.primary().setup_primary(NodeSettings::change().args(["second"])).unwrap();
    nodes.primary().scale(2).unwrap();
    let (worker, said) = nodes.message();
    assert_eq!((worker, &said["argv"]), (2, &json!(["second"])));
    assert_eq!(said["options"], json!(["--no-warnings"]), "what was not set again stays");
    let advanced = NodeSettings::change().serialization(Serialization::Advanced);
    nodes.primary().setup_primary(advanced).unwrap();
    nodes.primary().scale(3).unwrap();
    let (worker, said) = nodes.message();
    assert_eq!((worker, &said["argv"]), (3, &json!(["second"])), "each worker in its own serialization");
    nodes.send(1, &json!("still in its own"));
    nodes.primary().kill(1, 15).unwrap();
    let (worker, status, _) = nodes.exit();
    assert_eq!((worker, status), (1, ExitStatus::Signal(15)));
}

#[test]
fn a_silent_worker_writes_to_us() {
    let node = need_node!(Node);
    let text = "
        process.stdin.on('data', (text) => {
          process.stdout.write(`heard ${text}`);
          process.stderr.write('an error');
          process.disconnect();
        })";
    let (_directory, file) = app("settings-silent", text);
    let nodes = Nodes::start(cluster(node, NodeSettings::new(&file).silent(true)).restart(
        everycore::RestartSettings { policy: everycore::RestartPolicy::Never, ..Default::default() },
    ));
    nodes.find(|seen| matches!(seen, Seen::Online(1)).then_some(()));
    let mut pipes = nodes.primary().take_pipes(1).expect("taken once");
    assert!(nodes.primary().take_pipes(1).is_none());
    std::io::Write::write_all(pipes.stdin.as_mut().unwrap(), b"hello").unwrap();
    let mut told = String::new();
    pipes.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    pipes.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told, "heard helloan error");

    let stdio = [WorkerStdio::Ignore, WorkerStdio::Pipe, WorkerStdio::Ignore];
    let (_directory, file) =
        app("settings-stdio", "console.log('out'); console.error('nowhere'); process.disconnect()");
    let nodes = Nodes::start(cluster(node, NodeSettings::new(&file).silent(true).stdio(stdio)));
    nodes.find(|seen| matches!(seen, Seen::Online(1)).then_some(()));
    if let Some(mut pipes) = nodes.primary().take_pipes(1) {
        assert!(pipes.stdin.is_none() && pipes.stderr.is_none());
        let mut told = String::new();
        pipes.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        assert_eq!(told, "out\n");
    }
}

#[test]
fn without_a_script_there_is_no_worker() {
    let nodes =
        Nodes::start(Cluster::builder().setup_primary(NodeSettings::change()).workers(1).signals(false));
    let reason = nodes.find(|seen| match seen {
        Seen::Other(everycore::Event::Error { reason, .. }) => Some(reason),
        _ => None,
    });
    assert!(reason.contains("NodeSettings::exec"), "{reason}");
}
