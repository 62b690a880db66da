//! Where and when a benchmark ran: the machine, its memory, the date.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use candle_core::{Device, DeviceLocation};
use serde::{Deserialize, Serialize};

/// The machine, as far as the operating system tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Logical processors that the process may use.
    pub cores: usize,
    /// Bytes of main memory.
    pub memory: Option<u64>,
    /// Operating system and architecture.
    pub system: String,
    /// Processes that wanted to run in the minute before the benchmark began: more than a little and it was disturbed.
    pub load_average: Option<f64>,
}

impl Machine {
    /// Looks around.
    pub fn look() -> Self {
        Self {
            cpu: cpu().unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH)),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: kibibytes("/proc/meminfo", "MemTotal:"),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            load_average: fs::read_to_string("/proc/loadavg").ok().and_then(|line| first_number(&line)),
        }
    }
}

fn cpu() -> Option<String> {
    if cfg!(target_os = "macos") {
        return printed("sysctl", &["-n", "machdep.cpu.brand_string"]);
    }
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let value = |key: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let name = value("model name").or_else(|| value("Model"))?;
    // Virtual machines often hide the model's number in the name, and not in the rest.
    match (value("cpu family"), value("model"), value("stepping")) {
        (Some(family), Some(model), Some(stepping)) => {
            Some(format!("{name} (family {family} model {model} stepping {stepping})"))
        }
        _ => Some(name),
    }
}

/// What a device is called by its driver, with its memory and highest clocks where the driver's tool tells.
pub fn device_figures(device: &Device) -> Option<String> {
    let DeviceLocation::Cuda { gpu_id } = device.location() else {
        return None;
    };
    let query = "--query-gpu=name,memory.total,clocks.max.sm,clocks.max.memory,driver_version";
    printed("nvidia-smi", &[query, "--format=csv,noheader", &format!("--id={gpu_id}")])
}

/// What a program prints, if there is such a program and it succeeds.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// Starts counting the peak of resident memory anew, where the system can (Linux).
pub(crate) fn reset_peak_memory() {
    // 5 resets the peak to what is resident now; elsewhere the file does not exist.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most bytes of memory that this process had resident since [`reset_peak_memory`]; `None` where the system does
/// not say.
pub(crate) fn peak_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "VmHWM:")
}

/// Bytes of memory that this process has resident.
pub(crate) fn resident_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "VmRSS:")
}

fn kibibytes(file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(first_number::<u64>(value)? * 1024)
}

fn first_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.split_whitespace().next()?.parse().ok()
}

/// Now, in UTC: `2026-11-23T20:14:11Z`.
pub(crate) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    timestamp(since.as_secs())
}

/// A time in seconds since 1970 by the Gregorian calendar.
fn timestamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day at the end, so that a day's number gives year and month by
    // division: 146,097 days in 400 years, and 153 in every five months from March.
    let days = days + 719_468; // from 0000-03-01
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = 400 * era + year + next_year;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_by_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_464_851, "2026-11-23T20:14:11Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), date);
        }
    }

    #[test]
    fn the_machine_is_not_empty() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && !machine.cpu.is_empty() && machine.system.contains(std::env::consts::ARCH));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_sees_what_was_allocated_since() {
        reset_peak_memory();
        let before = resident_memory().unwrap();
        let size = 64 << 20;
        drop(std::hint::black_box(vec![1u8; size]));
        let peak = peak_memory().unwrap();
        assert!(peak >= before + size as u64 * 9 / 10, "{before} {peak}");
    }
}
