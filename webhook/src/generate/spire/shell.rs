//! Entries flow in, the commands that make them flow out, for SPIRE without
//! spire-controller-manager. Pure.
//!
//! Source: `spire-server entry create` in doc/spire_server.md of
//! github.com/spiffe/spire.

use super::{
    args::Settings,
    identities::Identities,
    manifests::comment_line,
    plan::{self, Below, Entry},
};

/// A command for each entry.
pub(super) fn entry_create(settings: &Settings, identities: &Identities) -> String {
    let mut text = String::new();
    for line in plan::notes(settings, identities) {
        comment_line(&mut text, &line);
    }
    for entry in plan::entries(settings, identities) {
        text.push('\n');
        comment_line(&mut text, &entry.comment);
        text.push_str(&command(&entry));
        text.push('\n');
    }
    text
}

fn command(entry: &Entry) -> String {
    let mut lines = vec!["spire-server entry create".to_owned()];
    let mut flag = |name: &str, value: &str| lines.push(format!("-{name} {}", quoted(value)));
    flag("spiffeID", &entry.spiffe_id);
    if let Below::Entry(parent) = &entry.below {
        flag("parentID", parent);
    }
    for selector in &entry.selectors {
        flag("selector", &selector.to_string());
    }
    if let Some((jwt, x509)) = entry.lives {
        flag("jwtSVIDTTL", &jwt.seconds().to_string());
        flag("x509SVIDTTL", &x509.seconds().to_string());
    }
    if entry.below == Below::Server {
        lines.push("-node".to_owned());
    }
    lines.join(" \\\n  ")
}

/// A word of a POSIX shell.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"/.:_-".contains(&c);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}
