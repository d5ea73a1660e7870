# What people run by hand; .ci/run runs the same commands on a clean machine.

# list the recipes
default:
    @just --list

# a cluster to play with: one HTTP worker per core behind one port
demo *args:
    cargo run --release -- demo {{args}}

# every test, real processes included
test *args:
    cargo test --workspace --all-features --no-fail-fast {{args}}

# random histories of a cluster in virtual time; one seed again: EVERYCORE_SIM_SEED=n just sim
sim histories="1000000":
    EVERYCORE_SIM_HISTORIES={{histories}} cargo test --release -p everycore-core --test sim

# one fuzz target (json, advanced, v8, native, handoff) for some seconds; needs cargo-fuzz and a nightly compiler
fuzz target seconds="60":
    cargo +nightly fuzz run {{target}} -- -max_total_time={{seconds}}

# the tests against real Node with every version of it: the table of docs/node.md; bun and deno when they are named
node-matrix *args:
    scripts/node-matrix {{args}}

# a million connections to Node workers that are killed at random; nothing may hang or leak
node-soak *args:
    cargo run --release -p everycore --example node_soak -- {{args}}

# side by side with Node, nginx and others: one table of ratios (--help says more)
bench *args:
    cargo run --release -p everycore-bench -- {{args}}

# how costs grow: workers, listeners, connections at rest, messages, memory (docs/scale.md)
scale *args:
    cargo run --release -p everycore-bench -- scale {{args}}

# single steps of the hot paths, timed by criterion; `just bench instructions` counts them
micro *args:
    cargo bench -p everycore-bench --bench micro -- {{args}}

# where a server's time goes, as text: just profile least 2
profile kind workers="2":
    scripts/profile {{kind}} {{workers}}

# everything CI checks
ci:
    .ci/run

fmt:
    cargo fmt --all

clippy:
    cargo clippy --workspace --all-targets --all-features -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --exclude everycore-cli --no-deps --all-features

# licences, banned crates, sources; then the size of the library's tree
deny:
    cargo deny --all-features check bans licenses sources
    scripts/check-tree

# known vulnerabilities: fetches the RustSec database
audit:
    cargo deny --all-features check advisories

# paths and links in the documents
docs:
    scripts/check-docs
