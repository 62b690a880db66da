//! Weights in few bits as a safetensors file holds them: metadata, names and shapes (docs/FORMATS.md). What a row's
//! bytes mean is `ettin_kernels`' [`Quantization`].

use std::collections::{BTreeMap, HashMap};

use ettin_kernels::{Quantization, gemm::GROUP};

use super::{Data, FileData, FoundTensor, StoredDtype, StoredType};

/// The version of a file: what a tensor's name is followed by where its scales are.
#[derive(Clone, Copy)]
struct Version {
    name: &'static str,
    scales: &'static str,
}

/// The versions that are read, the one that is written last.
const VERSIONS: [Version; 2] = [Version { name: "1", scales: ".factors" }, Version { name: "2", scales: ".scales" }];

/// What a tensor's name is followed by where its codes are.
const CODES: &str = ".codes";

const WRITTEN: Version = VERSIONS[VERSIONS.len() - 1];

impl Version {
    /// What follows the names of codes and scales.
    fn parts(self) -> [&'static str; 2] {
        [CODES, self.scales]
    }
}

/// Keys of the metadata, and what precedes the dtype's name in the first of them.
const FORMAT: &str = "format";
const VERSION_KEY: &str = "version";
const GROUP_KEY: &str = "group_size";
const PREFIX: &str = "ettin-";

/// The dtypes, as safetensors names them, of codes and scales.
pub(super) fn tags(quantization: Quantization) -> [&'static str; 2] {
    match quantization {
        Quantization::W8 => ["I8", "F32"],
        Quantization::W4 => ["U8", "BF16"],
    }
}

/// Names of the tensors that hold the codes and the scales of the tensor `name`.
pub(super) fn parts(name: &str) -> [String; 2] {
    WRITTEN.parts().map(|part| format!("{name}{part}"))
}

/// Name of the tensor that holds the codes of the tensor `name`, in every version.
pub(super) fn codes(name: &str) -> String {
    format!("{name}{CODES}")
}

/// Shapes of the codes and scales of a matrix `[n, k]`.
pub(super) fn shapes(quantization: Quantization, n: usize, k: usize) -> [Vec<usize>; 2] {
    match quantization {
        Quantization::W8 => [vec![n, k], vec![n]],
        Quantization::W4 => [vec![n, k / 2], vec![n, k.div_ceil(GROUP)]],
    }
}

/// Adds to the metadata of a file what says that it holds such tensors.
pub(super) fn announce(quantization: Quantization, metadata: &mut BTreeMap<String, String>) {
    metadata.insert(FORMAT.to_owned(), format!("{PREFIX}{}", quantization.scheme()));
    metadata.insert(VERSION_KEY.to_owned(), WRITTEN.name.to_owned());
    if quantization == Quantization::W4 {
        metadata.insert(GROUP_KEY.to_owned(), GROUP.to_string());
    }
}

/// How a file holds its matrices.
#[derive(Clone, Copy)]
pub(super) struct Announced {
    quantization: Quantization,
    version: Version,
}

/// What a file's metadata announces; nothing where it is not of this format.
///
/// # Errors
/// What in it is unknown.
pub(super) fn announced(metadata: Option<&HashMap<String, String>>) -> Result<Option<Announced>, String> {
    let key = |key: &str| metadata.and_then(|metadata| metadata.get(key)).map(String::as_str);
    let Some((format, scheme)) = key(FORMAT).and_then(|format| Some((format, format.strip_prefix(PREFIX)?))) else {
        return Ok(None);
    };
    let known = [Quantization::W8, Quantization::W4];
    let Some(quantization) = known.into_iter().find(|known| known.scheme().name() == scheme) else {
        return Err(format!("its format is `{format}`; known are {PREFIX}w8 and {PREFIX}w4"));
    };
    // The value of a key, and the values of it that this program reads.
    let expect = |name: &str, read: &[&str]| {
        let value = key(name)
            .ok_or_else(|| format!("its metadata lacks the {name} of format {format}; convert the original again"))?;
        read.iter().position(|known| *known == value).ok_or_else(|| {
            format!(
                "its metadata says {name} {value} of format {format}, and this program reads {}; convert the original \
                 again, or use the program that wrote the file",
                read.join(" and ")
            )
        })
    };
    let version = VERSIONS[expect(VERSION_KEY, &VERSIONS.map(|version| version.name))?];
    if quantization == Quantization::W4 {
        expect(GROUP_KEY, &[&GROUP.to_string()])?;
    }
    Ok(Some(Announced { quantization, version }))
}

/// Joins codes and scales to one tensor each; other tensors stay what they are.
///
/// # Errors
/// What is wrong with which tensor.
pub(super) fn join(found: Vec<FoundTensor>, announced: Announced, file: &FileData) -> Result<Vec<FoundTensor>, String> {
    let Announced { quantization, version } = announced;
    let (mut joined, mut halves) = (Vec::new(), BTreeMap::<String, [Option<FoundTensor>; 2]>::new());
    for tensor in found {
        match version.parts().iter().enumerate().find_map(|(part, end)| Some((part, tensor.name.strip_suffix(end)?))) {
            Some((part, name)) => {
                let name = name.to_owned();
                halves.entry(name).or_default()[part] = Some(tensor);
            }
            None => joined.push(tensor),
        }
    }
    for (name, pair) in halves {
        let [codes, scales] = pair;
        let [codes_name, scales_name] = version.parts().map(|part| format!("{name}{part}"));
        let codes = codes.ok_or_else(|| format!("`{scales_name}` is there but `{codes_name}` is missing"))?;
        let scales = scales.ok_or_else(|| format!("`{codes_name}` is there but `{scales_name}` is missing"))?;
        joined.push(pair_up(name, codes, scales, quantization, file)?);
    }
    Ok(joined)
}

fn pair_up(
    name: String,
    codes: FoundTensor,
    scales: FoundTensor,
    quantization: Quantization,
    file: &FileData,
) -> Result<FoundTensor, String> {
    for (tensor, tag) in [&codes, &scales].into_iter().zip(tags(quantization)) {
        if tensor.dtype.tag() != tag {
            let (name, actual) = (&tensor.name, tensor.dtype.tag());
            return Err(format!("`{name}` is stored as {actual}; in {} it is {tag}", quantization.scheme()));
        }
    }
    let [n, columns] = codes.shape[..] else {
        return Err(format!("`{}` is {:?}, not a matrix", codes.name, codes.shape));
    };
    let inputs = match quantization {
        Quantization::W8 => Some(columns),
        Quantization::W4 => columns.checked_mul(2),
    };
    let k = inputs.ok_or_else(|| format!("the dimensions of `{}` overflow", codes.name))?;
    let [_, expected] = shapes(quantization, n, k);
    if scales.shape != expected {
        let (tensor, actual) = (&scales.name, &scales.shape);
        return Err(format!(
            "`{tensor}` is {actual:?}, expected {expected:?} beside `{}` {:?}",
            codes.name, codes.shape
        ));
    }
    let (Data::Mapped(codes), Data::Mapped(range)) = (codes.data, scales.data) else {
        return Err(format!("`{name}` is not stored in one piece"));
    };
    // Ranges were checked when the header was read.
    if !quantization.is_finite(file.get(range.clone()).unwrap_or_default()) {
        return Err(format!("`{}` holds values that are not finite: the file is damaged", scales.name));
    }
    let dtype = match quantization {
        Quantization::W8 => StoredDtype::W8,
        Quantization::W4 => StoredDtype::W4,
    };
    Ok(FoundTensor {
        name,
        dtype: StoredType::Known(dtype),
        shape: vec![n, k],
        data: Data::Quantized { codes, scales: range },
    })
}
