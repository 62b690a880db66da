//! Any bytes as a body on any route: an error that is JSON, or a request that survives being written and read again.
#![no_main]

use ettin_server::protocol::route::{PATHS, receive};
use ettin_server::protocol::{BodyLimits, RootTask};
use libfuzzer_sys::fuzz_target;

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

fuzz_target!(|data: &[u8]| {
    let [path, root, body @ ..] = data else { return };
    let path = PATHS[usize::from(*path) % PATHS.len()];
    let root = ROOTS[usize::from(*root) % ROOTS.len()];
    let limits = BodyLimits::of_bytes(1 << 20);
    match receive(path, body, &limits, |_| root) {
        Ok(received) => {
            let written = serde_json::to_string(&received.call).expect("what was read can be written");
            let written: serde_json::Value = serde_json::from_str(&written).expect("JSON");
            // {"name of the request": its fields}; the requests of /vertex are a list, which is no body.
            let content = written.as_object().and_then(|call| call.values().next()).expect("one request");
            if content.is_object() {
                let again = receive(path, content.to_string().as_bytes(), &limits, |_| root).expect("what was written");
                assert_eq!(again.call, received.call);
            }
        }
        Err(fault) => {
            assert!(fault.status >= 400);
            serde_json::from_str::<serde_json::Value>(&fault.body).expect("an error is JSON");
        }
    }
});
