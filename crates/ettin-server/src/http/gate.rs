//! What every request passes before a route sees it: keys, the number of requests, the body.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::Semaphore;

use super::ServerOptions;
use super::answer::refused;
use super::held_body::HeldBody;
use super::intake::{Intake, ReceivedBody};
use super::keys::{self, ApiKeys};
use crate::protocol::route::error_form;
use crate::protocol::{Fault, FaultKind};

/// How long another try waits where all places are taken.
const RETRY: Duration = Duration::from_secs(1);

/// The gate.
#[derive(Debug)]
pub(super) struct Gate {
    keys: ApiKeys,
    intake: Intake,
    places: Option<(Arc<Semaphore>, usize)>,
}

impl Gate {
    pub(super) fn new(options: &ServerOptions) -> Arc<Self> {
        let places = options.max_concurrent_requests.map(|most| {
            let most = most.min(Semaphore::MAX_PERMITS);
            (Arc::new(Semaphore::new(most)), most)
        });
        Arc::new(Self { keys: options.keys.clone(), intake: Intake::new(options), places })
    }
}

/// Lets a request through with its whole body, or answers it.
pub(super) async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let open = keys::is_open(request.method(), &path);
    let (parts, body) = request.into_parts();
    if !open && !gate.keys.let_in(&parts.headers) {
        gate.intake.discard(body).await;
        let message = "the API key is missing or wrong; send it as `authorization: Bearer KEY` or `x-api-key: KEY`";
        return refusal(&Fault::new(FaultKind::Unauthorized, message), &path);
    }
    let ReceivedBody { bytes, held } = match gate.intake.receive(&parts.headers, body).await {
        Ok(received) => received,
        Err(fault) => return refusal(&fault, &path),
    };
    let place = match gate.places.as_ref().filter(|_| !open) {
        None => None,
        Some((places, most)) => match places.clone().try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => {
                let message = format!("{most} requests are being answered, as many as may be; try again later");
                return refusal(&Fault::new(FaultKind::Overloaded, message).with_retry_after(RETRY), &path);
            }
        },
    };
    let response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
    drop(held);
    match place {
        None => response,
        // A stream has its place to its end.
        Some(place) => response.map(|body| Body::new(HeldBody::new(body, place))),
    }
}

/// What is found before anything of the body is known.
fn refusal(fault: &Fault, path: &str) -> Response {
    refused(fault, error_form(path, None))
}
