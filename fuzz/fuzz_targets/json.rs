//! Bytes from a peer on the `json` codec.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everycore_ipc::fuzz::json(bytes));
