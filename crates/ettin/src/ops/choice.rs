//! Which device to compute on: what was asked for, and what this build and this machine have.

use std::{fmt, str::FromStr};

use candle_core::Device;

use crate::{Error, Result};

/// What to check when a CUDA device cannot be opened.
const NO_CUDA: &str =
    "see whether nvidia-smi lists it: it needs an NVIDIA driver and, in a container, access to the GPU";

/// A device by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A GPU that this build supports and this machine has, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
    /// The Metal device.
    Metal,
}

impl DeviceChoice {
    /// Kinds of devices this build supports, the CPU first.
    pub fn built() -> Vec<&'static str> {
        let mut kinds = vec!["cpu"];
        if cfg!(feature = "cuda") {
            kinds.push("cuda");
        }
        if cfg!(feature = "metal") {
            kinds.push("metal");
        }
        kinds
    }

    /// Devices that can be opened now.
    pub fn present() -> Vec<Self> {
        // More devices than any machine has: opening stops at the first that is missing.
        const MAX_DEVICES: usize = 64;
        let mut choices = vec![DeviceChoice::Cpu];
        choices.extend((0..MAX_DEVICES).map(DeviceChoice::Cuda).take_while(|choice| choice.open().is_ok()));
        choices.extend(Some(DeviceChoice::Metal).filter(|choice| choice.open().is_ok()));
        choices
    }

    /// Opens the device. `Auto` never fails: where no GPU can be opened it is the CPU.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] when this build does not support the device, [`Error::NoDevice`] when this machine has none.
    pub fn open(self) -> Result<Device> {
        match self {
            DeviceChoice::Auto => Ok(self.open_or_fall_back().0),
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Cuda(_) if !cfg!(feature = "cuda") => {
                Err(Error::NotBuilt { device: self.to_string(), feature: "cuda" })
            }
            DeviceChoice::Metal if !cfg!(feature = "metal") => {
                Err(Error::NotBuilt { device: self.to_string(), feature: "metal" })
            }
            DeviceChoice::Cuda(number) => ettin_gpu::open_cuda(number).map_err(|error| self.missing(&error, NO_CUDA)),
            DeviceChoice::Metal => {
                Device::new_metal(0).map_err(|error| self.missing(&error, "it needs macOS and a GPU"))
            }
        }
    }

    /// What `Auto` opens, and why not the GPU that this build is for, if it is not.
    pub fn open_or_fall_back(self) -> (Device, Option<Error>) {
        let gpu = match Self::built().last() {
            Some(&"cuda") => DeviceChoice::Cuda(0),
            Some(&"metal") => DeviceChoice::Metal,
            _ => return (Device::Cpu, None),
        };
        match gpu.open() {
            Ok(device) => (device, None),
            Err(reason) => (Device::Cpu, Some(reason)),
        }
    }

    fn missing(self, error: &candle_core::Error, hint: &'static str) -> Error {
        // A candle error ends in a backtrace where those are on.
        let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
        Error::NoDevice { device: self.to_string(), reason, hint }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "metal" => Ok(DeviceChoice::Metal),
            other => other
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| Error::input("choose auto, cpu, cuda, cuda:N or metal")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        for name in ["auto", "cpu", "cuda:0", "cuda:3", "metal"] {
            let choice: DeviceChoice = name.parse().unwrap();
            assert_eq!(choice.to_string(), name);
        }
        assert_eq!("CUDA".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        for bad in ["gpu", "cuda:", "cuda:-1", "cuda:x", ""] {
            assert!(bad.parse::<DeviceChoice>().is_err(), "{bad:?}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_device_that_was_named_is_refused_and_auto_is_not() {
        let error = DeviceChoice::Cuda(0).open().unwrap_err();
        assert!(error.to_string().contains("--features cuda"), "{error}");
        assert!(DeviceChoice::Auto.open().unwrap().is_cpu());
        assert_eq!(DeviceChoice::present(), [DeviceChoice::Cpu]);
    }

    #[test]
    fn a_missing_device_says_why_and_what_to_do() {
        let error = candle_core::Error::Msg("no CUDA-capable device is detected\n   0: backtrace".into());
        let error = DeviceChoice::Cuda(1).missing(&error, "look").to_string();
        assert_eq!(error, "cuda:1 cannot be opened (no CUDA-capable device is detected); look, or compute on the cpu");
    }
}
