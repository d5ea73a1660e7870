//! A command line in, the exact text and exit code out.

use std::net::TcpListener;
use std::process::Output;

use crate::harness::everycore;

/// Runs to the end: code, standard output, standard error.
fn outcome(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn refuses(args: &[&str], code: i32, error: &str) {
    let output = everycore(args).output().unwrap();
    assert_eq!(
        outcome(&output),
        (Some(code), String::new(), error.to_owned()),
        "everycore {}",
        args.join(" ")
    );
}

#[test]
fn version() {
    let output = everycore(&["--version"]).output().unwrap();
    let version = concat!("everycore ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(outcome(&output), (Some(0), version.into(), String::new()));
}

#[test]
fn help_has_examples_and_fits() {
    for args in [&["--help"][..], &["run", "--help"], &["demo", "--help"]] {
        let (code, text, error) = outcome(&everycore(args).output().unwrap());
        assert_eq!((code, error.as_str()), (Some(0), ""));
        assert!(text.contains("Examples:\n  everycore "), "{text}");
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= 125, "{longest} columns:\n{text}");
    }
    let (code, _, error) = outcome(&everycore(&[]).output().unwrap());
    assert_eq!(code, Some(2));
    assert!(
        error.starts_with("One port, every core, any program\n\nUsage: everycore <COMMAND>\n"),
        "{error}"
    );
}

#[test]
fn unknown_flags_are_answered_with_the_nearest() {
    refuses(
        &["run", "--wrokers", "2", "--", "true"],
        2,
        "error: unexpected argument '--wrokers' found\n\n\
         \x20 tip: a similar argument exists: '--workers'\n\
         \x20 tip: to pass '--wrokers' as a value, use '-- --wrokers'\n\n\
         Usage: everycore run [OPTIONS] -- CMD…\n\n\
         For more information, try '--help'.\n",
    );
    refuses(
        &["run"],
        2,
        "error: the following required arguments were not provided:\n  <CMD>...\n\n\
         Usage: everycore run [OPTIONS] -- CMD…\n\n\
         For more information, try '--help'.\n",
    );
}

#[test]
fn worker_counts_that_cannot_be() {
    let refused = |count: &str, why: &str| {
        let error = format!(
            "error: invalid value '{count}' for '--workers <N|auto>': {why}\n\nFor more information, try '--help'.\n"
        );
        refuses(&["run", "-w", count, "--", "true"], 2, &error);
        refuses(&["demo", "-i", count], 2, &error);
    };
    refused("0", "at least one worker is needed; 'auto' starts one per CPU");
    refused("5000", "each worker is a process, and more than 1024 are refused; 'auto' starts one per CPU");
    refused("many", "write a number of workers, or 'auto' for one per CPU");
    refused("-1", "write a number of workers, or 'auto' for one per CPU");
}

#[test]
fn addresses_that_are_none() {
    refuses(
        &["run", "-b", "nonsense", "--", "true"],
        2,
        "error: -b: 'nonsense' is no address to listen on: the port is missing; write IP:PORT, :PORT, [IPV6]:PORT, unix:PATH, udp://IP:PORT or fd://N\n",
    );
    refuses(
        &["demo", "-b", ":99999"],
        2,
        "error: -b: ':99999' is no address to listen on: the port is not a number from 0 to 65535; write IP:PORT, :PORT, [IPV6]:PORT, unix:PATH, udp://IP:PORT or fd://N\n",
    );
    refuses(
        &["run", "-b", "a=:0", "-b", "a=:0", "--", "true"],
        2,
        "error: -b: two addresses are named 'a'; give each its own name\n",
    );
    refuses(
        &["run", "-b", ":80", "-b", ":80", "--", "true"],
        2,
        "error: -b: :80 is given twice; leave one of them out\n",
    );
    for (address, why) in [
        ("http://localhost:80", "it is a URL; leave the scheme and the path out"),
        (":8000:99", "it has two ports"),
    ] {
        let error = format!(
            "error: -b: '{address}' is no address to listen on: {why}; write IP:PORT, :PORT, [IPV6]:PORT, unix:PATH, udp://IP:PORT or fd://N\n"
        );
        refuses(&["run", "-b", address, "--", "true"], 2, &error);
    }
    refuses(
        &["run", "-b", ":0?backlog=x", "--", "true"],
        2,
        "error: -b: socket option 'backlog=x' is not understood; write backlog=N, a number of connections\n",
    );
    refuses(
        &["run", "-b", "192.0.2.1:8000", "--", "true"],
        1,
        "error: bind 192.0.2.1:8000: this machine has no such address\n",
    );
}

#[test]
fn values_that_look_like_flags_or_are_none() {
    let refused = |flag: &str, value: &str, shown: &str, why: &str| {
        let error = format!(
            "error: invalid value '{value}' for '{shown}': {why}\n\nFor more information, try '--help'.\n"
        );
        refuses(&["run", flag, value, "--", "true"], 2, &error);
    };
    let duration = "write a duration such as 500ms, 8s, 2m or 1h";
    refused("--start-timeout", "-5s", "--start-timeout <DURATION>", duration);
    let limit = "--max-connections <N>";
    let none = "with no connection at all nobody is served; leave it out for any number";
    refused("--max-connections", "0", limit, none);
    refused("--max-connections", "x", limit, "write a number of connections, or leave it out for any number");
}

#[test]
fn a_taken_port_names_its_owner() {
    let owner = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = owner.local_addr().unwrap().to_string();
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    let error = format!(
        "error: bind {address}: address already in use (by {}, pid {}); choose another or stop its owner\n",
        comm.trim_end(),
        std::process::id()
    );
    refuses(&["run", "-b", &address, "--", "true"], 1, &error);
    refuses(&["demo", "-b", &address], 1, &error);

    let directory = crate::harness::Directory::new("taken");
    let path = directory.path("app.sock");
    let _owner = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = format!(
        "error: bind unix:{path}: address already in use (by {}, pid {}); choose another or stop its owner\n",
        comm.trim_end(),
        std::process::id()
    );
    refuses(&["run", "-b", &format!("unix:{path}"), "--", "true"], 1, &error);
}

#[test]
fn policies_that_cannot_serve() {
    // An inherited socket under a policy that hands over: every cell of the table that cannot be.
    for (policy, shown) in [("rr", "round-robin"), ("least", "least"), ("sticky", "sticky")] {
        for program in [&["--", "x", "{fd}"][..], &["--kind", "socket", "x"]] {
            let error = format!(
                "error: --policy {shown} cannot serve a program that takes an inherited socket: its workers accept for themselves, as under --policy shared or reuseport; a program that binds a port of its own will be served by --proxy, in a later version\n"
            );
            refuses(&[&["run", "-b", ":0", "--policy", policy], program].concat(), 2, &error);
        }
    }
    refuses(
        &["run", "-b", ":0", "--class", "web=1", "--", "x", "{fd}"],
        2,
        "error: --policy route cannot serve a program that takes an inherited socket: its workers accept for themselves, as under --policy shared or reuseport; a program that binds a port of its own will be served by --proxy, in a later version\n",
    );
    refuses(
        &["run", "-b", ":0", "--max-connections", "1", "x", "{fd}"],
        2,
        "error: --max-connections cannot bound a program that takes an inherited socket: it accepts for itself, and nobody counts; set a limit in the program\n",
    );
    for policy in ["shared", "reuseport"] {
        let error = format!(
            "error: max_connections: under policy {policy} workers accept for themselves and nobody counts; choose round-robin, least, sticky or route\n"
        );
        refuses(&["run", "-b", ":0", "--policy", policy, "--max-connections", "1", "true"], 2, &error);
    }
    refuses(
        &["run", "--policy", "fair", "--", "true"],
        2,
        "error: invalid value 'fair' for '--policy <POLICY>': unknown policy \"fair\"; choose round-robin (rr), least, sticky, route, shared (none) or reuseport\n\nFor more information, try '--help'.\n",
    );
}

#[test]
fn classes_that_do_not_fit() {
    let refused = |args: &[&str], error: &str| {
        refuses(&[&["run"], args, &["true"]].concat(), 2, &format!("error: {error}\n"));
    };
    for (args, what) in [
        (&["--policy", "route"][..], "--policy route"),
        (&["--route", "::1=web"], "--route"),
        (&["--class-arg", "web=-x"], "--class-arg"),
    ] {
        let needs = "needs classes of workers; add --class NAME=N for each, and --route RULE=CLASS for all but the first";
        refused(args, &format!("{what} {needs}"));
    }
    refused(
        &["--class", "web=1", "--policy", "sticky"],
        "--class goes with --policy route, not with sticky; a class has a policy of its own: --class NAME=N,policy=sticky",
    );
    refused(
        &["--class", "web=1", "-w", "2"],
        "--workers cannot be beside --class: each class says how many workers it has; leave --workers out",
    );
    refused(
        &["--class", "web=1", "--class-arg", "vip=-x"],
        "--class-arg: no class is called 'vip'; there are web",
    );
    refused(
        &["--class", "web=1", "--route", "10.0.0.0/8=vip"],
        "route: no class is called \"vip\"; there are web",
    );
    refused(&["--class", "web=1,full=spill:vip"], "route: no class is called \"vip\"; there are web");
    refused(
        &["-b", ":0", "--class", "web=1", "--route", "listener:admin=web"],
        "route: no listener is bound under the name \"admin\"; there are http",
    );
    refused(
        &["--class", "web=1", "--route", "user:root=web"],
        "route: \"user:root\" is no condition of a rule, or the second of its kind; write a source network such as 10.0.0.0/8, listener:NAME or port:N, with commas between them",
    );
    refuses(
        &["run", "--class", "web=1,policy=shared", "true"],
        2,
        "error: invalid value 'web=1,policy=shared' for '--class <NAME=N[,policy=..][,full=..]>': the policy of a class is rr, least or sticky\n\nFor more information, try '--help'.\n",
    );
    refuses(
        &["run", "true", "{class}"],
        2,
        "error: CMD asks for {class}, but there are no classes of workers; add --class NAME=N\n",
    );
}

#[test]
fn the_demo_has_no_classes() {
    refuses(
        &["demo", "--policy", "route"],
        2,
        "error: --policy route needs classes of workers, and the demo has none; run a program of your own: everycore run --class NAME=N … -- CMD\n",
    );
}

#[test]
fn kinds_and_placeholders_that_do_not_fit() {
    refuses(
        &["run", "--", "x", "{fd}"],
        2,
        "error: CMD asks for {fd}, but no address is bound; add -b ADDR, or set PORT\n",
    );
    refuses(
        &["run", "-b", ":0", "--", "x", "--port={prot}"],
        2,
        "error: unknown placeholder {prot} in CMD; there are {index} {id} {port} {fd} {generation} {class}, and {{prot}} stands for a plain {prot}\n",
    );
    refuses(
        &["run", "-b", ":0", "--kind", "library", "--", "x", "{fd}"],
        2,
        "error: CMD asks for {fd}, but --kind library gives it no socket to inherit; leave --kind out, or write {{fd}} for a plain {fd}\n",
    );
    refuses(
        &["run", "-b", ":0", "--kind", "socket", "--ready", "message", "--", "x"],
        2,
        "error: --ready message needs a program that uses the library; one that takes an inherited socket can have --ready listen, notify or delay:DURATION\n",
    );
}

#[test]
fn programs_that_cannot_be_run() {
    refuses(
        &["run", "--", "no-such-program"],
        127,
        "error: cannot run 'no-such-program': it is not found in any directory of PATH\n",
    );
    refuses(&["run", "--", "./no/such"], 127, "error: cannot run './no/such': there is no such file\n");
    refuses(
        &["run", "--", "/proc/version"],
        126,
        "error: cannot run '/proc/version': it is not executable; chmod +x it, or put its interpreter in front\n",
    );
    refuses(&["run", "--", "/proc"], 126, "error: cannot run '/proc': it is a directory\n");
    refuses(
        &["run", "--cwd", "/no/such", "--", "true"],
        2,
        "error: --cwd /no/such: there is no such directory\n",
    );
}

#[test]
fn start_is_answered_with_run() {
    refuses(
        &["start", "server.js", "-i", "max", "--name", "api"],
        2,
        "error: there is no 'start': everycore stays in the foreground, and a service manager or container puts it into the background; type: everycore run -w auto -n api -- node server.js\n",
    );
}

#[test]
fn an_environment_that_makes_no_sense_is_bad_configuration() {
    let refused = |name: &str, value: &str, args: &[&str], error: &str| {
        let output = everycore(args).env(name, value).output().unwrap();
        assert_eq!(outcome(&output), (Some(78), String::new(), error.to_owned()));
    };
    let error = "error: WEB_CONCURRENCY is 'many': write a number of workers, or 'auto' for one per CPU\n";
    refused("WEB_CONCURRENCY", "many", &["run", "true"], error);
    refused("PORT", "http", &["demo"], "error: PORT is 'http', not a port from 0 to 65535\n");
}

#[test]
fn nobody_reading_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = everycore(&["--help"]).stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = everycore(&["run", "--", "no-such-program"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(127));
}
