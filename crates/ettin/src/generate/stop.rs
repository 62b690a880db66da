//! Stop strings, found across the borders of tokens.

/// Lets text through up to the first stop string. Text that may be the beginning of one is held back.
#[derive(Debug, Clone)]
pub(super) struct StopFilter<'a> {
    stops: &'a [String],
    held: String,
}

impl<'a> StopFilter<'a> {
    /// `stops` must not hold empty strings.
    pub(super) fn new(stops: &'a [String]) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes text; returns what is certain to come before any stop string, and whether one was found.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(start) = found {
            self.held.truncate(start);
            return (std::mem::take(&mut self.held), true);
        }
        let certain = self.held.len() - self.longest_beginning();
        let rest = self.held.split_off(certain);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text held back, when no more follows.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of the held text with which a stop string begins.
    fn longest_beginning(&self) -> usize {
        let beginning = |stop: &String| {
            let ends = stop.char_indices().map(|(index, _)| index).rev();
            ends.into_iter().find(|&end| self.held.ends_with(&stop[..end])).unwrap_or(0)
        };
        self.stops.iter().map(beginning).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text let through when it arrives in pieces, and whether it was stopped.
    fn through(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut filter = StopFilter::new(&stops);
        let mut text = String::new();
        for piece in pieces {
            let (passed, stopped) = filter.push(piece);
            text += &passed;
            // Nothing let through may turn out to be part of a stop string.
            assert!(stops.iter().all(|stop| !text.contains(stop.as_str())));
            if stopped {
                return (text, true);
            }
        }
        (text + &filter.finish(), false)
    }

    #[test]
    fn a_stop_string_is_found_across_pieces() {
        let text = "one END two";
        for cut in 0..text.len() {
            let pieces = [&text[..cut], &text[cut..]];
            assert_eq!(through(&["END"], &pieces), ("one ".to_string(), true), "{cut}");
        }
        let letters: Vec<&str> = text.split_inclusive(|_| true).collect();
        assert_eq!(through(&["END"], &letters), ("one ".to_string(), true));
    }

    #[test]
    fn beginnings_of_a_stop_string_are_held_and_returned() {
        let stops = [String::from("\n\n###")];
        let mut filter = StopFilter::new(&stops);
        assert_eq!(filter.push("a\n"), ("a".into(), false));
        assert_eq!(filter.push("\n"), (String::new(), false));
        assert_eq!(filter.push("\n"), ("\n".into(), false));
        assert_eq!(filter.push("##"), (String::new(), false));
        assert_eq!(filter.push("x"), ("\n\n##x".into(), false));
        assert_eq!(filter.finish(), "");
        assert_eq!(through(&["\n\n###"], &["a\n\n#"]), ("a\n\n#".into(), false));
    }

    #[test]
    fn the_earliest_of_several_wins() {
        assert_eq!(through(&["two", "one"], &["zero one two"]), ("zero ".into(), true));
        assert_eq!(through(&["aab", "ab"], &["a", "a", "b"]), (String::new(), true));
        assert_eq!(through(&[], &["a", "b"]), ("ab".into(), false));
    }

    #[test]
    fn borders_inside_characters_do_not_matter() {
        assert_eq!(through(&["é→"], &["aé", "é", "→"]), ("aé".into(), true));
        assert_eq!(through(&["→→"], &["→", "x→"]), ("→x→".into(), false));
    }
}
