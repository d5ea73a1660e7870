//! Messages between two processes: there and back, and one way.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Bench, median};
use crate::budget::Budget;
use crate::messages::Way;
use crate::process::{Launch, Process};
use crate::report::{Report, Side, Verdict};
use crate::sample::{Round, figure, ratio};
use crate::scratch::Scratch;
use crate::tools;

/// Payload, its name, and how many of them are sent each way.
const SIZES: [(usize, &str, u64, u64); 3] =
    [(64, "64 B", 20_000, 300_000), (65_536, "64 KiB", 2_000, 10_000), (1 << 20, "1 MiB", 100, 400)];

/// Who exchanges messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Speaker {
    Ours(Way),
    NodeJson,
    NodeAdvanced,
    IpcChannel,
}

const JSON: Speaker = Speaker::Ours(Way::Json);
const JSON_BLOCKING: Speaker = Speaker::Ours(Way::JsonBlocking);
const NATIVE: Speaker = Speaker::Ours(Way::Native);
const NATIVE_BLOCKING: Speaker = Speaker::Ours(Way::NativeBlocking);
const BYTES: Speaker = Speaker::Ours(Way::Bytes);
const COALESCED: Speaker = Speaker::Ours(Way::BytesCoalesced);

impl Speaker {
    fn all() -> Vec<Self> {
        let others = [Self::IpcChannel, Self::NodeJson, Self::NodeAdvanced];
        Way::ALL.map(Self::Ours).into_iter().chain(others).collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ours(way) => way.name(),
            Self::NodeJson => "node-json",
            Self::NodeAdvanced => "node-advanced",
            Self::IpcChannel => "ipc-channel",
        }
    }

    /// `SIZE ROUND_TRIPS ONE_WAYS` follows; `None` when the program is not there.
    fn launch(self, bench: &Bench, numbers: [String; 3]) -> io::Result<Option<Launch>> {
        let node = |codec: &str| {
            let fixture = tools::peers().join("node/messages.js").display().to_string();
            Some((bench.tools.path("node")?.to_owned(), vec![fixture, codec.to_owned()]))
        };
        let found: Option<(PathBuf, Vec<String>)> = match self {
            Self::Ours(way) => Some((std::env::current_exe()?, vec!["messages".into(), way.name().into()])),
            Self::NodeJson => node("json"),
            Self::NodeAdvanced => node("advanced"),
            Self::IpcChannel => bench.tools.path("ipc_channel").map(|path| (path.to_owned(), Vec::new())),
        };
        Ok(found.map(|(program, args)| Launch::new(program, args.into_iter().chain(numbers))))
    }
}

/// Nanoseconds per round trip, messages per second one way.
type Times = (f64, f64);

pub(super) fn messages(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("messages", "Messages between a parent and its child");
    let scratch = Scratch::new("messages")?;
    let mut heads = vec!["who".to_owned()];
    let mut rows: Vec<Vec<String>> =
        Speaker::all().into_iter().map(|speaker| vec![speaker.name().to_owned()]).collect();
    for (done, (size, name, round_trips, one_ways)) in SIZES.into_iter().enumerate() {
        let numbers = [size as u64, bench.count(round_trips), bench.count(one_ways)];
        let budget = bench.budget.part((SIZES.len() - done) as u32);
        let rounds = measure(bench, &budget, &scratch, numbers)?;
        heads.extend([format!("{name}: µs there and back"), format!("{name}: one way/s")]);
        for (row, speaker) in rows.iter_mut().zip(Speaker::all()) {
            row.push(median(figure(&rounds, &speaker, |times| times.0 / 1000.0)));
            row.push(median(figure(&rounds, &speaker, |times| times.1)));
        }
        report.verdicts.extend(verdicts(size, name, &rounds));
    }
    report.text(format!(
        "Median of {}, everybody once per round in random order. JSON and Node's codecs carry an object with one \
         string and are read into a value on both sides; `native` and `raw-bytes` carry bytes.",
        bench.budget.rule()
    ));
    report.table(&heads.iter().map(String::as_str).collect::<Vec<_>>(), rows);
    Ok(report)
}

fn measure(
    bench: &mut Bench,
    budget: &Budget,
    scratch: &Scratch,
    numbers: [u64; 3],
) -> io::Result<Vec<Round<Speaker, Times>>> {
    let mut speakers = Speaker::all();
    let mut rounds = Vec::new();
    let mut last = Duration::ZERO;
    while budget.allows(rounds.len(), last) {
        let began = Instant::now();
        bench.random.shuffle(&mut speakers);
        let mut round = Round::new();
        for speaker in &speakers {
            let Some(launch) = speaker.launch(bench, numbers.map(|number| number.to_string()))? else {
                continue;
            };
            let process = Process::start(&launch, scratch.path(), speaker.name())?;
            process.wait(Duration::from_secs(120))?;
            match parse(&process.log()) {
                Some(times) => drop(round.insert(*speaker, times)),
                None => crate::say!("{} is left out: {}", speaker.name(), process.log().trim()),
            }
        }
        rounds.push(round);
        last = began.elapsed();
    }
    Ok(rounds)
}

/// Round trips are compared as who waits for an answer would send: without a runtime. One way, under tokio.
fn verdicts(size: usize, name: &str, rounds: &[Round<Speaker, Times>]) -> Vec<Verdict> {
    let time = |of, to| ratio(rounds, &of, &to, |times| times.0).map(|f| f.median);
    let rate = |of, to| ratio(rounds, &of, &to, |times| times.1).map(|f| f.median);
    let mut verdicts = Vec::new();
    let mut add = |what: &str, side, bar, found| {
        verdicts.push(Verdict::new(&format!("messages, {name}: {what}"), side, bar, " ×", found));
    };
    let json_bar = if size == 64 { 6.0 } else { 8.0 };
    if size == 64 {
        add("round trip, json / Node json", Side::AtMost, 1.0 / 6.0, time(JSON_BLOCKING, Speaker::NodeJson));
        add(
            "round trip, json under tokio / Node json",
            Side::AtMost,
            1.0 / 6.0,
            time(JSON, Speaker::NodeJson),
        );
        add("round trip, native / raw bytes", Side::AtMost, 1.3, time(NATIVE_BLOCKING, BYTES));
        add("one way, native / raw bytes coalesced", Side::AtLeast, 0.7, rate(NATIVE, COALESCED));
    }
    add("one way, json / Node json", Side::AtLeast, json_bar, rate(JSON, Speaker::NodeJson));
    if size == 65_536 {
        add("one way, native / raw bytes", Side::AtLeast, 0.8, rate(NATIVE, BYTES));
    }
    verdicts
}

fn parse(text: &str) -> Option<Times> {
    let (round_trip, one_way) = text.trim().split_once(' ')?;
    Some((round_trip.parse().ok()?, one_way.parse().ok()?))
}
