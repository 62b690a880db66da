//! Prefixes of tensor names: one error that names the prefix, and a command that removes it.

use ettin::files::ModelFiles;
use ettin::heads::{LanguageModel, SequenceClassifier};
use ettin::tasks::{EmbedRequest, Options, TextEmbedder, TextVectors};
use ettin::weights::{ConvertOptions, convert};
use ettin::{Backend, Error, Result};

use crate::{copied, rename_tensors};

fn vector(files: &ModelFiles) -> Result<Vec<f32>> {
    let outcome =
        TextEmbedder::load(files, &Options::default())?.run(&["a cat"], &EmbedRequest::default())?.remove(0)?;
    match outcome.value.embedding {
        TextVectors::Pooled(vector) => Ok(vector),
        _ => unreachable!("one vector per text was asked for"),
    }
}

/// The refusal of a model whose names were changed so, and what the named command leaves.
fn mended(model: &str, prefix: &str, rename: impl Fn(&str) -> Option<String>) -> (String, tempfile::TempDir) {
    let folder = copied(model);
    rename_tensors(folder.path(), rename);
    let files = ModelFiles::folder(folder.path()).unwrap();
    let error = vector(&files).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("`{prefix}`")), "{text}");
    let Error::TensorPrefix { folder: named, prefix: found, .. } = error else {
        panic!("{text}");
    };
    assert_eq!((named.as_path(), found.as_str()), (folder.path(), prefix));
    assert!(!text.contains("is missing"), "{text}");
    let out = tempfile::tempdir().unwrap();
    let options = ConvertOptions::default().with_strip_prefix(prefix);
    convert(&files, out.path(), options, &mut |_| {}).unwrap();
    (text, out)
}

fn bare(name: &str) -> &str {
    name.strip_prefix("model.").unwrap_or(name)
}

#[test]
fn a_prefix_before_every_name_is_named_and_can_be_removed() {
    let expected = vector(&ModelFiles::folder(copied("tiny-text-chain-mean").path()).unwrap()).unwrap();
    for (put, named) in [
        ("_orig_mod.", "_orig_mod."),
        ("module.", "module."),
        ("_orig_mod.module.", "_orig_mod.module."),
        ("module._orig_mod.", "module._orig_mod."),
        ("auto_model.", "auto_model."),
        ("0.auto_model.", "0.auto_model."),
        ("encoder.", "encoder."),
        ("bert.", "bert."),
        // `model.` itself is what trunks are looked for under.
        ("model.model.", "model."),
        ("0.model.", "0."),
        ("base_model.model.model.", "base_model.model."),
    ] {
        let (text, out) = mended("tiny-text-chain-mean", named, |name| Some(format!("{put}{}", bare(name))));
        assert!(text.contains("every name"), "{text}");
        assert_eq!(vector(&ModelFiles::folder(out.path()).unwrap()).unwrap(), expected, "{put}");
    }
    // Taking more off leaves the names of a base model.
    let folder = copied("tiny-text-chain-mean");
    rename_tensors(folder.path(), |name| Some(format!("model.model.{}", bare(name))));
    let out = tempfile::tempdir().unwrap();
    let options = ConvertOptions::default().with_strip_prefix("model.model.");
    convert(&ModelFiles::folder(folder.path()).unwrap(), out.path(), options, &mut |_| {}).unwrap();
    assert_eq!(vector(&ModelFiles::folder(out.path()).unwrap()).unwrap(), expected);
}

/// The shortest prefix keeps what tells heads from the trunk.
#[test]
fn a_whole_model_under_a_prefix_keeps_its_head() {
    for prefix in ["_orig_mod.", "module.", "model.", "student."] {
        let (_, out) = mended("tiny-text-classify-single", prefix, |name| Some(format!("{prefix}{name}")));
        SequenceClassifier::load(&ModelFiles::folder(out.path()).unwrap(), &Backend::cpu().unwrap()).unwrap();
    }
    let folder = copied("tiny-encoder");
    rename_tensors(folder.path(), |name| Some(format!("_orig_mod.{name}")));
    let error = LanguageModel::load(&ModelFiles::folder(folder.path()).unwrap(), &Backend::cpu().unwrap()).unwrap_err();
    assert!(matches!(&error, Error::TensorPrefix { prefix, .. } if prefix == "_orig_mod."), "{error}");
}

/// A state dict of a SentenceTransformer holds its Dense modules, too; a classifier may keep its own names beside
/// `bert.`.
#[test]
fn a_prefix_of_the_trunk_alone_is_counted() {
    let trunk = |name: &str| match name.strip_prefix("model.") {
        Some(rest) => Some(format!("bert.{rest}")),
        None => Some(name.to_owned()),
    };
    let (text, out) = mended("tiny-text-classify-single", "bert.", trunk);
    assert!(text.contains(" of ") && text.contains(" names begin with `bert.`"), "{text}");
    SequenceClassifier::load(&ModelFiles::folder(out.path()).unwrap(), &Backend::cpu().unwrap()).unwrap();
}

/// What `torch.compile` of single layers, activation checkpointing and FSDP leave in the middle of names.
#[test]
fn wrappers_inside_names_are_named_and_can_be_removed() {
    let wrapped = |name: &str, wrapper: &str| match name.split_once("layers.").and_then(|(start, rest)| {
        let (number, rest) = rest.split_once('.')?;
        Some(format!("{start}layers.{number}.{wrapper}{rest}"))
    }) {
        Some(wrapped) => wrapped,
        None => name.to_owned(),
    };
    let expected = vector(&ModelFiles::folder(copied("tiny-text-classify-single").path()).unwrap()).unwrap();
    for (before, inside, named) in [
        ("", "_orig_mod.", "_orig_mod."),
        ("", "_checkpoint_wrapped_module.", "_checkpoint_wrapped_module."),
        ("", "_fsdp_wrapped_module.", "_fsdp_wrapped_module."),
        (
            "_fsdp_wrapped_module.",
            "_fsdp_wrapped_module._checkpoint_wrapped_module.",
            "_checkpoint_wrapped_module._fsdp_wrapped_module.",
        ),
        ("module.", "_checkpoint_wrapped_module.", "_checkpoint_wrapped_module.module."),
    ] {
        let rename = |name: &str| Some(format!("{before}{}", wrapped(name, inside)));
        let (text, out) = mended("tiny-text-classify-single", named, rename);
        assert!(text.contains(" names have `") || text.contains("every name"), "{text}");
        let files = ModelFiles::folder(out.path()).unwrap();
        assert_eq!(vector(&files).unwrap(), expected, "{named}");
        SequenceClassifier::load(&files, &Backend::cpu().unwrap()).unwrap();
    }
}

#[test]
fn a_wrapped_head_is_named_by_the_task_that_needs_it() {
    let folder = copied("tiny-text-classify-single");
    rename_tensors(folder.path(), |name| Some(name.replacen("classifier.", "classifier._orig_mod.", 1)));
    let files = ModelFiles::folder(folder.path()).unwrap();
    let error = SequenceClassifier::load(&files, &Backend::cpu().unwrap()).unwrap_err();
    assert!(matches!(&error, Error::TensorPrefix { prefix, .. } if prefix == "_orig_mod."), "{error}");
}

#[test]
fn the_last_dot_of_a_prefix_may_be_left_out() {
    let folder = copied("tiny-text-chain-mean");
    let expected = vector(&ModelFiles::folder(folder.path()).unwrap()).unwrap();
    rename_tensors(folder.path(), |name| Some(format!("module.{}", bare(name))));
    let files = ModelFiles::folder(folder.path()).unwrap();
    let strip = |prefix, out: &tempfile::TempDir| {
        let options = ConvertOptions::default().with_strip_prefix(prefix);
        convert(&files, out.path(), options, &mut |_| {})
    };
    let out = tempfile::tempdir().unwrap();
    strip("module", &out).unwrap();
    assert_eq!(vector(&ModelFiles::folder(out.path()).unwrap()).unwrap(), expected);
    // Part of a name's part is none.
    for wrong in ["mod", "."] {
        assert!(matches!(strip(wrong, &tempfile::tempdir().unwrap()), Err(Error::Input(_))), "{wrong}");
    }
}

#[test]
fn what_is_missing_for_another_reason_is_still_listed() {
    let folder = copied("tiny-text-chain-mean");
    rename_tensors(folder.path(), |name| (!name.ends_with("final_norm.weight")).then(|| format!("module.{name}")));
    let error = vector(&ModelFiles::folder(folder.path()).unwrap()).unwrap_err().to_string();
    assert!(error.contains("`model.final_norm.weight`") && error.contains("is missing"), "{error}");
    assert!(!error.contains("prefix stripped"), "{error}");
}

/// `model.` before every name is how trunks with heads are spelled: no prefix hides what is missing beside them.
#[test]
fn a_missing_head_is_no_prefix() {
    let folder = copied("tiny-text-classify-single");
    rename_tensors(folder.path(), |name| (name != "classifier.bias").then(|| name.to_owned()));
    let classify = |folder: &std::path::Path| {
        SequenceClassifier::load(&ModelFiles::folder(folder).unwrap(), &Backend::cpu().unwrap())
            .unwrap_err()
            .to_string()
    };
    let error = classify(folder.path());
    assert!(
        error.contains("`classifier.bias`") && error.contains("is missing") && !error.contains("prefix stripped"),
        "{error}"
    );
    let error = classify(copied("nano-encoder").path());
    assert!(error.contains("classifier.weight") && !error.contains("prefix stripped"), "{error}");
}

#[test]
fn a_prefix_that_is_not_there_or_leaves_two_of_a_name_is_refused() {
    let folder = copied("tiny-encoder");
    let files = ModelFiles::folder(folder.path()).unwrap();
    let strip = |prefix| {
        let out = tempfile::tempdir().unwrap();
        let options = ConvertOptions::default().with_strip_prefix(prefix);
        convert(&files, out.path(), options, &mut |_| {}).unwrap_err()
    };
    assert!(matches!(strip("module."), Error::Input(_)));
    rename_tensors(folder.path(), |name| match name {
        "head.norm.weight" => Some("module.head.dense.weight".to_owned()),
        name => Some(name.to_owned()),
    });
    let error = strip("module.");
    assert!(matches!(&error, Error::Tensors { message, .. } if message.contains("`head.dense.weight`")), "{error}");
}
