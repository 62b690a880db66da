use serde_json::{Value, json};

use super::*;

fn repository(path: &str) -> String {
    format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))
}

fn ettin() -> Tokenizer {
    Tokenizer::load(&ModelFiles::folder(repository("models/tokenizer")).unwrap()).unwrap()
}

fn nano() -> Tokenizer {
    Tokenizer::load(&ModelFiles::folder(repository("models/nano-encoder")).unwrap()).unwrap()
}

fn limit(tokens: usize, truncate: Truncate) -> Limit {
    Limit::new(tokens, truncate)
}

#[test]
fn golden_ids() {
    let text = std::fs::read_to_string(repository("tests/fixtures/tokenizer_goldens.json")).unwrap();
    let goldens: Value = serde_json::from_str(&text).unwrap();
    let tokenizer = ettin();
    for (key, special) in [("with_specials", true), ("without_specials", false)] {
        let cases = goldens[key].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text, None, special).unwrap().ids;
            assert_eq!(json!(ids), case["ids"], "{text:?}");
            if !special {
                assert_eq!(tokenizer.ids(text).unwrap(), ids);
            }
        }
    }
}

#[test]
fn special_ids_come_from_the_models_own_files() {
    let special = nano().special().clone();
    let expected = SpecialIds {
        pad: Some(0),
        unk: Some(1),
        cls: Some(2),
        sep: Some(3),
        mask: Some(4),
        bos: Some(2),
        eos: vec![3],
        eos_of_model: vec![3],
    };
    assert_eq!(special, expected);
    assert_eq!(ettin().special().mask, Some(50284));
}

#[test]
fn stated_ids_win_over_usual_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::copy(repository("models/nano-encoder/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    file("tokenizer_config.json", r#"{"mask_token": {"content": "[UNK]"}, "added_tokens_decoder": {}}"#);
    // Not read beside an `added_tokens_decoder`.
    file("special_tokens_map.json", r#"{"mask_token": "[PAD]", "cls_token": "[SEP]"}"#);
    file("config.json", r#"{"bos_token_id": 4, "eos_token_id": [7, 6], "vocab_size": 8192}"#);
    file("generation_config.json", r#"{"eos_token_id": 9}"#);
    let tokenizer = Tokenizer::load(&ModelFiles::folder(folder.path()).unwrap()).unwrap();
    let special = tokenizer.special();
    assert_eq!((special.mask, special.cls, special.bos), (Some(1), Some(2), Some(4)));
    assert_eq!((&special.eos[..], &special.eos_of_model[..]), (&[9][..], &[6, 7][..]));
}

#[test]
fn a_generation_config_that_cannot_be_read_stops_no_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::copy(repository("models/nano-encoder/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    file("config.json", r#"{"eos_token_id": 7, "vocab_size": 8192}"#);
    for text in ["junk", "[]", r#"{"eos_token_id": "</s>"}"#] {
        file("generation_config.json", text);
        let tokenizer = Tokenizer::load(&ModelFiles::folder(folder.path()).unwrap()).unwrap();
        assert_eq!(tokenizer.special().eos, [7], "{text}");
    }
}

#[test]
fn special_ids_beyond_the_vocabulary_are_no_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::copy(repository("models/nano-encoder/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    file(
        "config.json",
        r#"{"vocab_size": 4, "bos_token_id": 50281, "cls_token_id": 50281,
            "eos_token_id": [50282, -1], "pad_token_id": 9}"#,
    );
    file("tokenizer_config.json", r#"{"mask_token": "[MASK]", "unk_token": "capital"}"#);
    let tokenizer = Tokenizer::load(&ModelFiles::folder(folder.path()).unwrap()).unwrap();
    let special = tokenizer.special();
    assert_eq!((special.bos, special.cls, special.sep, special.pad), (Some(2), Some(2), Some(3), Some(0)));
    assert_eq!((special.mask, special.unk), (None, Some(1)));
    assert_eq!(special.eos, [3]);
}

#[test]
fn ids_outside_the_vocabulary_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(repository("models/nano-encoder/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"vocab_size": 300}"#).unwrap();
    let tokenizer = Tokenizer::load(&ModelFiles::folder(folder.path()).unwrap()).unwrap();
    assert!(tokenizer.encode("a", None, true).is_ok());
    for error in [tokenizer.encode("capital", None, true).unwrap_err(), tokenizer.ids("capital").unwrap_err()] {
        assert!(error.to_string().contains("vocabulary of 300"), "{error}");
    }
}

#[test]
fn both_spellings_of_merges_load() {
    let text = std::fs::read_to_string(repository("models/nano-encoder/tokenizer.json")).unwrap();
    let mut pairs: Value = serde_json::from_str(&text).unwrap();
    let merges = pairs["model"]["merges"].as_array_mut().unwrap();
    assert!(merges[0].is_array());
    for merge in merges {
        *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
    }
    let old = Tokenizer::from_bytes(pairs.to_string().as_bytes()).unwrap();
    let text = "The capital of France is [MASK].";
    assert_eq!(old.encode(text, None, true).unwrap(), nano().encode(text, None, true).unwrap());
}

#[test]
fn padding_and_truncation_of_the_file_are_ignored() {
    let text = std::fs::read_to_string(repository("models/nano-encoder/tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    file["truncation"] = json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"
    });
    let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
    assert_eq!(
        tokenizer.encode("one two three", None, true).unwrap(),
        nano().encode("one two three", None, true).unwrap()
    );
}

#[test]
fn offsets_count_unicode_scalars() {
    let text = "né 🚀 中x";
    let encoding = ettin().encode(text, None, true).unwrap();
    let scalars: Vec<char> = text.chars().collect();
    for (index, &(start, end)) in encoding.offsets.iter().enumerate() {
        assert!(start <= end && end <= scalars.len());
        assert_eq!(encoding.special[index], encoding.sequences[index].is_none());
    }
    let last = encoding.offsets[encoding.offsets.len() - 2];
    assert_eq!(last, (scalars.len() - 1, scalars.len()));
}

#[test]
fn truncation_keeps_the_special_tokens_and_says_so() {
    let tokenizer = nano();
    let text = "one two three four five six seven eight nine ten";
    let whole = tokenizer.encode(text, None, true).unwrap();
    assert!(!whole.truncated);
    let len = whole.ids.len();
    assert_eq!(tokenizer.encode_within(text, None, limit(len, Truncate::Error)).unwrap(), whole);
    let error = tokenizer.encode_within(text, None, limit(len - 1, Truncate::Error)).unwrap_err();
    assert!(matches!(error, Error::TooLong { tokens, limit, .. } if tokens == len && limit == len - 1));

    let right = tokenizer.encode_within(text, None, limit(6, Truncate::Right)).unwrap();
    let left = tokenizer.encode_within(text, None, limit(6, Truncate::Left)).unwrap();
    assert!(right.truncated && left.truncated);
    assert_eq!(right.ids, [&whole.ids[..5], &[3]].concat());
    assert_eq!(left.ids, [&[2], &whole.ids[len - 5..]].concat());
    assert_eq!(left.offsets[1..], whole.offsets[len - 5..]);
    for tokens in 0..3 {
        let result = tokenizer.encode_within(text, None, limit(tokens, Truncate::Right));
        assert!(matches!(result, Err(Error::NoRoom { special: 2, .. })), "{tokens}");
        let result = tokenizer.encode_within(text, None, limit(tokens, Truncate::Error));
        assert!(matches!(result, Err(Error::TooLong { .. })), "{tokens}");
    }
    let error = tokenizer.encode_within(text, None, limit(2, Truncate::Right)).unwrap_err().to_string();
    assert!(error.contains("leaves no room for text beside 2 special tokens") && !error.contains("side to"), "{error}");
}

#[test]
fn the_longer_text_of_a_pair_is_cut_first() {
    let tokenizer = nano();
    let (short, long) = ("one two", "one two three four five six seven eight");
    let kept = tokenizer.ids(short).unwrap().len();
    let encoding = tokenizer.encode_within(short, Some(long), limit(kept + 6, Truncate::Right)).unwrap();
    let count = |side| encoding.sequences.iter().filter(|&&sequence| sequence == Some(side)).count();
    assert_eq!((count(0), count(1)), (kept, 3));
    assert_eq!(encoding.ids.len(), kept + 6);
    assert!(encoding.truncated);
}

#[test]
fn windows_cover_the_long_text_and_overlap() {
    let tokenizer = nano();
    let long = "one two three four five six seven eight nine ten eleven twelve";
    let all = tokenizer.ids(long).unwrap();
    let question = tokenizer.ids("who?").unwrap().len();
    let most = question + 3 + 6;
    let windows = tokenizer.encode_windows("who?", long, limit(most, Truncate::Error), 2).unwrap();
    assert!(windows.len() > 2);
    let mut covered: Vec<u32> = Vec::new();
    for (index, window) in windows.iter().enumerate() {
        assert!(window.ids.len() <= most);
        let ids = window.ids.iter().zip(&window.sequences);
        let part: Vec<u32> = ids.filter(|(_, sequence)| **sequence == Some(1)).map(|(id, _)| *id).collect();
        let skip = if index == 0 { 0 } else { 2 };
        covered.extend(&part[skip..]);
    }
    assert_eq!(covered, all);
    let full = limit(question + 3, Truncate::Error);
    assert!(matches!(tokenizer.encode_windows("who?", long, full, 2), Err(Error::TooLong { .. })));
    assert_eq!(tokenizer.encode_windows("who?", "", limit(most, Truncate::Error), 2).unwrap().len(), 1);
}

#[test]
fn streamed_text_equals_decoded_text() {
    let tokenizer = ettin();
    let mut ids = tokenizer.ids("Ångström 中文 🚀🚀 a\u{FFFD}b, naïve; 日本語").unwrap();
    // Bytes that form no character, between and at the end.
    let stray = tokenizer.ids("🚀").unwrap()[0];
    ids.insert(3, stray);
    ids.insert(7, stray);
    ids.push(50282);
    ids.push(stray);
    let mut stream = tokenizer.stream();
    let mut text = String::new();
    for &id in &ids {
        text += &stream.push(id).unwrap();
    }
    assert!(!text.ends_with('\u{FFFD}'));
    text += &stream.finish().unwrap();
    assert_eq!(text, tokenizer.decode(&ids, true).unwrap());
}

#[test]
fn bytes_that_form_no_character_are_not_held_forever() {
    let tokenizer = ettin();
    let rocket = tokenizer.ids("🚀").unwrap();
    assert!(rocket.len() > 1);
    let stray = [rocket[0]; 50];
    let last = [rocket[rocket.len() - 1]; 50];
    for ids in [&stray[..], &last, &[stray.as_slice(), &rocket, &last].concat()] {
        let mut stream = tokenizer.stream();
        let mut text = String::new();
        for (index, &id) in ids.iter().enumerate() {
            text += &stream.push(id).unwrap();
            assert!(text.chars().count() + 8 > index / 2, "held back at {index}");
        }
        text += &stream.finish().unwrap();
        assert_eq!(text, tokenizer.decode(ids, true).unwrap());
    }
}

#[test]
fn characters_cut_anywhere_are_streamed_whole() {
    // The bytes of a rocket in the spelling of byte-level BPE; one token ends a character and begins another.
    let file = r#"{"version": "1.0",
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "added_tokens": [{"id": 5, "content": "[X]", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}],
        "model": {"type": "BPE", "merges": [], "vocab": {"ð": 0, "Ł": 1, "ļ": 2, "Ģ": 3, "ŁļĢð": 4}}}"#;
    let tokenizer = Tokenizer::from_bytes(file.as_bytes()).unwrap();
    let cases: [&[u32]; 5] = [
        &[0, 1, 2, 3],
        &[0, 4, 1, 2, 3],
        &[0, 4, 4, 4, 4, 4, 1, 2, 3],
        &[2, 0, 5, 5, 5, 1, 5, 2, 5, 5, 5, 5, 3],
        &[0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 3, 0, 1, 2, 3, 5],
    ];
    for ids in cases {
        let mut stream = tokenizer.stream();
        let mut text = String::new();
        for &id in ids {
            text += &stream.push(id).unwrap();
        }
        text += &stream.finish().unwrap();
        assert_eq!(text, tokenizer.decode(ids, true).unwrap(), "{ids:?}");
        assert!(text.contains('🚀') || ids.len() > 16, "{ids:?} {text}");
    }
}

#[test]
fn malformed_files_are_errors() {
    for bytes in [&b""[..], b"{", b"[]", b"null", b"{\"model\": {}}", b"\xff\xfe"] {
        assert!(matches!(Tokenizer::from_bytes(bytes), Err(Error::Tokenizer(_))));
    }
}

#[test]
fn files_that_the_tokenizers_crate_panics_on_are_errors() {
    let file = |part: &str| {
        format!(r#"{{"version": "1.0", "model": {{"type": "BPE", "vocab": {{}}, "merges": []}}, {part}}}"#)
    };
    let refusal = |part: &str| Tokenizer::from_bytes(file(part).as_bytes()).unwrap_err().to_string();
    assert!(Tokenizer::from_bytes(file(r#""decoder": {"type": "Fuse"}"#).as_bytes()).is_ok());
    assert!(refusal("\"decoder\": {\"type\": \"Fu\u{1}se\"}").contains("control character"));
    assert!(refusal(r#""decoder": {"type": 1e999}"#).contains("out of range"));
    let precompiled = r#"{"type": "Precompiled", "precompiled_charsmap": "AAAA"}"#;
    assert!(refusal(&format!(r#""normalizer": {precompiled}"#)).contains("Precompiled"));
    let listed = format!(r#""normalizer": {{"type": "Sequence", "normalizers": [{precompiled}]}}"#);
    assert!(refusal(&listed).contains("Precompiled"));
    let template = |single: &str, ids: &str| {
        format!(
            r#""post_processor": {{"type": "Sequence", "processors": [{{"type": "TemplateProcessing",
            "single": [{single}, {{"Sequence": {{"id": "A", "type_id": 0}}}}], "pair": [],
            "special_tokens": {{"[CLS]": {{"id": "[CLS]", "ids": {ids}, "tokens": ["[CLS]"]}}}}}}]}}"#
        )
    };
    let special = |name: &str| format!(r#"{{"SpecialToken": {{"id": "{name}", "type_id": 0}}}}"#);
    assert!(Tokenizer::from_bytes(file(&template(&special("[CLS]"), "[1]")).as_bytes()).is_ok());
    assert!(refusal(&template(&special("[SEP]"), "[1]")).contains("names `[SEP]`"));
    assert!(refusal(&template(&special("[CLS]"), "[1, 2]")).contains("as many ids"));
    let second = r#"{"Sequence": {"id": "B", "type_id": 0}}"#;
    assert!(refusal(&template(second, "[1]")).contains("second sequence"));
    let prefixed = r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]],
        "continuing_subword_prefix": "____"}}"#;
    let error = Tokenizer::from_bytes(prefixed.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("continuing_subword_prefix"), "{error}");
}

/// Texts of a pair are encoded apart by the tokenizer itself, so that one may be encoded once for many pairs.
#[test]
fn pairs_of_parts_are_the_pairs_that_are_encoded_whole() {
    let texts = ["", " ", "A cat.", "  Two spaces", "x", "Zoë's 日本語 👩‍👩‍👧", "[SEP] a [MASK] b", "the end\n"];
    let kinds = ["byte-fallback", "byte-level", "metaspace", "metaspace-never", "suffix", "word-piece", "words"];
    let small = kinds.map(|kind| {
        let file = repository(&format!("tests/fixtures/tokenizers/{kind}/tokenizer.json"));
        Tokenizer::from_bytes(&std::fs::read(file).unwrap()).unwrap()
    });
    for tokenizer in [ettin(), nano()].iter().chain(&small) {
        for (first, second) in texts.iter().flat_map(|first| texts.iter().map(move |second| (*first, *second))) {
            let parts = (tokenizer.part(first).unwrap(), tokenizer.part(second).unwrap());
            for special in [true, false] {
                for tokens in [4, 6, 8, 1000] {
                    let limit = limit(tokens, Truncate::Right);
                    let pair = tokenizer.pair(&parts.0, &parts.1, special, PairCut::LongestFirst, limit);
                    let whole = tokenizer.within(first, Some(second), special, limit);
                    let whole = whole.map(|whole| (whole.ids, whole.truncated));
                    let pair = pair.map(|pair| (pair.ids, pair.truncated));
                    assert_eq!(pair.unwrap(), whole.unwrap(), "{first:?} {second:?}");
                }
            }
        }
    }
}

#[test]
fn a_first_text_alone_is_cut_as_long_as_a_token_of_it_is_left() {
    let tokenizer = nano();
    let (first, second) = (tokenizer.part(" a b c d e").unwrap(), tokenizer.part(" f g").unwrap());
    let ids = |text: &str| tokenizer.ids(text).unwrap();
    let pair = |tokens: usize, truncate: Truncate, whole: usize| {
        tokenizer.pair(&first, &second, true, PairCut::FirstAlone { whole }, limit(tokens, truncate))
    };
    let joined = |first: &str| [&[2], &ids(first)[..], &[3], &ids(" f g"), &[3]].concat();
    assert_eq!(pair(10, Truncate::Error, 0).unwrap(), PairIds { ids: joined(" a b c d e"), truncated: false });
    assert_eq!(pair(8, Truncate::Right, 0).unwrap(), PairIds { ids: joined(" a b c"), truncated: true });
    assert_eq!(pair(8, Truncate::Left, 0).unwrap(), PairIds { ids: joined(" c d e"), truncated: true });
    assert_eq!(pair(6, Truncate::Right, 0).unwrap(), PairIds { ids: joined(" a"), truncated: true });
    assert!(matches!(pair(9, Truncate::Error, 100), Err(Error::TooLong { tokens: 10, limit: 9, .. })));
    // Nothing would be left of it: whole, if that is few enough.
    for tokens in [4, 5] {
        assert_eq!(pair(tokens, Truncate::Right, 10).unwrap(), PairIds { ids: joined(" a b c d e"), truncated: false });
        let refused = pair(tokens, Truncate::Right, 9).unwrap_err().to_string();
        assert!(refused.contains("the second text is never cut"), "{refused}");
    }
    assert!(matches!(pair(3, Truncate::Right, 10), Err(Error::NoRoom { .. })));
}
