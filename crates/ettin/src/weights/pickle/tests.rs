use super::*;

/// Protocol 2, the body, `STOP`.
fn read(body: &[u8]) -> Result<Vec<(String, PickledTensor)>, String> {
    read_state_dict(&[b"\x80\x02", body, b"."].concat())
}

fn refusal(body: &[u8]) -> String {
    read(body).unwrap_err()
}

/// `name: tensor` of a `[2, 3]` f32 tensor, as torch pickles it, without memo entries.
fn item(storage: &str) -> Vec<u8> {
    [
        b"X\x01\0\0\0w".as_slice(),
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"((X\x07\0\0\0storagectorch\n",
        storage.as_bytes(),
        b"\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

fn state_dict(items: &[u8]) -> Vec<u8> {
    [b"ccollections\nOrderedDict\n)R(", items, b"u"].concat()
}

#[test]
fn a_state_dict_is_read() {
    let tensors = read(&state_dict(&item("FloatStorage"))).unwrap();
    let expected = PickledTensor {
        storage: "0".to_owned(),
        dtype: StoredType::Known(StoredDtype::F32),
        storage_len: 6,
        offset: 0,
        shape: vec![2, 3],
        strides: vec![3, 1],
    };
    assert_eq!(tensors, [("w".to_owned(), expected)]);
}

#[test]
fn a_plain_dict_does_as_well_and_attributes_are_dropped() {
    let body = [b"}(".as_slice(), &item("HalfStorage"), b"u}X\x09\0\0\0_metadataNsb"].concat();
    assert_eq!(read(&body).unwrap()[0].1.dtype, StoredType::Known(StoredDtype::F16));
}

#[test]
fn integer_storages_are_noted_not_refused() {
    let tensors = read(&state_dict(&item("LongStorage"))).unwrap();
    assert_eq!(tensors[0].1.dtype, StoredType::Foreign("LongStorage".to_owned()));
}

#[test]
fn forbidden_globals_are_refused_by_name() {
    assert!(refusal(b"cos\nsystem\nX\x02\0\0\0ls\x85R").contains("`os.system`"));
    // The same by protocol 4's opcode, and as an attribute of an allowed module.
    assert!(refusal(b"\x8c\x02os\x8c\x06system\x93").contains("`os.system`"));
    assert!(refusal(b"ctorch\nload\n").contains("`torch.load`"));
    assert!(refusal(b"cbuiltins\neval\n").contains("`builtins.eval`"));
    // A hostile name does not reach the terminal as it is.
    assert!(!refusal(b"c\x1b[2J\nx\n").contains('\x1b'));
}

#[test]
fn only_the_known_calls_are_made() {
    assert!(refusal(b"ctorch\nFloatStorage\n)R").contains("called with 0 arguments"));
    assert!(refusal(b"ccollections\nOrderedDict\nN\x85R").contains("called with 1 arguments"));
    assert!(refusal(b"K\x01)R").contains("no known function"));
    assert!(refusal(b"N\x81").contains("opcode 0x81"));
    assert!(refusal(b"(i").contains("opcode 0x69"));
}

#[test]
fn nested_checkpoints_are_told_apart() {
    let body = [b"}X\x0a\0\0\0state_dict".as_slice(), &state_dict(&item("FloatStorage")), b"s"].concat();
    assert!(refusal(&body).contains("`state_dict` is a dict inside the dict"));
    assert!(refusal(b"}X\x05\0\0\0epochK\x03s").contains("`epoch` is no tensor"));
    assert!(refusal(b"K\x01").contains("no dict of tensors"));
}

#[test]
fn the_stack_cannot_be_abused() {
    assert!(refusal(b"").contains("empty stack"));
    assert!(refusal(b"t").contains("without a beginning"));
    assert!(refusal(b"N(\x85").contains("empty stack"));
    assert!(refusal(b"N(\x94").contains("empty stack"));
    assert!(refusal(b"h\x07").contains("never remembered"));
    assert!(refusal(b"NNs").contains("empty stack") || refusal(b"NNs").contains("no dict"));
    assert!(refusal(b"NN\x86a").contains("no list") || refusal(b"NN\x86a").contains("empty"));
}

#[test]
fn sizes_are_bounded() {
    let flood = |opcode: &[u8]| refusal(&opcode.repeat(MAX_VALUES + 1));
    assert!(flood(b"N").contains("on the stack"));
    assert!(flood(b")").contains("more than"));
    assert!(flood(b"(").contains("open marks"));
    // A million tuples nested in each other: no recursion, so no overflow.
    let nested = [b")".as_slice(), &b"\x85".repeat(MAX_VALUES - 1)].concat();
    assert!(refusal(&nested).contains("no dict of tensors"));
    // Lying lengths.
    assert!(refusal(b"X\xff\xff\xff\xff").contains("in the middle"));
    assert!(refusal(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff").contains("in the middle"));
    assert!(refusal(b"\x8a\xff").contains("in the middle"));
    assert!(refusal(b"\x8a\x09123456789").contains("9 bytes"));
    assert!(read_state_dict(&vec![b'N'; MAX_BYTES + 1]).is_err());
}

#[test]
fn shapes_must_be_sizes() {
    let good = state_dict(&item("FloatStorage"));
    let at = good.windows(6).position(|w| w == b"K\x02K\x03\x86K").unwrap();
    let mut bad = good.clone();
    // BININT1 2 becomes NONE NONE.
    bad[at..at + 2].copy_from_slice(b"NN");
    assert!(read(&bad).is_err());
    let negative = [&good[..at], b"J\xff\xff\xff\xff", &good[at + 2..]].concat();
    assert!(refusal(&negative).contains("-1 is no size"));
}

#[test]
fn no_input_makes_it_panic() {
    let good = [b"\x80\x02".as_slice(), &state_dict(&item("FloatStorage")), b"."].concat();
    for end in 0..good.len() {
        assert!(read_state_dict(&good[..end]).is_err(), "cut at {end}");
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 20) as u8;
        }
        let _ = read_state_dict(&bytes);
    }
}
