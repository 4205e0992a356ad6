//! libFuzzer's loop around [`tpdocker_fuzz::control`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tpdocker_fuzz::control(bytes));
