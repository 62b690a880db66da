//! What a model can do.

use std::fmt;

/// One thing that a model may be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Ability {
    /// One dense vector per text, and one per token.
    Embed,
    /// Sparse vectors.
    EmbedSparse,
    /// Several vectors per text, for late interaction.
    EmbedMulti,
    /// Scores of documents for a query.
    Rerank,
    /// Labels of texts.
    Classify,
    /// Labels of a caller's own.
    ZeroShot,
    /// Labels of tokens.
    Tag,
    /// Answers to questions in a text.
    Answer,
    /// Tokens at masks.
    FillMask,
    /// Continuations of text.
    Generate,
    /// Log-probabilities of a text's tokens.
    Score,
}

impl Ability {
    /// Every ability with its name.
    pub const ALL: [(Ability, &'static str); 11] = [
        (Ability::Embed, "embed"),
        (Ability::EmbedSparse, "embed-sparse"),
        (Ability::EmbedMulti, "embed-multi-vector"),
        (Ability::Rerank, "rerank"),
        (Ability::Classify, "classify"),
        (Ability::ZeroShot, "zero-shot"),
        (Ability::Tag, "tag"),
        (Ability::Answer, "answer"),
        (Ability::FillMask, "fill-mask"),
        (Ability::Generate, "generate"),
        (Ability::Score, "score"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(ability, _)| *ability == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a model can do, what it is made for first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Abilities(pub Vec<Ability>);

impl Abilities {
    /// Whether it can do this.
    pub fn has(&self, ability: Ability) -> bool {
        self.0.contains(&ability)
    }

    /// What it is made for.
    pub fn main(&self) -> Option<Ability> {
        self.0.first().copied()
    }
}

impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|ability| ability.name()).collect();
        f.write_str(&names.join(", "))
    }
}
