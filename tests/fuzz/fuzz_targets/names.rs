//! libFuzzer's loop around [`tpdocker_fuzz::names`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tpdocker_fuzz::names(bytes));
