//! `embed --format npy` and `safetensors`.

use safetensors::SafeTensors;

use crate::support::{Run, pipe, run};

/// Shape and values of an `.npy` file of f32.
fn npy(bytes: &[u8]) -> ((usize, usize), Vec<f32>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let length = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
    assert!(header.contains("'descr': '<f4', 'fortran_order': False"), "{header}");
    let shape = header.split('(').nth(1).unwrap().split(')').next().unwrap();
    let (rows, columns) = shape.split_once(", ").unwrap();
    let shape = (rows.parse().unwrap(), columns.parse().unwrap());
    (shape, floats(&bytes[10 + length..]))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    bytes.chunks_exact(4).map(float).collect()
}

/// All vectors of a JSON run, one after the other.
fn values(run: &Run, status: i32) -> Vec<f32> {
    let lines = run.lines(status);
    let vectors = lines.iter().flat_map(|line| line["embedding"].as_array().unwrap());
    vectors.map(|value| value.as_f64().unwrap() as f32).collect()
}

#[test]
fn arrays_hold_the_same_numbers() {
    let texts = ["embed", "-q", "One.", "Two words."];
    let expected = values(&run(&texts), 0);
    let out = run(&[&texts[..], &["--format", "npy"]].concat());
    assert_eq!(out.status, Some(0), "{}", out.err);
    assert_eq!(npy(&out.out), ((2, 256), expected.clone()));
    let out = run(&[&texts[..], &["--format", "safetensors"]].concat());
    let file = SafeTensors::deserialize(&out.out).unwrap();
    let embeddings = file.tensor("embeddings").unwrap();
    assert_eq!(embeddings.shape(), [2, 256]);
    assert_eq!(floats(embeddings.data()), expected);
}

#[test]
fn bad_inputs_are_rows_of_nan() {
    let input = format!("{}\nshort\n", "word ".repeat(3000));
    let out = pipe(&["embed", "-q", "--format", "npy"], input);
    assert_eq!(out.status, Some(1));
    let ((rows, columns), values) = npy(&out.out);
    assert_eq!((rows, columns), (2, 256));
    assert!(values[..256].iter().all(|value| value.is_nan()));
    assert_eq!(values[256..], self::values(&run(&["embed", "-q", "short"]), 0));
}

#[test]
fn an_array_of_no_rows_has_the_width_of_the_model() {
    let empty = |flags: &[&str]| pipe(&[&["embed", "-q"], flags].concat(), "").out;
    assert_eq!(npy(&empty(&["--format", "npy"])), ((0, 256), Vec::new()));
    assert_eq!(npy(&empty(&["--format", "npy", "--dimensions", "8", "--normalize"])).0, (0, 8));
    let dense = ["--format", "npy", "--model", "models/tiny-text-chain-max-dense"];
    assert_eq!(npy(&empty(&dense)).0, (0, 16));
    for (flags, offsets) in [(&[][..], None), (&["--pooling", "none"], Some(&[0; 8][..]))] {
        let out = empty(&[&["--format", "safetensors"], flags].concat());
        let file = SafeTensors::deserialize(&out).unwrap();
        let embeddings = file.tensor("embeddings").unwrap();
        assert_eq!((embeddings.shape(), embeddings.dtype()), (&[0, 256][..], safetensors::Dtype::F32));
        assert_eq!(file.tensor("offsets").ok().map(|offsets| offsets.data().to_vec()).as_deref(), offsets);
    }
    // Rows that are all bad are rows of that width.
    let out = pipe(&["embed", "-q", "--format", "npy"], "word ".repeat(3000) + "\n");
    assert_eq!(out.status, Some(1));
    let (shape, values) = npy(&out.out);
    assert_eq!(shape, (1, 256));
    assert!(values.iter().all(|value| value.is_nan()));
}

#[test]
fn a_blank_line_has_a_row() {
    let out = pipe(&["embed", "-q", "--format", "npy"], "One.\n\nTwo words.\n");
    let ((rows, _), values) = npy(&out.out);
    assert_eq!((out.status, rows), (Some(0), 3));
    assert_eq!(values, self::values(&run(&["embed", "-q", "One.", "", "Two words."]), 0));
    let out = pipe(&["embed", "-q", "--format", "npy", "--skip-blank"], "One.\n\nTwo words.\n");
    assert_eq!(npy(&out.out).1, self::values(&run(&["embed", "-q", "One.", "Two words."]), 0));
}

#[test]
fn token_vectors_come_with_offsets() {
    let out = run(&["embed", "-q", "--pooling", "none", "--format", "safetensors", "One.", "One. Two."]);
    let file = SafeTensors::deserialize(&out.out).unwrap();
    let offsets: Vec<i64> = file
        .tensor("offsets")
        .unwrap()
        .data()
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    // [CLS] One . [SEP] and [CLS] One . Two . [SEP]
    assert_eq!(offsets, [0, 4, 10]);
    assert_eq!(file.tensor("embeddings").unwrap().shape(), [10, 256]);
    let lines = run(&["embed", "-q", "--pooling", "none", "One."]).lines(0);
    assert_eq!(lines[0]["embedding"].as_array().unwrap().len(), 4);
}

#[test]
fn flags_change_what_they_say() {
    let embed = |flags: &[&str]| values(&run(&[&["embed", "-q", "Some text."], flags].concat()), 0);
    let norm = |vector: &[f32]| vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((norm(&embed(&["--normalize"])) - 1.0).abs() < 1e-5);
    assert!(norm(&embed(&["--no-normalize"])) > 2.0);
    assert_eq!(embed(&["--dimensions", "8"]), embed(&[])[..8]);
    assert!((norm(&embed(&["--normalize", "--dimensions", "8"])) - 1.0).abs() < 1e-5);
    assert_ne!(embed(&["--layer", "2"]), embed(&[]));
    assert_eq!(embed(&["--layer", "6"]), embed(&[]));
    assert_eq!(embed(&["--pooling", "mean"]), embed(&[]));
}
