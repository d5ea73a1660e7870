//! Closes many descriptors with few calls.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

/// Closes descriptors and empties the list: one system call for each run of numbers that are next to each other, in the
/// order of the numbers.
pub fn close_together(descriptors: &mut Vec<OwnedFd>) {
    descriptors.sort_unstable_by_key(AsRawFd::as_raw_fd);
    let mut run: Option<(u32, u32)> = None;
    for descriptor in descriptors.drain(..) {
        let number = descriptor.into_raw_fd().cast_unsigned();
        run = match run {
            Some((first, last)) if number == last + 1 => Some((first, number)),
            Some(done) => {
                close_run(done);
                Some((number, number))
            }
            None => Some((number, number)),
        };
    }
    if let Some(done) = run {
        close_run(done);
    }
}

/// Closes all numbers from the first to the last, which the caller owned one and all.
fn close_run((first, last): (u32, u32)) {
    if first < last {
        // SAFETY: every number of the run came out of an `OwnedFd` that was given up for it: nobody else closes or uses it.
        let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        if result == 0 {
            return;
        }
    }
    for number in first..=last {
        // SAFETY: as above; a kernel that refuses a range has closed none of it. What `close` says about a socket changes
        // nothing: the number is free in any case.
        unsafe { libc::close(number.cast_signed()) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn is_open(number: i32) -> bool {
        std::fs::exists(format!("/proc/self/fd/{number}")).unwrap()
    }

    /// High numbers, which tests that run beside this one do not get.
    fn at(number: i32) -> OwnedFd {
        rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), number).unwrap()
    }

    #[test]
    fn all_of_them_close_and_no_others() {
        let other = at(701);
        let mut list: Vec<OwnedFd> = [720, 712, 711, 710, 700, 702, 730, 731].map(at).into();
        let numbers: Vec<i32> = list.iter().map(AsRawFd::as_raw_fd).collect();
        close_together(&mut list);
        assert!(list.is_empty());
        assert!(numbers.into_iter().all(|number| !is_open(number)));
        assert!(is_open(other.as_raw_fd()), "it lies between two of them");
    }
}
