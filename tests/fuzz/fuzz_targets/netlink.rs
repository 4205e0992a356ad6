//! libFuzzer's loop around [`tpdocker_fuzz::netlink`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tpdocker_fuzz::netlink(bytes));
