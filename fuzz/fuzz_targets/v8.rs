//! A value as V8 writes it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everycore_ipc::v8::fuzz::check(bytes));
