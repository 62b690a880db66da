//! What real clients send becomes the request that they mean: `requests.json` has recorded bodies, and what each is
//! read as, with every default written out.

use ettin_server::protocol::route::{PATHS, receive};
use ettin_server::protocol::schemas::ProtocolSchemas;
use ettin_server::protocol::{BodyLimits, Call, RootTask};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

/// A recorded body.
pub struct Recorded {
    pub client: String,
    pub path: String,
    pub root: RootTask,
    pub body: Value,
    pub call: Value,
}

pub fn recorded() -> Vec<Recorded> {
    let list: Vec<Map<String, Value>> = serde_json::from_str(include_str!("requests.json")).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.into_iter()
        .map(|entry| Recorded {
            client: text(&entry["client"]),
            path: text(&entry["path"]),
            root: match entry["root"].as_str().unwrap() {
                "embed" => RootTask::Embed,
                "predict" => RootTask::Predict,
                "rerank" => RootTask::Rerank,
                "fill_mask" => RootTask::FillMask,
                "generate" => RootTask::Generate,
                other => panic!("no task {other}"),
            },
            body: entry["body"].clone(),
            call: entry["call"].clone(),
        })
        .collect()
}

pub fn limits() -> BodyLimits {
    BodyLimits::of_bytes(32 << 20)
}

fn read(path: &str, body: &Value, root: RootTask) -> Call {
    match receive(path, body.to_string().as_bytes(), &limits(), |_| root) {
        Ok(received) => received.call,
        Err(fault) => panic!("{path} {body}: {} {}", fault.status, fault.body),
    }
}

/// As JSON text and back: 32-bit floats are written with their own digits, not those of a 64-bit one.
fn written(call: &Call) -> Value {
    serde_json::from_str(&serde_json::to_string(call).unwrap()).unwrap()
}

#[test]
fn recorded_bodies_are_read_as_meant() {
    for Recorded { client, path, root, body, call } in recorded() {
        assert_eq!(written(&read(&path, &body, root)), call, "{client}");
    }
}

#[test]
fn what_was_read_can_be_written_and_read_again() {
    for Recorded { client, path, root, body, .. } in recorded() {
        let call = read(&path, &body, root);
        if matches!(call, Call::Vertex(_)) {
            continue; // Its instances are read one by one.
        }
        let written = written(&call);
        let (_, content) = written.as_object().unwrap().iter().next().unwrap();
        assert_eq!(read(&path, content, root), call, "{client}: {content}");
    }
}

/// The objects within a body whose keys are fields: the body itself, its parameters and its inputs.
const OBJECTS: [&str; 3] = ["", "/parameters", "/inputs"];

#[test]
fn unknown_fields_are_ignored_everywhere() {
    for Recorded { client, path, root, body, .. } in recorded() {
        let expected = read(&path, &body, root);
        for place in OBJECTS {
            let mut changed = body.clone();
            let Some(Value::Object(object)) = changed.pointer_mut(place) else { continue };
            object.insert("not_a_field".to_owned(), json!({"of": ["any", 1, "protocol"]}));
            object.insert("x-also".to_owned(), json!(1.5));
            assert_eq!(read(&path, &changed, root), expected, "{client} {place}");
        }
    }
}

#[test]
fn null_is_absence_for_every_field_that_is_there() {
    for Recorded { client, path, root, body, .. } in recorded() {
        for place in OBJECTS {
            let Some(Value::Object(object)) = body.pointer(place) else { continue };
            for key in object.keys() {
                let (mut null, mut absent) = (body.clone(), body.clone());
                null.pointer_mut(place).unwrap()[key] = Value::Null;
                absent.pointer_mut(place).unwrap().as_object_mut().unwrap().shift_remove(key);
                let read = |body: &Value| {
                    receive(&path, body.to_string().as_bytes(), &limits(), |_| root).map_err(|fault| fault.body)
                };
                assert_eq!(read(&null), read(&absent), "{client} {place} {key}");
            }
        }
    }
}

#[test]
fn null_is_absence_for_every_field_of_the_schemas() {
    let document: Value = serde_json::from_str(&ProtocolSchemas::openapi().to_json().unwrap()).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let names: Vec<&str> = schemas
        .iter()
        .filter(|(name, _)| name.ends_with("Request") || name.ends_with("Parameters"))
        .filter_map(|(_, schema)| schema["properties"].as_object())
        .flat_map(|properties| properties.keys().map(String::as_str))
        .collect();
    assert!(names.contains(&"logit_bias") && names.contains(&"aggregation_strategy"), "{names:?}");
    for Recorded { client, path, root, body, .. } in recorded() {
        let expected = read(&path, &body, root);
        for place in OBJECTS {
            let mut changed = body.clone();
            let Some(Value::Object(object)) = changed.pointer_mut(place) else { continue };
            for name in &names {
                object.entry(*name).or_insert(Value::Null);
            }
            assert_eq!(read(&path, &changed, root), expected, "{client} {place}");
        }
    }
}

#[test]
fn every_request_has_a_recorded_body() {
    let calls: Vec<String> =
        recorded().iter().map(|recorded| recorded.call.as_object().unwrap().keys().next().unwrap().clone()).collect();
    let document: Value = serde_json::from_str(&ProtocolSchemas::openapi().to_json().unwrap()).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in schemas.keys().filter_map(|name| name.strip_suffix("Request")) {
        let mut snake = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.extend(letter.to_lowercase());
        }
        assert!(calls.contains(&snake), "no recorded body is a {snake}");
    }
}

#[test]
fn every_path_is_known() {
    for path in PATHS {
        let fault = receive(path, b"{}", &limits(), |_| RootTask::Embed).unwrap_err();
        assert_ne!(fault.status, 404, "{path}");
    }
    let fault = receive("/nowhere", b"{}", &limits(), |_| RootTask::Embed).unwrap_err();
    assert_eq!(fault.status, 404);
}

#[test]
fn the_root_asks_what_the_named_model_is_for() {
    let root = |body: &Value| match body["model"].as_str() {
        Some("decoder") => RootTask::Generate,
        _ => RootTask::FillMask,
    };
    let call = |body: &str| receive("/", body.as_bytes(), &limits(), root).unwrap();
    assert!(matches!(call(r#"{"inputs": "a"}"#).call, Call::FillMask(_)));
    let received = call(r#"{"inputs": "a", "model": "decoder"}"#);
    assert!(matches!(received.call, Call::Generation(_)));
    assert_eq!(received.model.as_deref(), Some("decoder"));
}

#[test]
fn predictions_are_nested_for_hugging_faces_clients_only() {
    let nested = |path: &str, body: Value| {
        ettin_server::protocol::route::nested_predictions(&read(path, &body, RootTask::Predict))
    };
    assert!(!nested("/", json!({"inputs": "a"})));
    assert!(nested("/", json!({"inputs": "a", "parameters": {}})));
    assert!(!nested("/predict", json!({"inputs": "a", "parameters": {}})));
    assert!(!nested("/predict", json!({"inputs": ["a", "b"]})));
    assert!(nested("/predict", json!({"inputs": [["a"]]})));
}

#[test]
fn schemas_refer_to_schemas_that_exist() {
    let document = ProtocolSchemas::openapi().to_json().unwrap();
    let parsed: Value = serde_json::from_str(&document).unwrap();
    let schemas = parsed["components"]["schemas"].as_object().unwrap();
    for reference in document.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
    assert_eq!(schemas["TeiErrorType"]["enum"][0], "Unhealthy", "capitalised as on the wire");
}
