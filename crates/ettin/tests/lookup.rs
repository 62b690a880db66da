//! A token table that is only looked up in stays in its file, and gives what a packed one gives.

mod common;

use common::{assert_same, model, values};
use ettin::files::{FileData, ModelFiles};
use ettin::heads::{Embedder, LanguageModel};
use ettin::weights::{StoredDtype, Weights, convert};
use ettin::{Backend, Isa, PackedBatch, Scheme, Team, Trunk};
use ettin_kernels::testing::each_isa;
use tempfile::TempDir;

const TABLE: &str = "model.embeddings.tok_embeddings.weight";

/// The trained encoder in a file, which is large enough to be mapped.
fn nano(stored: Option<StoredDtype>) -> (TempDir, ModelFiles) {
    let folder = tempfile::tempdir().unwrap();
    convert(&model("nano-encoder"), folder.path(), stored, &mut |_| {}).unwrap();
    let files = ModelFiles::folder(folder.path()).unwrap();
    (folder, files)
}

fn batch() -> PackedBatch {
    let sequence = |len: u32, step: u32| -> Vec<u32> { (0..len).map(|i| (7 + i * step) % 5_000).collect() };
    PackedBatch::new(&[sequence(9, 5), sequence(1, 1), sequence(40, 119)]).unwrap()
}

/// What the layers start from.
fn embedding(trunk: &Trunk) -> Vec<f32> {
    values(&trunk.residuals(&batch()).unwrap()[0])
}

#[test]
fn vectors_are_those_of_a_packed_table() {
    let formats = [StoredDtype::F16, StoredDtype::BF16, StoredDtype::W8, StoredDtype::W4];
    for stored in [None].into_iter().chain(formats.map(Some)) {
        let (_folder, files) = nano(stored);
        let weights = Weights::open(&files).unwrap();
        let table = weights.get(TABLE).unwrap();
        assert_eq!(weights.keep(&table).expect("a mapped file").view(), table);
        let check = |isa: Isa| {
            for scheme in Scheme::ALL {
                let backend = Backend::fused(isa, scheme, Team::global());
                let looked_up = Embedder::load(&files, &backend).unwrap();
                let packed = LanguageModel::load(&files, &backend).unwrap();
                let what = format!("{stored:?}, {isa}, {scheme}");
                assert_same(&what, &embedding(looked_up.trunk()), &embedding(packed.trunk()));
            }
        };
        // Rows are rounded after they are read, so how they are stored and what rounds them meet in one number.
        if stored.is_none() { each_isa(check) } else { check(Isa::best()) }
    }
}

#[test]
fn memory_of_the_process_is_not_kept_for_a_table() {
    let (_folder, files) = nano(None);
    let bytes = files.require("model.safetensors").unwrap().to_vec();
    let weights = Weights::from_file(FileData::from_bytes("copy", bytes)).unwrap();
    assert!(weights.keep(&weights.get(TABLE).unwrap()).is_none());
}

/// KiB of a file that are mapped and resident in this process; `None` where it is not mapped.
#[cfg(target_os = "linux")]
fn resident(path: &str) -> Option<usize> {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(path));
    let size = lines.find_map(|line| line.strip_prefix("Rss:"))?;
    Some(size.split_whitespace().next()?.parse().unwrap())
}

#[cfg(target_os = "linux")]
#[test]
fn of_the_file_nothing_is_resident_but_what_was_looked_up() {
    let (folder, files) = nano(None);
    let backend = Backend::fused(Isa::best(), Scheme::Bf16, Team::global());
    let path = folder.path().join("model.safetensors").display().to_string();
    let size = std::fs::metadata(&path).unwrap().len() as usize >> 10;
    let model = Embedder::load(&files, &backend).unwrap();
    model.trunk().forward(&PackedBatch::new(&[vec![5; 8]]).unwrap()).unwrap();
    let held = resident(&path).expect("the file is mapped for as long as the model lives");
    assert!(held > 0 && held < size / 4, "{held} of {size} KiB");
    drop(model);
    assert_eq!(resident(&path), None);
}
