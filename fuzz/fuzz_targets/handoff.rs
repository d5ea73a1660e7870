//! Two ends that hand each other handles over a wire that loses some.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everycore_ipc::fuzz::handoff(bytes));
