//! A head of the caller's own, on the CPU's kernels.

use candle_core::{Device, Tensor};
use ettin::{
    heads::LanguageModel,
    ops::{self, LinearParams, Matrix, NormParams, Vector},
};

use super::common::{assert_close, assert_same, model, values};
use super::{batch, fused, reference};

fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|index| ((index * 37 + seed * 101) % 97) as f32 / 97.0 - 0.5).collect()
}

#[test]
fn a_linear_head_equals_the_same_by_candle() {
    let language = LanguageModel::load(&model("tiny-encoder"), &fused()).unwrap();
    let (trunk, cpu) = (language.trunk(), Device::Cpu);
    let size = trunk.config().hidden_size;
    let (weight, bias) = (numbers(7 * size, 1), numbers(7, 2));
    let rows = {
        let weight = weight.clone();
        move |row: usize, out: &mut [f32]| out.copy_from_slice(&weight[row * size..][..size])
    };
    let head = trunk
        .backend()
        .linear(LinearParams {
            weight: Matrix::Rows { outputs: 7, inputs: size, fill: Box::new(rows) },
            bias: Some(Vector::Values(bias.clone())),
        })
        .unwrap();
    let hidden = trunk.forward(&batch()).unwrap().select(&[0, 3, 78]).unwrap();
    let ours = ops::linear(&hidden, &head).unwrap().to_tensor().unwrap();
    assert_eq!(ours.dims(), [3, 7]);
    let weight = Tensor::from_vec(weight, (7, size), &cpu).unwrap();
    let product = hidden.to_tensor().unwrap().matmul(&weight.t().unwrap()).unwrap();
    let expected = product.broadcast_add(&Tensor::from_vec(bias, 7, &cpu).unwrap()).unwrap();
    assert_close("a linear head", &values(&ours), &values(&expected), 1e-6);
}

#[test]
fn layers_take_states_of_any_backend() {
    let (ours, theirs) = (fused(), reference());
    let vectors = Tensor::from_vec(numbers(3 * 32, 5), (3, 32), &Device::Cpu).unwrap();
    let norm = |backend: &ettin::Backend| {
        let (weight, bias) = (Vector::Values(numbers(32, 3)), Some(Vector::Values(numbers(32, 4))));
        backend.norm(NormParams { weight, bias, eps: 1e-5 }).unwrap()
    };
    let run = |states: &ettin::Backend, layer: &ettin::Backend| {
        let hidden = states.hidden(&vectors).unwrap();
        values(&ops::norm(&hidden, &norm(layer)).unwrap().to_tensor().unwrap())
    };
    for layer in [&ours, &theirs] {
        assert_same("states of the other", &run(&ours, layer), &run(&theirs, layer));
    }
    assert_close("both", &run(&ours, &ours), &run(&theirs, &theirs), 1e-6);
}

#[test]
fn a_head_may_be_tied_to_the_embedding() {
    for backend in [fused(), reference()] {
        let language = LanguageModel::load(&model("tiny-encoder"), &backend).unwrap();
        let (trunk, vocabulary) = (language.trunk(), language.config().vocab_size as u32);
        let table = trunk.embedding(&(0..vocabulary).collect::<Vec<_>>()).unwrap().to_tensor().unwrap();
        let hidden = trunk.forward(&batch()).unwrap();
        let ours = trunk.embedding_logits(&hidden).unwrap();
        let expected = hidden.to_tensor().unwrap().matmul(&table.t().unwrap()).unwrap();
        assert_close(&backend.describe(), &values(&ours), &values(&expected), 1e-6);
        assert!(trunk.embedding(&[vocabulary]).is_err());
    }
}
