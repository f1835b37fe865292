//! libFuzzer's own main, which runs the target that TRAINYARD_FUZZ names.

#![no_main]

use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn target() -> fn(&[u8]) {
    *TARGET.get_or_init(|| trainyard_fuzz::target(&std::env::var("TRAINYARD_FUZZ").unwrap_or_default()))
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| target()(data));
