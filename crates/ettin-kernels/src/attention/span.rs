//! Which keys a query sees.

use std::ops::Range;

/// How far a query sees: `left` keys before its own position and `right` after it; `None` is without bound.
///
/// Ettin's four: encoder global (∞, ∞), encoder local (64, 64), decoder global (∞, 0), decoder local (63, 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Keys before the query.
    pub left: Option<usize>,
    /// Keys after the query.
    pub right: Option<usize>,
}

impl Span {
    /// Sees everything.
    pub const FULL: Span = Span { left: None, right: None };
    /// Sees itself and everything before.
    pub const CAUSAL: Span = Span { left: None, right: Some(0) };

    /// Whether the query at one position sees the key at another.
    pub fn contains(self, query: usize, key: usize) -> bool {
        self.keys(query, usize::MAX).contains(&key)
    }

    /// The keys that a query sees among those at `0..len`; empty if there are none.
    pub fn keys(self, query: usize, len: usize) -> Range<usize> {
        let start = self.left.map_or(0, |left| query.saturating_sub(left));
        let end = self.right.map_or(len, |right| query.saturating_add(right).saturating_add(1).min(len));
        start.min(end)..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_a_span_are_inside() {
        let span = Span { left: Some(64), right: Some(64) };
        for (key, seen) in [(35, false), (36, true), (100, true), (164, true), (165, false)] {
            assert_eq!(span.contains(100, key), seen, "{key}");
        }
        assert_eq!(span.keys(10, 1000), 0..75);
        assert_eq!(span.keys(100, 120), 36..120);
        assert!(span.keys(500, 120).is_empty());
        assert_eq!(Span { left: Some(63), right: Some(0) }.keys(63, 64), 0..64);
        assert_eq!(Span::CAUSAL.keys(7, 100), 0..8);
        assert_eq!(Span::FULL.keys(7, 100), 0..100);
        assert!(Span::FULL.keys(0, 0).is_empty());
    }
}
