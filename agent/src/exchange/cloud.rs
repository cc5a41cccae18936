//! What the exchanges of Google Cloud and Azure share. What they give is good
//! at every registry of its cloud, so it goes to those alone.

use shared::binding::ExchangeKind;
use shared::clouds;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::http::Outlet;

/// Refuses a registry that is neither the cloud's own nor listed by the
/// administrator. Called before anything is sent.
///
/// # Errors
/// [`Code::HostNotAllowed`].
pub(super) fn check_registry(
    kind: ExchangeKind,
    host: &RegistryHost,
    outlet: &Outlet,
) -> Result<(), Named> {
    if clouds::is_registry(kind, host.name()) || outlet.lists_registry() {
        return Ok(());
    }
    let detail = format!("registry {host}: no registry of the cloud of exchange {kind}");
    Err(Named::new(Code::HostNotAllowed, detail))
}

/// Whether `text` is one label of a URL's path that needs no encoding and
/// leads nowhere else.
pub(super) fn is_plain(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@".contains(&byte);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(is_plain)
}
