//! How fast V8's format is written and read, beside JSON, and beside Node doing the same with the same values.
//!
//! `cargo run --release -p everycore-ipc --example v8_speed`; each number is the best of many rounds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "prints measurements")]

use std::collections::BTreeMap;
use std::fmt;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use everycore_ipc::v8::{self, Document};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct, Serializer};

fn main() {
    let small = record(1);
    let large: Vec<Record> = (0..37).map(record).collect();
    println!("{:<34}{:>10}{:>10}{:>12}", "", "bytes", "write µs", "read µs");
    measure("one record", &small);
    measure("37 records", &large);
    beside_node("one record", &serde_json::to_string(&small).unwrap());
    beside_node("37 records", &serde_json::to_string(&large).unwrap());
}

fn measure<T: Serialize + for<'de> Deserialize<'de> + PartialEq>(name: &str, value: &T) {
    let json = serde_json::to_vec(value).unwrap();
    let payload = v8::to_vec(value).unwrap();
    let untyped: serde_json::Value = v8::from_slice(&payload).unwrap();
    let document = Document::parse(&payload).unwrap();
    assert!(v8::from_slice::<T>(&payload).unwrap() == *value);
    assert_eq!(document.to_vec().unwrap(), payload);

    let write = best(|| drop(black_box(serde_json::to_vec(black_box(value)))));
    let read = best(|| drop(black_box(serde_json::from_slice::<T>(black_box(&json)))));
    report(&format!("{name}, JSON, typed"), json.len(), write, read);
    let write = best(|| drop(black_box(v8::to_vec(black_box(value)))));
    let read = best(|| drop(black_box(v8::from_slice::<T>(black_box(&payload)))));
    report(&format!("{name}, V8, typed"), payload.len(), write, read);
    let write = best(|| drop(black_box(serde_json::to_vec(black_box(&untyped)))));
    let read = best(|| drop(black_box(serde_json::from_slice::<serde_json::Value>(black_box(&json)))));
    report(&format!("{name}, JSON, untyped"), json.len(), write, read);
    let write = best(|| drop(black_box(v8::to_vec(black_box(&untyped)))));
    let read = best(|| drop(black_box(v8::from_slice::<serde_json::Value>(black_box(&payload)))));
    report(&format!("{name}, V8, untyped"), payload.len(), write, read);
    let write = best(|| drop(black_box(black_box(&document).to_vec())));
    let read = best(|| drop(black_box(Document::parse(black_box(&payload)))));
    report(&format!("{name}, V8, document"), payload.len(), write, read);
    let skip = best(|| drop(black_box(v8::from_slice::<de::IgnoredAny>(black_box(&payload)))));
    println!("{:<34}{:>10}{:>10}{:>12.2}", format!("{name}, V8, skipped"), payload.len(), "", micros(skip));
}

/// The best mean of several rounds of ten milliseconds.
fn best(mut work: impl FnMut()) -> Duration {
    const ROUNDS: u32 = 15;
    let mut count = 1;
    while time(&mut work, count) < Duration::from_millis(10) {
        count *= 2;
    }
    (0..ROUNDS).map(|_| time(&mut work, count) / count).min().unwrap()
}

fn time(work: &mut impl FnMut(), count: u32) -> Duration {
    let start = Instant::now();
    (0..count).for_each(|_| work());
    start.elapsed()
}

fn report(name: &str, bytes: usize, write: Duration, read: Duration) {
    println!("{name:<34}{bytes:>10}{:>10.2}{:>12.2}", micros(write), micros(read));
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Lets Node write and read the same value, if there is one.
fn beside_node(name: &str, json: &str) {
    let script = r"
        const v8 = require('v8');
        const value = JSON.parse(process.argv[1]);
        function best(work) {
            let count = 1, least = Infinity;
            const time = () => { const start = process.hrtime.bigint(); for (let i = 0; i < count; i++) work();
                return Number(process.hrtime.bigint() - start); };
            while (time() < 1e7) count *= 2;
            for (let round = 0; round < 15; round++) least = Math.min(least, time() / count);
            return least / 1000;
        }
        const line = (codec, bytes, write, read) => console.log([codec, bytes, write.toFixed(2), read.toFixed(2)].join());
        const text = JSON.stringify(value), payload = v8.serialize(value);
        line('JSON', text.length, best(() => JSON.stringify(value)), best(() => JSON.parse(text)));
        line('V8', payload.length, best(() => v8.serialize(value)), best(() => v8.deserialize(payload)));
    ";
    let Ok(output) = Command::new("node").args(["-e", script, json]).output() else {
        println!("{name}: no Node here");
        return;
    };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut cells = line.split(',');
        let mut cell = || cells.next().unwrap_or_default();
        println!("{:<34}{:>10}{:>10}{:>12}", format!("{name}, {} in Node", cell()), cell(), cell(), cell());
    }
}

/// About a kilobyte of what messages usually hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Record {
    id: u32,
    name: String,
    email: String,
    active: bool,
    created: u64,
    parent: Option<u32>,
    tags: Vec<String>,
    scores: Vec<f64>,
    counts: BTreeMap<String, u32>,
    notes: String,
}

fn record(id: u32) -> Record {
    Record {
        id,
        name: format!("Person number {id}"),
        email: format!("person.{id}@mail.example.org"),
        active: id.is_multiple_of(2),
        created: 1_700_000_000_000 + u64::from(id),
        parent: id.checked_sub(1),
        tags: ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"].map(String::from).into(),
        scores: (0..12).map(|n| f64::from(n * id) * 0.37).collect(),
        counts: (0..10).map(|n| (format!("counter_{n}"), n * 1000 + id)).collect(),
        notes: "The quick brown fox jumps over the lazy dog; then it rests. ".repeat(7),
    }
}

const FIELDS: &[&str] =
    &["id", "name", "email", "active", "created", "parent", "tags", "scores", "counts", "notes"];

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Record", FIELDS.len())?;
        fields.serialize_field("id", &self.id)?;
        fields.serialize_field("name", &self.name)?;
        fields.serialize_field("email", &self.email)?;
        fields.serialize_field("active", &self.active)?;
        fields.serialize_field("created", &self.created)?;
        fields.serialize_field("parent", &self.parent)?;
        fields.serialize_field("tags", &self.tags)?;
        fields.serialize_field("scores", &self.scores)?;
        fields.serialize_field("counts", &self.counts)?;
        fields.serialize_field("notes", &self.notes)?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("Record", FIELDS, RecordVisitor)
    }
}

struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Record, A::Error> {
        let mut record = Record::default();
        while let Some(name) = fields.next_key::<&str>()? {
            match name {
                "id" => record.id = fields.next_value()?,
                "name" => record.name = fields.next_value()?,
                "email" => record.email = fields.next_value()?,
                "active" => record.active = fields.next_value()?,
                "created" => record.created = fields.next_value()?,
                "parent" => record.parent = fields.next_value()?,
                "tags" => record.tags = fields.next_value()?,
                "scores" => record.scores = fields.next_value()?,
                "counts" => record.counts = fields.next_value()?,
                "notes" => record.notes = fields.next_value()?,
                _ => drop(fields.next_value::<de::IgnoredAny>()?),
            }
        }
        Ok(record)
    }
}
