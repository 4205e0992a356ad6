//! libFuzzer's loop around [`tpdocker_fuzz::frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tpdocker_fuzz::frames(bytes));
