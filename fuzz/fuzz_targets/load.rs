//! Loads a weights file and reads every value of it.

use std::hint::black_box;
use std::sync::LazyLock;

use ettin::Config;
use ettin::files::FileData;
use ettin::weights::{Head, Weights};

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text = include_bytes!("../../models/tiny-layouts/bin/config.json");
    Config::from_json(text, "config.json").expect("the fixture's configuration")
});

pub fn everything(name: &str, data: &[u8]) {
    let Ok(weights) = Weights::from_file(FileData::from_bytes(name, data)) else {
        return;
    };
    for view in weights.views() {
        assert_eq!(view.shape().iter().product::<usize>(), view.len());
        black_box(view.to_f32());
    }
    let _ = black_box(weights.checkpoint(&CONFIG, Head::Language));
}
