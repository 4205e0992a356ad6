//! libFuzzer's loop around [`tpdocker_fuzz::mux`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tpdocker_fuzz::mux(bytes));
