//! `--device`: what was asked for, and which device that is here.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use crate::exit::Usage;

/// `--device` as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    /// A device that is compiled in and present, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
    /// The Metal device.
    Metal,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "metal" => Ok(DeviceChoice::Metal),
            other => other
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| "choose auto, cpu, cuda, cuda:N or metal".into()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(number) => write!(f, "cuda:{number}"),
            DeviceChoice::Metal => f.write_str("metal"),
        }
    }
}

/// Kinds of devices this binary was built for, the CPU first.
pub(crate) fn compiled() -> Vec<&'static str> {
    let mut kinds = vec!["cpu"];
    if cfg!(feature = "cuda") {
        kinds.push("cuda");
    }
    if cfg!(feature = "metal") {
        kinds.push("metal");
    }
    kinds
}

/// Devices that can be opened now, by the names `--device` takes.
pub(crate) fn present() -> Vec<String> {
    // More devices than any machine has: opening stops at the first that is missing.
    const MOST: usize = 64;
    let mut names = vec![DeviceChoice::Cpu.to_string()];
    if cfg!(feature = "cuda") {
        let cuda = (0..MOST).map(DeviceChoice::Cuda);
        names.extend(cuda.take_while(|choice| open(*choice).is_ok()).map(|choice| choice.to_string()));
    }
    if cfg!(feature = "metal") && open(DeviceChoice::Metal).is_ok() {
        names.push(DeviceChoice::Metal.to_string());
    }
    names
}

/// The device for a choice. Auto falls back to the CPU; a device that was named is used or refused.
pub(crate) fn resolve(choice: DeviceChoice) -> anyhow::Result<Device> {
    if choice != DeviceChoice::Auto {
        return open(choice);
    }
    let accelerator = if cfg!(feature = "cuda") {
        Some(DeviceChoice::Cuda(0))
    } else if cfg!(feature = "metal") {
        Some(DeviceChoice::Metal)
    } else {
        None
    };
    Ok(accelerator.and_then(|choice| open(choice).ok()).unwrap_or(Device::Cpu))
}

fn open(choice: DeviceChoice) -> anyhow::Result<Device> {
    let opened = match choice {
        DeviceChoice::Auto | DeviceChoice::Cpu => return Ok(Device::Cpu),
        DeviceChoice::Cuda(_) if !cfg!(feature = "cuda") => {
            return Err(not_compiled(choice, "cuda"));
        }
        DeviceChoice::Metal if !cfg!(feature = "metal") => {
            return Err(not_compiled(choice, "metal"));
        }
        DeviceChoice::Cuda(number) => Device::new_cuda(number),
        DeviceChoice::Metal => Device::new_metal(0),
    };
    opened.map_err(|error| {
        anyhow::anyhow!(
            "--device {choice}: there is no such device here ({error}); `ettin-run info` lists those present"
        )
    })
}

fn not_compiled(choice: DeviceChoice, feature: &str) -> anyhow::Error {
    Usage::error(format!(
        "--device {choice}: this binary was built without {feature}; build with --features {feature}, or use --device cpu"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        for name in ["auto", "cpu", "cuda:0", "cuda:3", "metal"] {
            let choice: DeviceChoice = name.parse().unwrap();
            assert_eq!(choice.to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for bad in ["gpu", "cuda:", "cuda:-1", "cuda:x", ""] {
            assert!(bad.parse::<DeviceChoice>().is_err(), "{bad:?}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn missing_device_is_refused_by_name_and_auto_is_not() {
        let error = resolve(DeviceChoice::Cuda(0)).unwrap_err();
        assert!(error.is::<Usage>());
        assert!(error.to_string().contains("--features cuda"), "{error}");
        assert!(resolve(DeviceChoice::Auto).is_ok());
    }
}
