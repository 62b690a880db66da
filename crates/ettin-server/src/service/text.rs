//! Tokens of texts, and texts of tokens.

use super::Service;
use crate::error::{ErrorKind, ServeError};
use crate::models::LoadedModel;
use std::sync::Arc;

/// Texts to encode.
#[derive(Debug, Clone, Default)]
pub struct TokenizeCall {
    /// The model's name.
    pub model: Option<String>,
    /// Texts.
    pub texts: Vec<String>,
    /// Whether the tokens of the tokenizer's template are put around them.
    pub special_tokens: bool,
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenSpan {
    /// The token's id.
    pub id: u32,
    /// The token as the vocabulary spells it.
    pub token: String,
    /// Whether the template put it there.
    pub special: bool,
    /// Start and end in the text, in Unicode scalars; none for special tokens.
    pub span: Option<(usize, usize)>,
}

impl Service {
    /// The tokens of every text. Nothing is cut.
    ///
    /// # Errors
    /// Those of a call, see the [module](crate::service).
    pub async fn tokenize(
        &self,
        TokenizeCall { model, texts, special_tokens }: TokenizeCall,
    ) -> Result<(Arc<LoadedModel>, Vec<Vec<TokenSpan>>), ServeError> {
        let model = self.registry.choose_by(model.as_deref(), "tokenize", |_| true)?;
        let tokenizer = model.tokenizer.clone();
        let encode = move || {
            let tokens = |text: &String| {
                let encoding = tokenizer.encode(text, None, special_tokens)?;
                let token = |index: usize| TokenSpan {
                    id: encoding.ids[index],
                    token: encoding.tokens[index].clone(),
                    special: encoding.special[index],
                    span: (!encoding.special[index]).then_some(encoding.offsets[index]),
                };
                Ok((0..encoding.ids.len()).map(token).collect())
            };
            texts.iter().map(tokens).collect::<Result<Vec<_>, ServeError>>()
        };
        Ok((model, self.pool.run(encode).await?))
    }

    /// The texts of lists of ids.
    ///
    /// # Errors
    /// [`Validation`](ErrorKind::Validation) for ids beyond the vocabulary; otherwise those of a call.
    pub async fn decode(
        &self,
        model: Option<&str>,
        lists: Vec<Vec<u32>>,
        skip_special: bool,
    ) -> Result<(Arc<LoadedModel>, Vec<String>), ServeError> {
        let model = self.registry.choose_by(model, "decode", |_| true)?;
        let tokenizer = model.tokenizer.clone();
        let vocabulary = tokenizer.vocab_size();
        if let Some(id) = lists.iter().flatten().find(|&&id| id as usize >= vocabulary) {
            let message = format!("token {id}: the vocabulary has {vocabulary}");
            return Err(ServeError::new(ErrorKind::Validation, message));
        }
        let decode = move || {
            let texts = lists.iter().map(|ids| Ok(tokenizer.decode(ids, skip_special)?));
            texts.collect::<Result<Vec<_>, ServeError>>()
        };
        Ok((model, self.pool.run(decode).await?))
    }
}
