#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway::proto::fuzzing::path(bytes));
