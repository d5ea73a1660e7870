//! What the threads of a process are doing, as the kernel sees it: for a worker that is about to be killed.
//!
//! Reads `/proc` only, never touches the process, and says nothing about what it may not read.

use std::fs;

use super::printable::printable;

/// Threads looked at; a program with more of them is told by its first.
const THREADS: usize = 16;

/// Characters of a thread's name; the kernel keeps fewer.
const NAME: usize = 64;

/// Frames of a kernel stack that are told, innermost first.
const FRAMES: usize = 6;

/// A line for each thread: its name, its state, and where in the kernel it is.
pub(super) fn threads(pid: u32) -> Vec<String> {
    let mut ids: Vec<u32> = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    ids.sort_unstable();
    ids.iter().take(THREADS).filter_map(|thread| describe(&format!("/proc/{pid}/task/{thread}"))).collect()
}

fn describe(thread: &str) -> Option<String> {
    // Its name is any bytes, and its program's choice.
    let status = fs::read(format!("{thread}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let state = state(field("State:")?);
    let place = fs::read_to_string(format!("{thread}/wchan")).unwrap_or_default();
    let place = Some(place.trim()).filter(|place| !matches!(*place, "" | "0"));
    let place = place.map(|place| format!(" in {place}")).unwrap_or_default();
    // For root alone.
    let stack = fs::read_to_string(format!("{thread}/stack")).unwrap_or_default();
    let frames: Vec<&str> = stack.lines().filter_map(frame).take(FRAMES).collect();
    let stack = if frames.is_empty() { String::new() } else { format!(" ({})", frames.join(" < ")) };
    let name = printable(field("Name:").unwrap_or("thread").as_bytes(), NAME);
    Some(format!("{name}: {state}{place}{stack}"))
}

/// The kernel's letter in words.
fn state(letter: &str) -> &'static str {
    match letter.chars().next() {
        Some('R') => "running",
        Some('S') => "sleeping",
        Some('D') => "waiting for a device or the kernel, and not to be interrupted",
        Some('T') => "stopped",
        Some('t') => "stopped by a debugger",
        Some('Z' | 'X') => "dead",
        _ => "in an unknown state",
    }
}

/// `[<0>] do_nanosleep+0x5a/0x110` is `do_nanosleep`.
fn frame(line: &str) -> Option<&str> {
    let name = line.split_once("] ")?.1.split('+').next()?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_of_a_process_is_told() {
        let (ready, is_ready) = std::sync::mpsc::channel::<()>();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::Builder::new().name("the-sleeper".into()).spawn(move || {
            ready.send(()).unwrap();
            let _ = stopped.recv();
        });
        is_ready.recv().unwrap();
        // Other tests have threads, too: the sleeper may not be among the first.
        let told = |wanted: &str| {
            let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
            tasks.filter_map(|task| describe(task.path().to_str()?)).find(|line| line.contains(wanted))
        };
        while !told("the-sleeper").unwrap().starts_with("the-sleeper: sleeping") {
            std::thread::yield_now();
        }
        assert!(!threads(std::process::id()).is_empty());
        drop(stop);
        sleeper.unwrap().join().unwrap();
        assert!(threads(u32::MAX).is_empty());
    }

    #[test]
    fn a_threads_name_cannot_steer_the_terminal_nor_hide_it() {
        let named = std::thread::spawn(|| {
            fs::write("/proc/thread-self/comm", b"\x1b[2J\xff\x07sly").unwrap();
            describe("/proc/thread-self").unwrap()
        });
        let line = named.join().unwrap();
        assert!(line.starts_with("[2J\u{fffd}sly: running"), "{line:?}");
    }

    #[test]
    fn a_frame_is_its_function() {
        assert_eq!(frame("[<0>] do_nanosleep+0x5a/0x110"), Some("do_nanosleep"));
        assert_eq!(frame("nonsense"), None);
    }
}
