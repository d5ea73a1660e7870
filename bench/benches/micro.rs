//! How long one step of the hot paths takes: `cargo bench -p everycore-bench`. Single steps are for finding out what a
//! change did; the table of bars (`just bench`) says what it is worth.

#![allow(missing_docs, reason = "what criterion's macros make")]

#[path = "../src/hot.rs"]
#[allow(dead_code, unreachable_pub, reason = "it belongs to the bench's own program")]
mod hot;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use hot::Subject;

fn steps(criterion: &mut Criterion) {
    for subject in Subject::ALL {
        let name = subject.name();
        let (group, case) = name.split_once('/').unwrap_or((&name, "one"));
        let mut group = criterion.benchmark_group(group);
        group.throughput(Throughput::Elements(subject.per_step()));
        let mut step = subject.prepare().expect("a subject can be set up");
        group.bench_function(case, |bencher| bencher.iter(|| step().expect("a step succeeds")));
        group.finish();
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
