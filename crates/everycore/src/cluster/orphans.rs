//! What falls to a container's first process: to wait for processes whose parents have died.
//!
//! Workers are waited for by their pidfds; any other child is one the kernel gave us, and nobody else will wait for it.

use std::fs;

use everycore_core::WorkerId;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::driver::Driver;
use super::member::Member;

impl Driver {
    /// Takes the status of every child that has ended and is no worker.
    pub(super) fn reap_orphans(&self) {
        let is_worker = |pid: i32| {
            let of = |(_, member): (&WorkerId, &Member)| member.info.pid.is_some_and(|own| own == pid as u32);
            self.members.iter().any(of)
        };
        for pid in children().into_iter().filter(|pid| !is_worker(*pid)) {
            if let Some(pid) = Pid::from_raw(pid) {
                // One that still runs is not waited for, and tells us when it has ended.
                let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            }
        }
    }
}

/// The children of this process, whichever thread has them.
fn children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split(' ').filter_map(|pid| pid.trim().parse().ok()).collect::<Vec<_>>())
        .collect()
}
