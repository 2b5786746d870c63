//! Any bytes as a configuration file: parsing and rendering diagnostics never panic, whatever the
//! files that it names contain.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // The end of the input is also the content of the files that the text names.
    let content = &bytes[bytes.len() - bytes.len() / 4..];
    match homing::config::parse_sealed_off(text, "fuzz.toml", content) {
        Ok(loaded) => drop(homing::config::render_all(&loaded.warnings, true)),
        Err(diagnostics) => {
            assert!(diagnostics.errors() > 0, "rejected without an error");
            drop(diagnostics.render(true));
        }
    }
});
