//! Methods that give a value back with one field replaced.
//!
//! Option structs are `#[non_exhaustive]`, so that an option can be added without breaking anybody's code. Outside
//! the crate they are made from their default with these methods.

/// `with_name(field: type)` for every field named. A field that is an `Option` takes `impl Into<Option<T>>`, so that
/// a caller may leave out the `Some`.
macro_rules! setters {
    ($owner:ty { $($(#[$doc:meta])* $with:ident($field:ident: $kind:ty);)+ }) => {
        impl $owner {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $with(mut self, $field: $kind) -> Self {
                    self.$field = $field.into();
                    self
                }
            )+
        }
    };
}
pub(crate) use setters;
