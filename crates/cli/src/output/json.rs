//! Events as lines of JSON: stable names, one object per line. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everycore::{Event, ExitStatus, WorkerInfo};
use serde_json::{Map, Value, json};

/// One event of program `app`, or `None` for what is no news (messages and requests belong to the program).
pub(crate) fn line(app: &str, event: &Event, now: SystemTime) -> Option<String> {
    let (name, details) = match event {
        Event::Fork { .. } => ("worker_fork", json!({})),
        Event::Online { .. } => ("worker_online", json!({})),
        Event::Listening { address, .. } => ("worker_listening", json!({"address": address.to_string()})),
        Event::Ready { .. } => ("worker_ready", json!({})),
        Event::Disconnect { .. } => ("worker_disconnect", json!({})),
        Event::Exit { status, reason, exited_after_disconnect, .. } => {
            let (code, signal) = match status {
                ExitStatus::Code(code) => (Some(*code), None),
                ExitStatus::Signal(signal) => (None, Some(*signal)),
                ExitStatus::Unknown => (None, None),
            };
            let details = json!({
                "code": code, "signal": signal, "reason": reason.as_str(),
                "exited_after_disconnect": exited_after_disconnect,
            });
            ("worker_exit", details)
        }
        Event::Error { reason, .. } => ("worker_error", json!({"reason": reason})),
        Event::Hung { .. } => ("worker_hung", json!({})),
        Event::Blocked { duration, .. } => ("worker_blocked", json!({"duration_ms": millis(*duration)})),
        Event::Late { within, .. } => ("worker_late", json!({"within_ms": millis(*within)})),
        Event::Mistaken { .. } => ("worker_mistaken", json!({})),
        Event::Overdue { within, open, kill_after, .. } => {
            let details = json!({
                "within_ms": millis(*within), "connections": (*open > 0).then_some(open), "kill_after_ms": millis(*kill_after),
            });
            ("worker_overdue", details)
        }
        Event::TooLarge { resident, limit, postponed, .. } => {
            let details = json!({
                "resident": resident, "limit": limit, "postponed_ms": postponed.map(millis),
            });
            ("worker_too_large", details)
        }
        Event::TimedOut { after, doing, .. } => {
            ("worker_timed_out", json!({"after_ms": millis(*after), "threads": doing}))
        }
        Event::Recovered { .. } => ("worker_recovered", json!({})),
        Event::RestartScheduled { slot, delay, failures } => {
            ("restart_scheduled", json!({"slot": slot, "delay_ms": millis(*delay), "failures": failures}))
        }
        Event::SlotErrored { slot, failures } => {
            ("slot_errored", json!({"slot": slot, "failures": failures}))
        }
        Event::ReloadStarted { generation } => ("reload_started", json!({"generation": generation})),
        Event::ReloadProgress { done, total } => ("reload_progress", json!({"done": done, "total": total})),
        Event::ReloadDone { generation } => ("reload_done", json!({"generation": generation})),
        Event::ReloadFailed { generation, reason } => {
            ("reload_failed", json!({"generation": generation, "reason": reason}))
        }
        Event::Scaled { workers } => ("scaled", json!({"workers": workers})),
        Event::Refused { class, refused } => {
            ("connections_refused", json!({"class": class, "refused": refused}))
        }
        Event::Stopping => ("stopping", json!({})),
        Event::StoppingNow { kill_after } => ("stopping_now", json!({"kill_after_ms": millis(*kill_after)})),
        Event::Warning { text } => ("warning", json!({"text": text})),
        Event::Message { .. } | Event::Request { .. } => return None,
        // The library may learn to tell more than this version has names for.
        _ => return None,
    };
    Some(object(app, name, event.worker(), details, now))
}

/// The primary has bound its addresses.
pub(crate) fn started(
    app: &str,
    addresses: &[String],
    workers: usize,
    policy: &str,
    now: SystemTime,
) -> String {
    let details =
        json!({"addresses": addresses, "workers": workers, "policy": policy, "pid": std::process::id()});
    object(app, "started", None, details, now)
}

/// Something that is not as it may seem.
pub(crate) fn note(app: &str, text: &str, now: SystemTime) -> String {
    object(app, "note", None, json!({"text": text}), now)
}

/// So many lines found no room, since nobody read those before them.
pub(crate) fn lost(app: &str, lines: u64, now: SystemTime) -> String {
    object(app, "lines_lost", None, json!({"lines": lines}), now)
}

/// So many requests were reported by workers so far.
pub(crate) fn requests(app: &str, total: u64, now: SystemTime) -> String {
    object(app, "requests", None, json!({"total": total}), now)
}

/// The last line: how it ended.
pub(crate) fn ended(app: &str, reason: &str, now: SystemTime) -> String {
    object(app, "ended", None, json!({"reason": reason}), now)
}

/// The very last line of a command that failed, perhaps before it was known what it is called.
pub(crate) fn failed(error: &str, now: SystemTime) -> String {
    json!({"ts": timestamp(now), "event": "error", "error": error}).to_string()
}

fn object(app: &str, name: &str, worker: Option<WorkerInfo>, details: Value, now: SystemTime) -> String {
    let mut object = Map::new();
    object.insert("ts".into(), timestamp(now).into());
    object.insert("event".into(), name.into());
    object.insert("app".into(), app.into());
    if let Some(worker) = worker {
        object.insert("worker".into(), worker.id.into());
        object.insert("slot".into(), worker.slot.into());
        object.insert("generation".into(), worker.generation.into());
        object.insert("pid".into(), worker.pid.into());
    }
    if let Value::Object(details) = details {
        object.extend(details);
    }
    Value::Object(object).to_string()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC with milliseconds: `2026-11-20T17:40:29.123Z`.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// The Gregorian date so many days after 1 January 1970, year by year and month by month.
fn date(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Whole periods of the calendar first, so that the loop below is short.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use everycore::ExitReason;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn times_are_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_795_196_429, "2026-11-20T17:40:29.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(timestamp(at(seconds)), text);
        }
    }

    #[test]
    fn an_exit_is_one_object_on_one_line() {
        let worker = WorkerInfo { id: 3, slot: 0, generation: 1, pid: Some(12) };
        let event = Event::Exit {
            worker,
            status: ExitStatus::Signal(9),
            reason: ExitReason::Signal,
            exited_after_disconnect: false,
        };
        let line = line("web", &event, at(0)).unwrap();
        assert!(!line.contains('\n'));
        let value: Value = serde_json::from_str(&line).unwrap();
        let expected = json!({
            "ts": "1970-01-01T00:00:00.000Z", "event": "worker_exit", "app": "web", "worker": 3, "slot": 0,
            "generation": 1, "pid": 12, "code": null, "signal": 9, "reason": "signal",
            "exited_after_disconnect": false,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn text_from_outside_cannot_break_a_line() {
        let event = Event::Warning { text: "a\nb\"".into() };
        let line = line("web", &event, at(0)).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["text"], "a\nb\"");
        assert!(!line.contains('\n'));
    }
}
