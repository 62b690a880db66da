//! What a folder without loadable weights holds instead, told by the names of its files.

use super::Foreign;
use crate::files::is_weights_file;

/// Weights as this engine looks for them; where one is there, the rest of the folder does not matter.
pub(super) const USUAL: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// A form of model that is not read: what marks a file's name, and what to say.
struct Form {
    marks: fn(&str) -> bool,
    kind: &'static str,
    advice: &'static str,
}

const ORIGINAL: &str = "use the original weights in safetensors, from which it was made";

/// In order: what a file is for sure comes before what it may be.
const FORMS: [Form; 15] = [
    Form { marks: |name| ends(name, &[".gguf"]), kind: "a GGUF model (llama.cpp)", advice: ORIGINAL },
    Form { marks: |name| base(name).starts_with("openvino_model"), kind: "an OpenVINO export", advice: ORIGINAL },
    Form { marks: |name| ends(name, &[".onnx", ".onnx_data", ".ort"]), kind: "an ONNX export", advice: ORIGINAL },
    Form {
        // Packages are folders, of which a listing may have no more than the name.
        marks: |name| name.split('/').any(|part| ends(part, &[".mlmodel", ".mlpackage", ".mlmodelc"])),
        kind: "a Core ML export",
        advice: ORIGINAL,
    },
    Form { marks: |name| ends(name, &[".engine", ".plan", ".trt"]), kind: "a TensorRT engine", advice: ORIGINAL },
    Form { marks: |name| ends(name, &[".pte"]), kind: "an ExecuTorch export", advice: ORIGINAL },
    Form { marks: |name| ends(name, &[".torchscript"]), kind: "a TorchScript export", advice: ORIGINAL },
    Form {
        marks: |name| ends(name, &[".h5", ".msgpack", ".ckpt.index", ".tflite", ".pb"]),
        kind: "a TensorFlow or Flax model",
        advice: "load it in Python with from_tf or from_flax of transformers 4 and save it with save_pretrained",
    },
    Form {
        marks: |name| {
            base(name) == "zero_to_fp32.py"
                || name.starts_with("global_step")
                || base(name).ends_with("_optim_states.pt")
        },
        kind: "a DeepSpeed checkpoint",
        advice: "write its weights with the `zero_to_fp32.py` that lies in it",
    },
    Form {
        marks: |name| ends(name, &[".distcp"]) || name.contains("pytorch_model_fsdp"),
        kind: "a distributed checkpoint of torch (FSDP, DCP)",
        advice: "write its weights with `accelerate merge-weights`",
    },
    Form {
        marks: |name| {
            let step = name.strip_prefix("checkpoint-").and_then(|rest| rest.split('/').next());
            step.is_some_and(|step| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()))
        },
        kind: "the folder of a training run",
        advice: "name one of the checkpoints in it",
    },
    Form {
        marks: |name| name == "refs/main" || name.starts_with("snapshots/"),
        kind: "a repository's folder in the Hugging Face cache",
        advice: "name the model by its Hub id, or a folder below its `snapshots`",
    },
    Form {
        marks: |name| {
            let training = ["optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "trainer_state.json"];
            training.contains(&base(name)) || base(name).starts_with("rng_state")
        },
        kind: "the state of an optimiser, without weights",
        advice: "use a checkpoint that has its model.safetensors",
    },
    Form { marks: |name| ends(name, &[".npz"]), kind: "a model as NumPy arrays (MLX)", advice: ORIGINAL },
    Form {
        marks: |name| ends(name, &[".pt", ".pth", ".ckpt"]),
        kind: "a file of torch.save (a checkpoint of Lightning or of a training script, or TorchScript)",
        advice: "write the state dict in it as model.safetensors in Python (`safetensors.torch.save_file`)",
    },
];

/// What a folder without usual weights is, by the names of its files.
pub(super) fn of_listing(names: &[String]) -> Option<Foreign> {
    if names.iter().any(|name| USUAL.contains(&name.as_str())) {
        return None;
    }
    let found = FORMS.iter().find_map(|form| Some((form, names.iter().find(|name| (form.marks)(name))?)));
    if let Some((form, name)) = found {
        return Some(Foreign::new(form.kind, format!("it holds {name} and no model.safetensors"), form.advice));
    }
    let has = |name: &str| names.iter().any(|other| other == name);
    if has("model.bin") && ["vocabulary.json", "vocabulary.txt", "shared_vocabulary.json"].into_iter().any(has) {
        return Some(Foreign::new("a CTranslate2 model", "it holds model.bin beside a vocabulary file", ORIGINAL));
    }
    let other = names.iter().find(|name| !name.contains('/') && is_weights_file(name) && *name != "training_args.bin");
    other.map(|name| match name.contains("-of-") {
        true => Foreign::new(
            "a part of a model",
            format!("it holds the shard {name} and no index of all shards"),
            "fetch model.safetensors.index.json as well",
        ),
        false => Foreign::new(
            "a folder with weights of another name",
            format!("it holds {name} and no model.safetensors"),
            "name that file itself as the model",
        ),
    })
}

/// What a file is that was named as a model and is no weights file that is read.
pub(crate) fn of_file(name: &str) -> Option<Foreign> {
    let form = FORMS.iter().find(|form| (form.marks)(name))?;
    Some(Foreign::new(form.kind, "by its name", form.advice))
}

fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn ends(name: &str, ends: &[&str]) -> bool {
    ends.iter().any(|end| name.ends_with(end))
}
