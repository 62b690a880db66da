//! Quantised embeddings against sentence-transformers 6.2, NumPy, faiss and usearch: what
//! `scripts/make_quantization_fixtures.py` recorded (versions in the fixture). Integers are compared with `==`.

use std::path::Path;

use ettin::files::{FileData, ModelFiles};
use ettin::quantization::{Integers, Precision, QuantizedVectors, Quantizer, Ranges, SearchRequest, quantize};
use ettin::tasks::{EmbedRequest, Options, TextEmbedder, TextVectors};
use ettin::{Error, Result};
use serde_json::Value;

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn cases(part: &str) -> Vec<Value> {
    let text = std::fs::read(root("tests/fixtures/quantization.json")).unwrap();
    let fixture: Value = serde_json::from_slice(&text).unwrap();
    fixture[part].as_array().unwrap().clone()
}

fn precision(case: &Value) -> Precision {
    case["precision"].as_str().unwrap().parse().unwrap()
}

fn floats(row: &Value) -> Vec<f32> {
    row.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn rows(value: &Value) -> Vec<Vec<f32>> {
    value.as_array().unwrap().iter().map(floats).collect()
}

fn ranges(value: &Value) -> Option<Ranges> {
    value.is_array().then(|| Ranges::new(floats(&value[0]), floats(&value[1])).unwrap())
}

fn integers(value: &Value) -> Vec<i16> {
    match value {
        Value::Array(values) => values.iter().flat_map(integers).collect(),
        number => vec![number.as_i64().unwrap() as i16],
    }
}

/// Whether these are the integers, of the kind that the precision has.
fn same(ours: &Integers, precision: Precision, expected: &Value) -> bool {
    matches!(ours, Integers::Signed(_)) == precision.is_signed()
        && ours.numbers().collect::<Vec<_>>() == integers(expected)
}

#[test]
fn vectors_become_the_integers_of_sentence_transformers() {
    let cases = cases("quantize");
    assert!(cases.len() > 50);
    for case in &cases {
        let (precision, vectors) = (precision(case), rows(&case["vectors"]));
        let given = match &case["calibration"] {
            Value::Null => ranges(&case["ranges"]).filter(|_| precision.has_ranges()),
            calibration => Some(Ranges::of(&rows(calibration)).unwrap()),
        };
        let what = format!("{precision}: {}", case["name"]);
        match quantize(&vectors, precision, given) {
            Err(Error::NoRanges { .. }) => assert!(case["refused"].is_string(), "{what}"),
            Err(error) => panic!("{what}: {error}"),
            Ok(ours) => {
                assert!(same(ours.values(), precision, &case["output"]), "{what}: {:?}", ours.values());
                assert_eq!(ours.len(), vectors.len(), "{what}");
            }
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(byte).collect()
}

fn read(bytes: impl Into<Vec<u8>>) -> Result<Ranges> {
    Ranges::from_file(&FileData::from_bytes("ranges", bytes.into()))
}

#[test]
fn files_of_ranges_are_read_as_numpy_reads_them() {
    for case in cases("files") {
        let ours = read(bytes(case["hex"].as_str().unwrap())).unwrap();
        assert_eq!(Some(ours), ranges(&case["ranges"]), "{}", case["name"]);
    }
}

/// An `.npy` file with this header and data.
fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}

#[test]
fn files_that_are_no_ranges_are_refused_by_what_is_wrong() {
    let header = |kind: &str, order: &str, shape: &str| {
        format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}")
    };
    let good = header("<f4", "False", "(2, 2)");
    assert!(read(npy(&good, &[0; 16])).is_ok());
    let nan = [f32::NAN.to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat();
    let falling = [1f32, 0.0, 0.5, 1.0].map(f32::to_le_bytes).concat();
    let tensors = |shape: &str, kind: &str, end: usize| {
        let header = format!(r#"{{"ranges":{{"dtype":"{kind}","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; end.min(64)]].concat()
    };
    for (file, message) in [
        (npy(&good, &[0; 15]), "15 bytes"),
        (npy(&good, &[0; 17]), "17 bytes"),
        (npy(&good, &nan), "NaN in dimension 0"),
        (npy(&good, &falling), "dimension 0 goes down"),
        (npy(&header("<f4", "False", "(4,)"), &[0; 16]), "[4]"),
        (npy(&header("<f4", "False", "(3, 1)"), &[0; 12]), "[3, 1]"),
        (npy(&header("<f4", "False", "(2, 0)"), &[]), "[2, 0]"),
        (npy(&header("<f4", "True", "(999999999999999, 0)"), &[]), "ranges have [2, dimensions]"),
        (npy(&header("<f4", "True", "(2, 9223372036854775807)"), &[0; 16]), "16 bytes"),
        (npy(&header("<f4", "False", "(2, 99999999999999999999)"), &[0; 16]), "no shape"),
        (npy(&header("<f4", "False", "(2, -2)"), &[0; 16]), "no shape"),
        (npy(&header("|i1", "False", "(2, 2)"), &[0; 4]), "\"|i1\""),
        (npy(&header("|O", "False", "(2, 2)"), &[0; 4]), "\"|O\""),
        (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 2), }", &[0; 16]), "no single type"),
        (npy("{'descr': '<f4', 'shape': (2, 2), }", &[0; 16]), "which order"),
        (npy("", &[]), "no single type"),
        (b"\x93NUMPY".to_vec(), "cut off"),
        (b"\x93NUMPY\x01\x00\xff\xff{}".to_vec(), "cut off"),
        (b"\x93NUMPY\x09\x00\x00\x00".to_vec(), "unknown version"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}".to_vec(), "cut off"),
        (tensors("[2,2]", "I8", 4), "I8"),
        (tensors("[4]", "F32", 16), "[4]"),
        (tensors("[2,4611686018427387904]", "F32", 32), "neither"),
        (tensors("[2,1000]", "F32", 8000), "neither"),
        (b"[[0, 1], [1, 2], [3, 4]]".to_vec(), "a list of 3"),
        (b"[[0, 1], [1]]".to_vec(), "2 lowest and 1 highest"),
        (b"[[], []]".to_vec(), "0 lowest"),
        (b"[1, 2]".to_vec(), "found a number"),
        (b"[[0, null], [1, 2]]".to_vec(), "found null"),
        (b"[[0, NaN], [1, 2]]".to_vec(), "NaN at line 1"),
        (b"[[0, 1e99], [1, 2]]".to_vec(), "inf in dimension 1"),
        (b"[[0, 1], [1, 2]".to_vec(), "not valid JSON"),
        ("[".repeat(100_000).into_bytes(), "recursion"),
        (b"{\"ranges\": [[0], [1]]}".to_vec(), "neither"),
        (Vec::new(), "neither"),
        (vec![0xff; 64], "neither"),
    ] {
        let error = read(file).unwrap_err().to_string();
        assert!(error.starts_with("ranges: ") && error.contains(message), "{message:?} is not in {error}");
    }
    let absent = Ranges::read(&root("tests/no-such-file.npy")).unwrap_err();
    assert!(matches!(absent, Error::Io { .. }) && absent.to_string().contains("no-such-file.npy"), "{absent}");
    assert!(Ranges::read(&root("tests")).is_err());
}

#[test]
fn searches_find_what_faiss_and_usearch_find() {
    let [part] = &cases("search")[..] else { panic!("one corpus") };
    let corpus = rows(&part["corpus"]);
    let quantizers = Precision::ALL.map(|(precision, _)| {
        let ranges = ranges(&part["ranges"]).filter(|_| precision.has_ranges());
        Quantizer::new(precision, ranges).unwrap()
    });
    let mut seen = 0;
    for case in part["cases"].as_array().unwrap() {
        let quantizer = quantizers.iter().find(|quantizer| quantizer.precision() == precision(case)).unwrap();
        let stored = quantizer.quantize(&corpus).unwrap();
        // As vectors come back from a file.
        let stored = QuantizedVectors::new(quantizer.precision(), 28, stored.into_values()).unwrap();
        let options = &case["options"];
        let number = |name: &str, default| options[name].as_u64().map_or(default, |number| number as usize);
        let request = SearchRequest::default()
            .with_top_k(number("top_k", 10))
            .with_rescore(options["rescore"].as_bool().unwrap_or(true))
            .with_rescore_multiplier(number("rescore_multiplier", 2));
        let found = quantizer.search(&floats(&case["query"]), &stored, &request).unwrap();
        let expected = case["output"].as_array().unwrap();
        let indices = |hits: &[Value]| hits.iter().map(|hit| hit["index"].as_u64().unwrap()).collect::<Vec<_>>();
        let what = format!("{}: {options}", case["precision"]);
        assert_eq!(found.len(), expected.len(), "{what}");
        if case["tied"] != true {
            assert_eq!(found.iter().map(|found| found.index as u64).collect::<Vec<_>>(), indices(expected), "{what}");
        }
        for (ours, expected) in found.iter().zip(expected) {
            let expected = expected["score"].as_f64().unwrap();
            let difference = (f64::from(ours.score) - expected).abs();
            assert!(difference <= 1e-5 * expected.abs().max(1.0), "{what}: {} is not {expected}", ours.score);
        }
        seen += 1;
    }
    assert!(seen > 40, "{seen} searches");
}

#[test]
fn damaged_files_of_ranges_are_refused_or_read_and_never_a_panic() {
    for case in cases("files") {
        let whole = bytes(case["hex"].as_str().unwrap());
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{} of {length} bytes", case["name"]);
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x10, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                if let Ok(ranges) = read(damaged) {
                    let high = ranges.high().to_vec();
                    let quantizer = Quantizer::new(Precision::Int8, ranges).unwrap();
                    assert_eq!(quantizer.quantize_one(&high).unwrap().len(), high.len());
                }
            }
        }
    }
}

fn embedder(case: &Value) -> TextEmbedder {
    let files = ModelFiles::folder(root(case["model"].as_str().unwrap())).unwrap();
    TextEmbedder::load(&files, &Options::default()).unwrap()
}

#[test]
fn texts_become_the_integers_of_encode() {
    for case in cases("embed") {
        let options = &case["options"];
        let request = EmbedRequest::default()
            .with_dimensions(options["truncate_dim"].as_u64().map(|size| size as usize))
            .with_normalize(options["normalize_embeddings"].as_bool())
            .with_per_token(options["per_token"] == true);
        let texts: Vec<&str> = case["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        let outcomes = embedder(&case).run(&texts, &request).unwrap();
        let vectors: Vec<Vec<f32>> = outcomes
            .into_iter()
            .flat_map(|outcome| match outcome.unwrap().value.embedding {
                TextVectors::Pooled(vector) => vec![vector],
                TextVectors::Tokens(vectors) => vectors,
                TextVectors::Sparse(_) => panic!("dense vectors were asked for"),
            })
            .collect();
        let (precision, what) = (precision(&case), format!("{}: {options}", case["precision"]));
        let ours = quantize(&vectors, precision, ranges(&case["ranges"])).unwrap();
        if case["own"] != true {
            assert!(same(ours.values(), precision, &case["output"]), "{what}: {:?}", ours.values());
            continue;
        }
        // The highest value is 255 steps above the lowest, or 254 if its last bits have it so.
        let expected = integers(&case["output"]);
        assert_eq!(ours.values().len(), expected.len(), "{what}");
        let near = |(ours, expected): (i16, &i16)| {
            ours == *expected || (ours.min(*expected), ours.max(*expected)) == (126, 127)
        };
        assert!(ours.values().numbers().zip(&expected).all(near), "{what}: {:?} is not {expected:?}", ours.values());
    }
}
