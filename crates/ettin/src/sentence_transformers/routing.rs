//! Which route of a router a text takes, by the task that it is encoded for.

use serde_json::Value;

use crate::config::Keys;
use crate::{Error, Result};

/// The modality of every input here.
const TEXT: &str = "text";

/// The routes of a router and the rules that choose among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Routing {
    names: Vec<String>,
    default: Option<usize>,
    rules: Vec<Rule>,
}

/// An entry of `route_mappings`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// None for any.
    task: Option<String>,
    modality: Modality,
    route: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Modality {
    Any,
    Text,
    /// No input of this engine has it.
    Other,
}

impl Routing {
    /// The routes called `names`, of which there is one, under the `parameters` of the router's file.
    pub(super) fn new(names: Vec<String>, parameters: &Keys<'_>) -> Result<Self> {
        let find = |name: &str| names.iter().position(|known| known == name);
        let unknown = |key: &str| parameters.refuse(key, format_args!("the routes are {}", names.join(", ")));
        let stated = parameters.text("default_route")?;
        let mut default = stated.map(|name| find(name).ok_or_else(|| unknown("default_route"))).transpose()?;
        if parameters.flag("allow_empty_key", true)? {
            default = default.or(Some(0));
        }
        let mut rules = Vec::new();
        if let Some(mappings) = parameters.object("route_mappings")? {
            for key in mappings.names() {
                let route = mappings.text(key)?.and_then(find);
                let route = route.ok_or_else(|| {
                    mappings.refuse(key, format_args!("no such route; the routes are {}", names.join(", ")))
                })?;
                let (task, modality) = pair(key).ok_or_else(|| {
                    mappings.refuse(key, "its key is no pair of a task and a modality, such as \"('query', None)\"")
                })?;
                rules.push(Rule { task, modality, route });
            }
        }
        Ok(Self { names, default, rules })
    }

    /// The names of the routes, in order.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The route of texts of a task, or of none.
    ///
    /// # Errors
    /// [`Error::Input`] for a task without a route, and for none where the model has no default route.
    pub(crate) fn resolve(&self, task: Option<&str>) -> Result<usize> {
        let rule = |task: Option<&str>, modality| {
            // Of two spellings of one key, the library keeps the last.
            let fits = |rule: &&Rule| rule.task.as_deref() == task && rule.modality == modality;
            self.rules.iter().rev().find(fits).map(|rule| rule.route)
        };
        let named = |name: &str| self.names.iter().position(|known| known == name);
        let found = rule(task, Modality::Text)
            .or_else(|| rule(task, Modality::Any))
            .or_else(|| rule(None, Modality::Text))
            .or_else(|| rule(None, Modality::Any))
            .or_else(|| task.filter(|task| !task.is_empty()).and_then(named))
            .or_else(|| named(TEXT));
        match (found, task) {
            (Some(route), _) => Ok(route),
            (None, Some(task)) => {
                Err(Error::input(format!("the model has no route for the task {task:?}; it has {}", self.tasks())))
            }
            (None, None) => self.default.ok_or_else(|| {
                Error::input(format!("the model has no default route: name a task; it has {}", self.tasks()))
            }),
        }
    }

    /// Whether queries and documents go different ways.
    pub(crate) fn has_sides(&self) -> bool {
        matches!((self.resolve(Some("query")), self.resolve(Some("document"))), (Ok(query), Ok(document)) if query != document)
    }

    /// Every task that has a route.
    fn tasks(&self) -> String {
        let mut tasks: Vec<&str> = self.names.iter().map(String::as_str).collect();
        tasks.extend(self.rules.iter().filter_map(|rule| rule.task.as_deref()));
        let mut seen = std::collections::HashSet::new();
        tasks.retain(|task| seen.insert(*task));
        tasks.join(", ")
    }
}

/// The pair that a key of `route_mappings` spells as Python prints it: `('query', None)`, `(None, ('image', 'text'))`.
fn pair(key: &str) -> Option<(Option<String>, Modality)> {
    let mut reader = KeyReader(key.trim());
    let Value::Array(pair) = reader.value(0)? else {
        return None;
    };
    let [task, modality] = &pair[..] else {
        return None;
    };
    let task = match task {
        Value::Null => None,
        task => Some(task.as_str()?.to_owned()),
    };
    let modality = match modality {
        Value::Null => Modality::Any,
        Value::String(name) if name == TEXT => Modality::Text,
        _ => Modality::Other,
    };
    reader.0.trim().is_empty().then_some((task, modality))
}

/// Reads None, strings and tuples of Python.
struct KeyReader<'a>(&'a str);

impl KeyReader<'_> {
    /// A value in `depth` tuples; a modality is a tuple in the pair, and nothing goes deeper.
    fn value(&mut self, depth: usize) -> Option<Value> {
        self.0 = self.0.trim_start();
        if self.take("None") {
            return Some(Value::Null);
        }
        if !self.take("(") {
            return self.string().map(Value::String);
        }
        let mut items = Vec::new();
        if depth > 1 {
            return None;
        }
        loop {
            self.0 = self.0.trim_start();
            if self.take(")") {
                return Some(Value::Array(items));
            }
            items.push(self.value(depth + 1)?);
            self.0 = self.0.trim_start();
            if !self.take(",") && !self.0.starts_with(')') {
                return None;
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.0.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
        let mut text = String::new();
        let mut rest = self.0[1..].chars();
        loop {
            match rest.next()? {
                '\\' => text.push(rest.next().filter(|escaped| matches!(escaped, '\\' | '\'' | '"'))?),
                end if end == quote => break,
                other => text.push(other),
            }
        }
        self.0 = rest.as_str();
        Some(text)
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn routing(names: &[&str], parameters: Value) -> Result<Routing> {
        let map = parameters.as_object().unwrap().clone();
        Routing::new(names.iter().map(|&name| name.to_owned()).collect(), &Keys::new(&map, "router_config.json"))
    }

    #[test]
    fn rules_are_tried_in_the_order_of_the_library() {
        let routing = routing(
            &["a", "b", "c", "d", "query", "text"],
            json!({
                "default_route": "d",
                "route_mappings": {
                    "('query', 'text')": "a",
                    "('query', None)": "b",
                    "(\"it's\", None)": "c",
                    "(None, ('image', 'text'))": "d",
                },
            }),
        )
        .unwrap();
        let route = |task| routing.resolve(task).map(|route| routing.names()[route].clone()).unwrap();
        assert_eq!(route(Some("query")), "a");
        assert_eq!(route(Some("it's")), "c");
        assert_eq!(route(Some("d")), "d");
        // A route that is called by the modality takes what no rule and no name takes.
        assert_eq!((route(Some("other")), route(None), route(Some(""))), ("text".into(), "text".into(), "text".into()));
    }

    #[test]
    fn a_rule_for_any_task_wins_over_names_and_default() {
        let routing = routing(&["query", "all"], json!({"route_mappings": {"(None, None)": "all"}})).unwrap();
        assert_eq!(routing.resolve(Some("query")).unwrap(), 1);
        assert_eq!(routing.resolve(None).unwrap(), 1);
        assert!(!routing.has_sides());
    }

    #[test]
    fn without_a_default_the_first_counts_unless_that_is_forbidden() {
        let first = routing(&["query", "document"], json!({})).unwrap();
        assert_eq!((first.resolve(None).unwrap(), first.has_sides()), (0, true));
        let none = routing(&["query", "document"], json!({"allow_empty_key": false})).unwrap();
        for (task, word) in [(None, "default route"), (Some("doc"), "\"doc\"")] {
            let message = none.resolve(task).unwrap_err().to_string();
            assert!(message.contains(word) && message.contains("query, document"), "{message}");
        }
    }

    #[test]
    fn rules_that_lead_nowhere_are_refused() {
        for (parameters, word) in [
            (json!({"default_route": "x"}), "default_route"),
            (json!({"route_mappings": {"('query', None)": "x"}}), "no such route"),
            (json!({"route_mappings": {"('query', None)": 3}}), "string"),
            (json!({"route_mappings": {"query": "a"}}), "pair"),
            (json!({"route_mappings": {"('query', None": "a"}}), "pair"),
            (json!({"route_mappings": {"('query', None) + 1": "a"}}), "pair"),
            (json!({"route_mappings": {"('query',)": "a"}}), "pair"),
            (json!({"route_mappings": {"(((((((((())))))))))": "a"}}), "pair"),
            (json!({"route_mappings": {"('a\\x', None)": "a"}}), "pair"),
        ] {
            let message = routing(&["a"], parameters).unwrap_err().to_string();
            assert!(message.contains(word), "{word}: {message}");
        }
    }
}
