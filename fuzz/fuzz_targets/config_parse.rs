//! Any bytes as a configuration file: parsing and drawing what is wrong never
//! panic, whatever the files it names hold.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // The content of the files that the text names comes from its own end.
    let content = &bytes[bytes.len() - bytes.len() / 4..];
    match homing::config::parse_sealed_off(text, "fuzz.toml", content) {
        Ok(loaded) => drop(homing::config::render_all(&loaded.warnings, true)),
        Err(diagnostics) => {
            assert!(diagnostics.errors() > 0, "refused without a reason");
            drop(diagnostics.render(true));
        }
    }
});
