//! Enums whose variants have names that users type and files hold: found, printed and listed in one way.

/// A closed set of values with a name each.
pub(crate) trait Named: Copy + PartialEq + 'static {
    /// Every value with its name.
    const NAMES: &'static [(Self, &'static str)];

    /// The name of a value.
    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(value, _)| *value == self).map_or("", |(_, name)| name)
    }

    /// The value of a name.
    fn of_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(value, _)| *value)
    }

    /// All names, for messages.
    fn known() -> String {
        let names: Vec<&str> = Self::NAMES.iter().map(|(_, name)| *name).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::Named;
    use crate::ops::Dtype;
    use crate::pooling::Pooling;
    use crate::tokenizer::Side;

    fn names_lead_back<T: Named + std::fmt::Debug>() {
        for (value, name) in T::NAMES {
            assert_eq!((T::of_name(name), value.name()), (Some(*value), *name), "{value:?}");
        }
        assert_eq!(T::of_name(""), None);
    }

    #[test]
    fn a_name_and_its_value_lead_to_each_other() {
        names_lead_back::<Dtype>();
        names_lead_back::<Pooling>();
        names_lead_back::<Side>();
        assert_eq!(Side::known(), "right, left");
    }
}
