//! Lists and ranges of numbers as benchmarks take them: `1,2,8`, `16-64+16`, `128-4096*2`.

use ettin::{Error, Result};

/// More values than anyone will wait for.
const MAX_VALUES: usize = 1000;

/// Numbers from a list of numbers and ranges, separated by commas, in the order given. `a-b` counts by one, `a-b+s`
/// adds `s`, `a-b*m` multiplies by `m`; both ends belong to a range.
///
/// ```
/// use ettin_bench::numbers;
///
/// assert_eq!(numbers("1,16-64*2")?, [1, 16, 32, 64]);
/// # Ok::<(), ettin::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] for anything else, for zeros, and for ranges that are empty or endless.
pub fn numbers(text: &str) -> Result<Vec<usize>> {
    let parts = text.split(',').map(|part| range(part.trim()));
    Ok(parts.collect::<Result<Vec<_>>>()?.concat())
}

fn range(text: &str) -> Result<Vec<usize>> {
    let wrong = |why: &str| {
        Error::input(format!("{text:?} is no number and no range: {why}; write 512, 1-8, 16-64+16 or 128-4096*2"))
    };
    let number = |digits: &str| match digits.parse::<usize>() {
        Ok(0) => Err(wrong("0 is too little")),
        Ok(number) => Ok(number),
        Err(_) => Err(wrong(&format!("{digits:?} is not a whole number"))),
    };
    let Some((first, rest)) = text.split_once('-') else {
        return Ok(vec![number(text)?]);
    };
    let (last, add, multiply) = match rest.split_once(['+', '*']) {
        None => (rest, 1, 1),
        Some((last, step)) if rest.contains('*') => (last, 0, number(step)?),
        Some((last, step)) => (last, number(step)?, 1),
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(wrong("it ends before it begins"));
    }
    if add == 0 && multiply == 1 {
        return Err(wrong("multiplying by 1 does not end"));
    }
    let next = |value: &usize| value.checked_mul(multiply)?.checked_add(add);
    let values: Vec<usize> =
        std::iter::successors(Some(first), next).take_while(|&value| value <= last).take(MAX_VALUES + 1).collect();
    if values.len() > MAX_VALUES { Err(wrong(&format!("it has more than {MAX_VALUES} values"))) } else { Ok(values) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        for (text, expected) in [
            ("512", &[512][..]),
            ("1, 2,8", &[1, 2, 8]),
            ("1-4", &[1, 2, 3, 4]),
            ("5-5", &[5]),
            ("16-64+16", &[16, 32, 48, 64]),
            ("16-63+16", &[16, 32, 48]),
            ("128-1024*2", &[128, 256, 512, 1024]),
            ("1-100*10,7", &[1, 10, 100, 7]),
            ("8-1", &[]),
        ] {
            match numbers(text) {
                Ok(values) => assert_eq!(values, expected, "{text}"),
                Err(error) => assert!(expected.is_empty(), "{text}: {error}"),
            }
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "not a whole number"),
            ("x", "not a whole number"),
            ("1,,2", "not a whole number"),
            ("-5", "not a whole number"),
            ("1.5", "not a whole number"),
            ("0", "too little"),
            ("4-8+0", "too little"),
            ("8-1", "ends before"),
            ("8-16*1", "does not end"),
            ("1-5000", "more than 1000"),
            ("99999999999999999999", "not a whole number"),
        ] {
            let error = numbers(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        // The last value that fits in a word is no reason to overflow.
        assert_eq!(numbers(&format!("{}-{}*4", usize::MAX / 2, usize::MAX)).unwrap().len(), 1);
    }
}
