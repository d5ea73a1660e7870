//! The decisions of an Everycore cluster, and nothing else.
//!
//! An event goes in, effects come out. The [`Primary`] is told what happened ([`Event`]) and what time it is
//! ([`Time`]); it decides, and says what to do ([`Effect`]). It reads no clock, opens no descriptor, starts no
//! thread, knows no environment, and has no randomness but its seed: the same calls give the same effects, and a
//! whole day of a cluster's life runs in a test within milliseconds.
//!
//! Whoever carries the effects out keeps to a short contract:
//!
//! * Call [`Primary::handle`] for what happened, [`Primary::handle_deadline`] when [`Primary::next_deadline`] is due,
//!   and carry out what [`Primary::take_effects`] gives after each, in order.
//! * Carrying out an effect never waits. A failure comes back as an event.
//! * Pass a worker's counters to [`Primary::observe`] before asking who gets a connection and before a deadline is
//!   handled.
//! * [`Primary::assign`] counts the connection as handed over; one that did not get there is given back by
//!   [`Primary::returned`]. While something is untaken, look now and then for workers that are
//!   [stuck with it](Primary::withdrawable) and read it back.
//! * Say by [`Primary::drained`] whether connections were left waiting.
//! * Pass [`Event::Exited`] on when the worker's channel and counters have been read to the end.
//! * Stop when [`Primary::is_finished`].
//!
//! ```
//! use everycore_core::{Effect, Event, ExitStatus, ListenerKey, Primary, Settings, Time};
//! use everycore_core::Assignment;
//!
//! let (http, now) = (ListenerKey::new(0), Time::ZERO);
//! let mut primary = Primary::new(Settings::default(), now);
//! let Effect::Spawn { worker, .. } = primary.take_effects()[0] else { panic!("a worker is asked for first") };
//!
//! primary.handle(Event::Online { worker }, now);
//! primary.handle(Event::Listening { worker, listener: http }, now);
//! assert_eq!(primary.assign(http, None, now), Assignment::To(worker));
//!
//! primary.handle(Event::Exited { worker, status: ExitStatus::Signal(9) }, now);
//! assert_eq!(primary.assign(http, None, now), Assignment::Wait);
//! assert!(primary.next_deadline().is_some()); // a replacement is due
//! ```

#![forbid(unsafe_code)]

mod adoption;
mod credit;
mod event;
mod id;
mod listener;
mod notice;
mod primary;
mod random;
mod recency;
mod recycle;
mod reload;
mod restart;
mod schedule;
mod settings;
mod snapshot;
mod time;
mod worker;

pub use adoption::{Adoption, Adoptions};
pub use event::{Effect, Event, Urgency};
pub use id::{ClassKey, Generation, ListenerKey, Slot, WorkerId};
pub use listener::Counters;
pub use notice::{ExitReason, ExitStatus, Notice, signal_name};
pub use primary::{Assignment, Awaited, Outcome, Primary, Totals};
pub use schedule::{
    Candidate, Candidates, Class, ClassCounts, Inbound, LeastConnections, Network, NetworkError, Peer,
    Policy, RoundRobin, Route, RouteError, Router, Rule, RuleError, SchedulingPolicy, Sticky, UnknownPolicy,
    WhenFull,
};
pub use settings::{
    CreditSettings, Deadlines, Limits, MAX_WORKERS, Readiness, RecycleSettings, RestartPolicy,
    RestartSettings, Settings, SettingsError,
};
pub use snapshot::{ClassSnapshot, Phase, SlotSnapshot, SlotState, Snapshot, WorkerSnapshot};
pub use time::Time;
