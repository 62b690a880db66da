//! Progress on stderr: for a person at a terminal only, and never under `--quiet`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ettin::hub::ProgressFn;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::say::Notes;

const BYTES: &str = "{msg}  {bar:24}  {binary_bytes} / {binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
const INPUTS: &str = "{spinner} {msg}  {elapsed}";

/// Bars for downloads, one per file.
pub(crate) fn downloads(notes: Notes) -> Option<ProgressFn> {
    if !notes.progress() {
        return None;
    }
    let current: Mutex<Option<(String, ProgressBar)>> = Mutex::new(None);
    Some(Arc::new(move |progress| {
        // A bar that panicked half drawn is still a bar.
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{}/{}", progress.model, progress.file);
        if current.as_ref().is_none_or(|(drawn, _)| *drawn != name) {
            let bar = ProgressBar::with_draw_target(Some(progress.total), ProgressDrawTarget::stderr());
            bar.set_style(style(BYTES));
            bar.set_message(name.clone());
            // What an earlier download left says nothing about speed.
            bar.reset_eta();
            bar.set_position(progress.done);
            *current = Some((name, bar));
        }
        if let Some((_, bar)) = current.as_ref() {
            bar.set_position(progress.done);
            if progress.done >= progress.total {
                bar.finish();
            }
        }
    }))
}

/// A count of the inputs answered.
pub(crate) struct Inputs {
    bar: Option<ProgressBar>,
    answered: usize,
}

impl Inputs {
    /// A count, unless it would be drawn between the rows of a table on the same terminal.
    pub(crate) fn new(notes: Notes, output_on_terminal: bool, answered: usize) -> Self {
        let bar = if output_on_terminal { None } else { spinner(notes, inputs(answered)) };
        Inputs { bar, answered }
    }

    /// So many more were answered.
    pub(crate) fn add(&mut self, count: usize) {
        self.answered += count;
        if let Some(bar) = &self.bar {
            bar.set_message(inputs(self.answered));
        }
    }

    /// Runs something that writes to stderr without drawing over it.
    pub(crate) fn suspend<T>(&self, action: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(action),
            None => action(),
        }
    }
}

impl Drop for Inputs {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A spinner for something that takes a while.
pub(crate) fn spinner(notes: Notes, message: String) -> Option<ProgressBar> {
    notes.progress().then(|| {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style(INPUTS));
        bar.set_message(message);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    })
}

fn inputs(count: usize) -> String {
    format!("{count} inputs")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for template in [BYTES, INPUTS] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
