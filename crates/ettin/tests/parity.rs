//! Every model of the fixtures gives the numbers of transformers (eager, f32), layer by layer.

mod common;

use common::{F32, Fixture, assert_close, backend, model, rows, values};
use ettin::{
    PackedBatch,
    heads::{LanguageModel, QuestionAnswering, SequenceClassifier, TokenClassifier},
};

/// Compares hidden states of every layer; the first that diverges is named.
fn check_layers(name: &str, fixture: &Fixture, trunk: &ettin::Trunk, batch: &PackedBatch) {
    let residuals = trunk.residuals(batch).unwrap();
    let last = common::forward(trunk, batch);
    for sequence in 0..batch.sequences() {
        for (layer, ours) in residuals.iter().enumerate() {
            let reference = values(fixture.get(&format!("hidden.{sequence}.{layer}")));
            let what = format!("{name}, sequence {sequence}, hidden state {layer}");
            assert_close(&what, &rows(ours, batch, sequence), &reference, F32);
        }
        let reference = values(fixture.get(&format!("final.{sequence}")));
        let what = format!("{name}, sequence {sequence}, final norm");
        assert_close(&what, &rows(&last, batch, sequence), &reference, F32);
    }
}

fn check_language(name: &str) {
    let fixture = Fixture::load(name);
    let language = LanguageModel::load(&model(name), &backend()).unwrap();
    let batch = PackedBatch::new(&fixture.sequences()).unwrap();
    check_layers(name, &fixture, language.trunk(), &batch);
    let all: Vec<usize> = (0..batch.tokens()).collect();
    let logits = language.logits(&batch, &all).unwrap();
    for sequence in 0..batch.sequences() {
        let reference = values(fixture.get(&format!("logits.{sequence}")));
        let what = format!("{name}, sequence {sequence}, logits");
        assert_close(&what, &rows(&logits, &batch, sequence), &reference, F32);
    }
}

macro_rules! language {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test] fn $test() { check_language($name); })*
    };
}

language! {
    encoder: "tiny-encoder",
    encoder_in_the_older_dialect: "tiny-encoder-older",
    encoder_with_defaults_for_missing_keys: "tiny-encoder-defaults",
    encoder_with_sliding_window_key: "tiny-encoder-sliding-window",
    encoder_with_every_bias: "tiny-encoder-biases",
    encoder_without_decoder_bias: "tiny-encoder-no-decoder-bias",
    encoder_with_untied_output: "tiny-encoder-untied",
    encoder_of_dimensions_that_are_no_whole_panels: "tiny-encoder-uneven",
    decoder_of_dimensions_that_are_no_whole_panels: "tiny-decoder-narrow",
    decoder: "tiny-decoder",
    decoder_in_the_older_dialect: "tiny-decoder-older",
    decoder_with_defaults_for_missing_keys: "tiny-decoder-defaults",
    decoder_with_sliding_window_key: "tiny-decoder-sliding-window",
    decoder_with_every_bias: "tiny-decoder-biases",
    decoder_without_decoder_bias: "tiny-decoder-no-decoder-bias",
    decoder_with_untied_output: "tiny-decoder-untied",
    activation_gelu: "tiny-activation-gelu",
    activation_gelu_new: "tiny-activation-gelu_new",
    activation_gelu_pytorch_tanh: "tiny-activation-gelu_pytorch_tanh",
    activation_silu: "tiny-activation-silu",
    activation_relu: "tiny-activation-relu",
}

fn check_sequence(name: &str) {
    let fixture = Fixture::load(name);
    let classifier = SequenceClassifier::load(&model(name), &backend()).unwrap();
    let batch = PackedBatch::new(&fixture.sequences()).unwrap();
    check_layers(name, &fixture, classifier.trunk(), &batch);
    let logits = classifier.logits(&batch).unwrap();
    for sequence in 0..batch.sequences() {
        let reference = values(fixture.get(&format!("logits.{sequence}")));
        let ours = values(&logits.narrow(0, sequence, 1).unwrap());
        assert_close(&format!("{name}, sequence {sequence}, logits"), &ours, &reference, F32);
    }
}

macro_rules! sequence {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test] fn $test() { check_sequence($name); })*
    };
}

sequence! {
    encoder_classifier_on_cls: "tiny-encoder-sequence-cls",
    encoder_classifier_on_mean: "tiny-encoder-sequence-mean",
    decoder_classifier: "tiny-decoder-sequence",
    decoder_classifier_with_bias: "tiny-decoder-sequence-bias",
    decoder_classifier_with_many_labels: "tiny-decoder-sequence-multi",
    decoder_classifier_with_one_label: "tiny-decoder-sequence-one",
    decoder_regression: "tiny-decoder-sequence-regression",
}

#[test]
fn encoder_token_classifier() {
    let name = "tiny-encoder-token";
    let fixture = Fixture::load(name);
    let classifier = TokenClassifier::load(&model(name), &backend()).unwrap();
    let batch = PackedBatch::new(&fixture.sequences()).unwrap();
    check_layers(name, &fixture, classifier.trunk(), &batch);
    let logits = classifier.logits(&batch).unwrap();
    for sequence in 0..batch.sequences() {
        let reference = values(fixture.get(&format!("logits.{sequence}")));
        assert_close("token logits", &rows(&logits, &batch, sequence), &reference, F32);
    }
}

#[test]
fn encoder_question_answering() {
    let name = "tiny-encoder-answer";
    let fixture = Fixture::load(name);
    let answering = QuestionAnswering::load(&model(name), &backend()).unwrap();
    let batch = PackedBatch::new(&fixture.sequences()).unwrap();
    check_layers(name, &fixture, answering.trunk(), &batch);
    let logits = answering.logits(&batch).unwrap();
    for sequence in 0..batch.sequences() {
        let reference = values(fixture.get(&format!("logits.{sequence}")));
        assert_close("start and end logits", &rows(&logits, &batch, sequence), &reference, F32);
    }
}
