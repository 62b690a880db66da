//! What holds for any body.

use arbtest::arbitrary::{Result, Unstructured};
use arbtest::arbtest;
use ettin_server::protocol::RootTask;
use ettin_server::protocol::json::parse_body;
use ettin_server::protocol::route::{PATHS, receive};
use serde_json::{Map, Number, Value};

use crate::wire::{limits, recorded};

const ROOTS: [RootTask; 10] = [
    RootTask::Embed,
    RootTask::EmbedAll,
    RootTask::EmbedSparse,
    RootTask::Predict,
    RootTask::Rerank,
    RootTask::Similarity,
    RootTask::FillMask,
    RootTask::Tag,
    RootTask::Question,
    RootTask::Generate,
];

#[test]
fn any_bytes_are_a_request_or_an_error() {
    arbtest(|u| {
        let path = *u.choose(&PATHS)?;
        let root = *u.choose(&ROOTS)?;
        let body: Vec<u8> = u.arbitrary()?;
        check(path, &body, root);
        Ok(())
    });
}

/// No panic; an error is JSON with a status of errors; a request can be written, and is then read as itself.
fn check(path: &str, body: &[u8], root: RootTask) {
    match receive(path, body, &limits(), |_| root) {
        Ok(received) => {
            let written: Value = serde_json::from_str(&serde_json::to_string(&received.call).unwrap()).unwrap();
            let (_, content) = written.as_object().unwrap().iter().next().unwrap();
            if content.is_object() {
                let again = receive(path, content.to_string().as_bytes(), &limits(), |_| root);
                assert_eq!(again.expect("what was written").call, received.call, "{path}: {content}");
            }
        }
        Err(fault) => {
            assert!((400..=424).contains(&fault.status), "{fault:?}");
            assert!(serde_json::from_str::<Value>(&fault.body).unwrap()["error"] != Value::Null, "{fault:?}");
        }
    }
}

/// A JSON value of no more than `depth` levels.
fn value(u: &mut Unstructured, depth: usize) -> Result<Value> {
    Ok(match u.int_in_range(0..=if depth == 0 { 6 } else { 8 })? {
        0 => Value::Null,
        1 => Value::Bool(u.arbitrary()?),
        2 => Value::from(u.arbitrary::<u8>()?),
        3 => Value::from(u.arbitrary::<i64>()?),
        4 => Number::from_f64(f64::from(u.arbitrary::<f32>()?)).map_or(Value::Null, Value::Number),
        5 => Value::String(u.arbitrary()?),
        6 => Value::String((*u.choose(&["", "a", "float", "base64", "left", "simple", "text"])?).to_owned()),
        7 => {
            let len = u.int_in_range(0..=3)?;
            Value::Array((0..len).map(|_| value(u, depth - 1)).collect::<Result<_>>()?)
        }
        _ => {
            let len = u.int_in_range(0..=3)?;
            let entry = |u: &mut Unstructured| Ok((u.arbitrary()?, value(u, depth - 1)?));
            Value::Object((0..len).map(|_| entry(u)).collect::<Result<Map<_, _>>>()?)
        }
    })
}

/// Every value within a value, by its pointer (RFC 6901).
fn places(value: &Value, at: String, found: &mut Vec<String>) {
    found.push(at.clone());
    match value {
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, item)| places(item, format!("{at}/{i}"), found));
        }
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            places(item, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
        }),
        _ => (),
    }
}

#[test]
fn changed_bodies_of_real_clients_are_requests_or_errors() {
    let recorded = recorded();
    arbtest(|u| {
        let case = &recorded[u.choose_index(recorded.len())?];
        let mut body = case.body.clone();
        for _ in 0..u.int_in_range(1..=3)? {
            let mut found = Vec::new();
            places(&body, String::new(), &mut found);
            let place = u.choose(&found)?;
            *body.pointer_mut(place).unwrap() = value(u, 3)?;
        }
        // A request for one protocol may meet another one's route.
        let path = if u.ratio(1, 4)? { *u.choose(&PATHS)? } else { case.path.as_str() };
        check(path, body.to_string().as_bytes(), *u.choose(&ROOTS)?);
        Ok(())
    });
}

#[test]
fn what_the_door_lets_in_it_lets_in_again() {
    arbtest(|u| {
        let body = value(u, 6)?;
        let once = parse_body(body.to_string().as_bytes(), &limits());
        if let Ok(once) = once {
            assert_eq!(parse_body(once.to_string().as_bytes(), &limits()).unwrap(), once);
        }
        Ok(())
    });
}
