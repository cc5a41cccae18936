//! Bodies of requests: what arrives flows in, one piece of memory flows out,
//! and every byte of it is counted from the moment at which it is here.
//!
//! What a head announces is not believed: a caller holds what it has sent.

use std::{hash::Hash, pin::Pin};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, header::CONTENT_TYPE},
};
use futures::future::poll_fn;

use crate::limits::Place;

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It is longer than it may be.
    #[error("the body is longer than {0} bytes")]
    TooLarge(usize),
    /// The connection ended before it did.
    #[error("the body is incomplete")]
    Incomplete,
    /// There is no room for it now.
    #[error("too many bytes are under way")]
    Busy,
}

/// Reads a body of at most `limit` bytes; `place` grows by each byte that is
/// here.
///
/// # Errors
/// See [`BodyError`].
pub async fn read<K: Eq + Hash + Clone>(
    mut body: Body,
    limit: usize,
    place: &mut Place<K>,
) -> Result<Bytes, BodyError> {
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_incomplete| BodyError::Incomplete)?;
        // Trailers have nothing to say here.
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        let length = first.len().max(whole.len()) + piece.len();
        if length > limit {
            return Err(BodyError::TooLarge(limit));
        }
        let amount = u32::try_from(piece.len()).map_err(|_huge| BodyError::TooLarge(limit))?;
        if !place.try_grow(amount) {
            return Err(BodyError::Busy);
        }
        // Most bodies come in one piece, and nothing is copied. Others are not
        // kept as pieces: there might be one for each byte.
        if length == piece.len() {
            first = piece;
        } else {
            if whole.is_empty() {
                whole.extend_from_slice(&first);
            }
            whole.extend_from_slice(&piece);
        }
    }
    Ok(match whole.is_empty() {
        true => first,
        false => whole.into(),
    })
}

/// Whether a request says that its body is JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(CONTENT_TYPE).map(|value| value.to_str()) else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}
