//! Sockets this process was born with: from a service manager (`LISTEN_FDS`), or left open by whoever started it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use everycore_sys::inherit::{self, ListenFd};

/// The first number that `LISTEN_FDS` counts from.
const FIRST: usize = 3;

/// What the service manager passed, once read; each is taken once.
static PASSED: Mutex<Option<Vec<Option<ListenFd>>>> = Mutex::new(None);

/// Reads the service manager's variables; they can only be removed while no other thread runs. Later calls do
/// nothing.
///
/// # Errors
/// Other threads run.
pub(crate) fn look() -> io::Result<()> {
    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    if passed.is_none() {
        let found = inherit::listen_fds().map_err(|error| {
            io::Error::other(format!(
                "{error}; bind it first thing in main, before any runtime or thread starts"
            ))
        })?;
        *passed = Some(found.into_iter().map(Some).collect());
    }
    Ok(())
}

/// Takes the descriptor of this number, or all of this name.
pub(crate) fn take(which: &str) -> io::Result<Vec<OwnedFd>> {
    look()?;
    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    let passed = passed.get_or_insert_default();
    if let Ok(number) = which.parse::<i32>() {
        let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(FIRST));
        if let Some(found) = place.and_then(|place| passed.get_mut(place)).and_then(Option::take) {
            return Ok(vec![found.fd]);
        }
        return Ok(vec![inherit::adopt_fd(number, &[])?]);
    }
    let named = |slot: &&mut Option<ListenFd>| slot.as_ref().is_some_and(|found| found.name == which);
    let found: Vec<_> =
        passed.iter_mut().filter(named).filter_map(Option::take).map(|found| found.fd).collect();
    if found.is_empty() {
        let names: Vec<_> = passed.iter().flatten().map(|found| found.name.as_str()).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no inherited socket has this name in LISTEN_FDNAMES; there are: {there}"),
        ));
    }
    Ok(found)
}
