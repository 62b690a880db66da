//! Any bytes as `config.json`: an error or a configuration that survives being written and read again.
#![no_main]

use ettin::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(config) = Config::from_json(data, "config.json") {
        let text = config.to_json().expect("what was read can be written");
        let again = Config::from_json(text.as_bytes(), "written").expect("what was written can be read");
        assert_eq!(again, config);
    }
});
