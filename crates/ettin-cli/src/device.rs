//! `--device`: which device that is here.

use candle_core::Device;
use ettin::{DeviceChoice, Error};

use crate::{exit::Usage, say::Notes};

/// The device for a choice. Auto falls back to the CPU and says so; a device that was named is used or refused.
pub(crate) fn resolve(choice: DeviceChoice, notes: Notes) -> anyhow::Result<Device> {
    if choice == DeviceChoice::Auto {
        let (device, reason) = choice.open_or_fall_back();
        if let Some(reason) = reason {
            notes.note(format_args!("computing on the CPU: {reason}"));
        }
        return Ok(device);
    }
    choice.open().map_err(|error| match error {
        Error::NotBuilt { .. } => Usage::error(format!("--device {choice}: {error}")),
        error => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_device_that_is_not_built_in_is_a_wrong_request() {
        let error = resolve(DeviceChoice::Cuda(0), Notes::new(true)).unwrap_err();
        assert!(error.is::<Usage>(), "{error}");
        assert!(resolve(DeviceChoice::Auto, Notes::new(true)).unwrap().is_cpu());
    }
}
