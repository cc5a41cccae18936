//! Everything else below `/v2/`: streamed to the real registry and back, unread.
//!
//! The real registry names the stand-in as its token realm and decides on every token itself. Only the
//! outer address is told to it, so that the upload locations it answers lead back here.

use axum::extract::Request;
use axum::response::Response;

use super::State;
use crate::relay;

pub(super) async fn relay(state: &State, request: Request) -> Response {
    relay::relay(&state.upstream, &state.registry, &state.service, request).await
}
