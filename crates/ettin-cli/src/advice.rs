//! What the command line adds to the library's errors: the flag or the command that helps.

use std::borrow::Cow;

use ettin::generate::GenerationDefaults;
use ettin::tasks::lacks_label_vectors;
use ettin::{Error, identity};

/// The library's error, with what to type about it.
pub(crate) fn told(error: &Error) -> String {
    format!("{error}{}", added(error))
}

/// What follows the message of an error that a command failed with.
pub(crate) fn behind(error: &anyhow::Error) -> Cow<'static, str> {
    error.downcast_ref().map_or(Cow::Borrowed(""), added)
}

fn added(error: &Error) -> Cow<'static, str> {
    Cow::Borrowed(match error {
        Error::TensorPrefix { folder, prefix, .. } => {
            let folder = quoted(&folder.display().to_string());
            return Cow::Owned(format!(" (`ettin-run convert {folder} --output NEW_FOLDER --strip-prefix {prefix}`)"));
        }
        Error::UnknownModel { .. } => " (`ettin-run models` lists the names of the suite)",
        Error::NotCached { .. } if cfg!(feature = "hub") => " (without --offline, `ettin-run pull` fetches it)",
        Error::TooLong { .. } | Error::TooManyWords { .. } => " (--truncate right or left)",
        Error::NoRanges { .. } => " (--ranges FILE or --calibrate FILE)",
        error if GenerationDefaults::are_refused_by(error) => " (--ignore-generation-config)",
        error if lacks_label_vectors(error) => " (--label-vectors FILE)",
        error if identity::lacks_its_base(error) => " (--adapter)",
        _ => "",
    })
}

/// A word of a shell's command.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+:@%,=".contains(letter);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_known_is_told_where_the_known_ones_are() {
        let error = Error::UnknownModel { name: "x".into(), hint: ": no".into() };
        assert!(told(&error).starts_with("unknown model \"x\": no (`ettin-run models`"), "{}", told(&error));
        let wrapped = anyhow::Error::new(error).context("while opening");
        assert!(format!("{wrapped:#}{}", behind(&wrapped)).contains("ettin-run models"));
        assert_eq!(told(&Error::input("odd")), "odd");
    }

    #[test]
    fn a_prefix_is_told_with_the_command_that_takes_it_off() {
        let folder = "./model's own".into();
        let (prefix, message) = ("module.".to_owned(), "every name begins so".to_owned());
        let error = Error::TensorPrefix { file: "model.safetensors".into(), folder, prefix, message };
        let command = " (`ettin-run convert './model'\\''s own' --output NEW_FOLDER --strip-prefix module.`)";
        assert!(told(&error).ends_with(command), "{}", told(&error));
    }
}
