//! A result that is no number is an error that names where it comes from, in its input's place, of every task and in
//! every number format; and what a broken weight does not touch is as it was.

mod common;

use std::{fs, ops::ControlFlow};

use common::{copy, dtypes, root};
use ettin::{Dtype, Error, Pooling, Result, files::ModelFiles, generate::GenerateRequest, tasks::*};
use safetensors::SafeTensors;
use tempfile::TempDir;

/// A model's copy, one number of which is changed.
struct Broken {
    files: ModelFiles,
    _folder: TempDir,
}

impl Broken {
    /// With `value` at `index` of a tensor of `model.safetensors`, or of that in a folder of the model.
    fn new(model: &str, tensor: &str, index: usize, value: f32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&root("models").join(model), folder.path());
        let (place, tensor) = tensor.rsplit_once(':').unwrap_or(("", tensor));
        let path = folder.path().join(place).join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor(tensor).unwrap();
        let wide = view.dtype() == safetensors::Dtype::F32;
        let start = view.data().as_ptr().addr() - bytes.as_ptr().addr();
        if wide {
            bytes[start + 4 * index..][..4].copy_from_slice(&value.to_le_bytes());
        } else {
            bytes[start + 2 * index..][..2].copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
        }
        fs::write(path, bytes).unwrap();
        Self { files: ModelFiles::folder(folder.path()).unwrap(), _folder: folder }
    }
}

fn options(dtype: Dtype) -> Options {
    Options::default().with_dtype(dtype)
}

const TEXTS: [&str; 2] = ["Ada Lovelace was born in London.", "Where was Apple founded?"];

/// What is asked of a task: every result of two inputs.
type Asked = fn(&ModelFiles, &Options) -> Vec<Result<()>>;

fn ends<T>(outcomes: Outcomes<T>) -> Vec<Result<()>> {
    outcomes.into_iter().map(|outcome| outcome.map(drop)).collect()
}

fn embed(files: &ModelFiles, options: &Options, request: EmbedRequest) -> Vec<Result<()>> {
    ends(TextEmbedder::load(files, options).unwrap().run(&TEXTS, &request).unwrap())
}

fn pooled(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    embed(files, options, EmbedRequest::default().with_normalize(true))
}

fn largest(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    embed(files, options, EmbedRequest::default().with_pooling(Pooling::Max))
}

fn by_token(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    embed(files, options, EmbedRequest::default().with_per_token(true))
}

fn second_layer(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    embed(files, options, EmbedRequest::default().with_layer(2))
}

fn similarity(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    let inputs = [0, 1].map(|a| SimilarityInput { a: TEXTS[a], b: vec![TEXTS[1 - a]] });
    ends(TextEmbedder::load(files, options).unwrap().similarity(&inputs, &EmbedRequest::default()).unwrap())
}

fn classify(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    ends(Classifier::load(files, options).unwrap().run(&TEXTS.map(Into::into), &ClassifyRequest::default()).unwrap())
}

fn tag(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    ends(Tagger::load(files, options).unwrap().run(&TEXTS, &TagRequest::default()).unwrap())
}

fn answer(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    let questions = [0, 1].map(|text| Question { question: "Where?", context: TEXTS[text] });
    ends(Answerer::load(files, options).unwrap().run(&questions, &AnswerRequest::default()).unwrap())
}

fn rerank(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    let inputs = [0, 1].map(|text| RerankInput { query: TEXTS[text], documents: TEXTS.to_vec() });
    ends(Reranker::load(files, options).unwrap().run(&inputs, &RerankRequest::default()).unwrap())
}

fn fill(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    let texts = TEXTS.map(|text| format!("{text} It is a [MASK] city."));
    ends(FillMask::load(files, options).unwrap().run(&texts.each_ref().map(String::as_str), 3).unwrap())
}

fn score(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    let inputs = TEXTS.map(|text| ScoreInput { text, context: None });
    ends(Scorer::load(files, options).unwrap().run(&inputs, &ScoreRequest::default()).unwrap())
}

fn score_left_to_right(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    let inputs = TEXTS.map(|text| ScoreInput { text, context: None });
    let request = ScoreRequest::default().with_method(ScoreMethod::LeftToRight);
    ends(Scorer::load(files, options).unwrap().run(&inputs, &request).unwrap())
}

fn generate(files: &ModelFiles, options: &Options) -> Vec<Result<()>> {
    let request = GenerateRequest::default().with_max_new_tokens(4);
    let generator = Generator::load(files, options).unwrap();
    ends(generator.run(&TEXTS, &request, &mut |_| ControlFlow::Continue(())).unwrap().outputs)
}

/// A model with what it is asked, and a tensor with the place that is named when one of its numbers is none.
type Case = (&'static str, &'static [Asked], &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    (
        "tiny-text-classify-multi",
        &[classify],
        &[
            ("model.embeddings.norm.weight", "the embeddings"),
            ("model.layers.0.attn.Wqkv.weight", "layer 1 of 2"),
            ("model.layers.1.attn_norm.weight", "layer 2 of 2"),
            ("model.layers.1.mlp.Wi.weight", "layer 2 of 2"),
            ("model.layers.1.mlp.Wo.weight", "layer 2 of 2"),
            ("model.final_norm.weight", "the final norm"),
            ("head.dense.weight", "the prediction head"),
            ("head.norm.weight", "the prediction head"),
            ("classifier.bias", "the label scores"),
        ],
    ),
    (
        "tiny-text-classify-decoder",
        &[classify],
        &[("model.layers.1.attn.k_proj.weight", "layer 2 of 2"), ("classifier.weight", "the label scores")],
    ),
    (
        "tiny-text-tag",
        &[tag],
        &[("model.layers.0.mlp.Wi.weight", "layer 1 of 2"), ("classifier.weight", "the label scores")],
    ),
    (
        "tiny-text-answer",
        &[answer],
        &[
            ("model.layers.1.attn.Wo.weight", "layer 2 of 2"),
            ("head.dense.weight", "the prediction head"),
            ("classifier.bias", "the scores of starts and ends"),
        ],
    ),
    (
        "tiny-text-rerank-sigmoid",
        &[rerank],
        &[("model.layers.0.mlp_norm.weight", "layer 1 of 2"), ("classifier.weight", "the label scores")],
    ),
    (
        "tiny-text-rerank-chain",
        &[rerank],
        &[
            ("layers.1.mlp.Wi.weight", "layer 2 of 2"),
            ("2_Dense:linear.weight", "module 2 of the chain (Dense)"),
            ("3_LayerNorm:norm.bias", "module 3 of the chain (LayerNorm)"),
            ("4_Dense:linear.bias", "module 4 of the chain (Dense)"),
        ],
    ),
    (
        "tiny-text-chain-max-dense",
        &[pooled, largest, by_token, second_layer, similarity],
        &[("embeddings.norm.weight", "the embeddings"), ("layers.1.attn.Wqkv.weight", "layer 2 of 2")],
    ),
    (
        "tiny-text-chain-last",
        &[pooled, largest, by_token, second_layer],
        &[("layers.0.mlp.Wo.weight", "layer 1 of 2"), ("final_norm.weight", "the final norm")],
    ),
    (
        "nano-encoder",
        &[fill, score, score_left_to_right],
        &[
            ("model.layers.1.mlp.Wi.weight", "layer 2 of 6"),
            ("head.norm.weight", "the prediction head"),
            ("decoder.bias", "the logits"),
        ],
    ),
    (
        "nano-decoder",
        &[generate, score],
        &[
            ("model.layers.5.attn.v_proj.weight", "layer 6 of 6"),
            ("lm_head.dense.weight", "the prediction head"),
            ("decoder.bias", "the logits"),
        ],
    ),
];

fn check(dtype: Dtype, models: &[Case]) {
    for (model, tasks, tensors) in models {
        for (tensor, place) in *tensors {
            for value in [f32::NAN, f32::INFINITY] {
                let broken = Broken::new(model, tensor, 0, value);
                for (number, task) in tasks.iter().enumerate() {
                    let what = format!("{model}, {tensor}, {value}, {dtype}, task {number}");
                    for result in task(&broken.files, &options(dtype)) {
                        match result {
                            Err(Error::NotFinite { place: named, dtype: format }) => {
                                assert_eq!((&*named, &*format), (*place, &*dtype.to_string()), "{what}");
                            }
                            other => panic!("{what}: {other:?}"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_task_names_the_first_layer_that_is_not_finite() {
    check(Dtype::F32, CASES);
}

#[test]
fn every_number_format_does() {
    for dtype in dtypes().into_iter().filter(|&dtype| dtype != Dtype::F32) {
        // The large models take most of the time, and differ from these in nothing but the head.
        check(dtype, &CASES[..CASES.len() - 2]);
    }
}

/// The vector of a token that one input has and the other has not.
#[test]
fn only_the_input_that_meets_a_broken_number_fails() {
    let (model, dtype) = ("tiny-text-classify-multi", options(Dtype::F32));
    let good = ModelFiles::folder(root("models").join(model)).unwrap();
    let classifier = Classifier::load(&good, &dtype).unwrap();
    let request = ClassifyRequest::default().with_top_k(None).with_raw(true);
    let inputs: Vec<TextInput<'_>> = [TEXTS[0], "zzz", TEXTS[1]].map(Into::into).to_vec();
    let expected = classifier.run(&inputs, &request).unwrap();
    let tokenizer = ettin::tokenizer::Tokenizer::load(&good).unwrap();
    let ids = |text: &str| tokenizer.ids(text).unwrap();
    let own = ids("zzz").into_iter().find(|id| !ids(TEXTS[0]).contains(id) && !ids(TEXTS[1]).contains(id)).unwrap();
    let broken = Broken::new(model, "model.embeddings.tok_embeddings.weight", 32 * own as usize + 5, f32::NAN);
    let outcomes = Classifier::load(&broken.files, &dtype).unwrap().run(&inputs, &request).unwrap();
    for (index, (ours, expected)) in outcomes.iter().zip(&expected).enumerate() {
        match ours {
            Ok(ours) => assert_eq!(ours, expected.as_ref().unwrap(), "input {index}"),
            Err(error) => {
                assert_eq!(index, 1, "{error}");
                assert!(error.to_string().contains("first appear in the embeddings"), "{error}");
            }
        }
    }
    assert!(outcomes[1].is_err());
}

/// Of a decoder, tokens before a broken one are as they were: the largest of all of them is none, that of the first is.
#[test]
fn the_largest_over_tokens_hides_none_that_is_broken() {
    let tokenizer = ettin::tokenizer::Tokenizer::load(&common::model("nano-decoder")).unwrap();
    let last = *tokenizer.ids("She slept.").unwrap().last().unwrap();
    let broken = Broken::new("nano-decoder", "model.embeddings.tok_embeddings.weight", 256 * last as usize, f32::NAN);
    let embedder = TextEmbedder::load(&broken.files, &options(Dtype::F32)).unwrap();
    let vector = |pooling| {
        let request = EmbedRequest::default().with_pooling(pooling);
        embedder.run(&["She slept."], &request).unwrap().remove(0)
    };
    for pooling in [Pooling::Max, Pooling::Mean, Pooling::WeightedMean] {
        let error = vector(pooling).unwrap_err().to_string();
        assert!(error.contains("the embeddings"), "{pooling}: {error}");
    }
    assert!(vector(Pooling::Cls).is_ok());
}

/// Scores of −∞ exclude a token, and are as good as any.
#[test]
fn an_excluded_token_breaks_nothing() {
    let excluded = 300;
    for (model, tasks) in [("nano-encoder", &[fill as Asked, score][..]), ("nano-decoder", &[generate, score])] {
        let files = Broken::new(model, "decoder.bias", excluded, f32::NEG_INFINITY);
        for (number, task) in tasks.iter().enumerate() {
            for result in task(&files.files, &options(Dtype::F32)) {
                result.unwrap_or_else(|error| panic!("{model}, task {number}: {error}"));
            }
        }
    }
    // To be scored, it must have a probability.
    let tokenizer = ettin::tokenizer::Tokenizer::load(&common::model("nano-decoder")).unwrap();
    let own = tokenizer.ids(" London").unwrap()[0];
    let files = Broken::new("nano-decoder", "decoder.bias", own as usize, f32::NEG_INFINITY);
    let inputs = ["He went to London.", "She slept."].map(|text| ScoreInput { text, context: None });
    let scored =
        Scorer::load(&files.files, &options(Dtype::F32)).unwrap().run(&inputs, &ScoreRequest::default()).unwrap();
    assert!(scored[0].as_ref().unwrap_err().to_string().contains("excludes token"));
    assert!(scored[1].as_ref().unwrap().value.sum.is_finite());
}

/// What is computed fails where it is too large for the number format, with the advice to take another.
#[test]
fn what_overflows_names_the_number_format() {
    let broken = Broken::new("tiny-text-classify-multi", "model.layers.1.mlp.Wo.weight", 0, f32::MAX);
    for result in classify(&broken.files, &options(Dtype::Bf16)) {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("layer 2 of 2") && error.contains("too large for bf16; try f32"), "{error}");
    }
}
