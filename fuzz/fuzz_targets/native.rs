//! Bytes from a peer on the `native` codec.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everycore_ipc::fuzz::native(bytes));
