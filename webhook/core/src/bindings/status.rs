//! Conditions: a binding's spec, what nodes report and what is wrong flow in,
//! `Ready`, `Degraded`, the earliest expiry and the entries to prune flow out.
//! Pure; the time is passed in.
//!
//! `Ready` says whether every node with a consumer has a valid credential,
//! `Degraded` whether somebody has to do something. Both can be true: a refresh
//! has failed, and the last good credential is still valid.

use std::sync::Arc;

use jiff::Timestamp;
use shared::{
    binding::{Condition, NodeState},
    errors::{Code, Named},
};

use super::{
    binding::{Binding, NodeView, StatusView},
    condition::{
        AS_EXPECTED, DEGRADED, FALSE, IS_READY, NO_CONSUMER, PENDING, READY, TRUE, UNKNOWN,
    },
};

/// A condition's message is longer than this only by mistake.
const LONGEST_MESSAGE: usize = 2048;

/// What the conditions are made from, besides the binding itself.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// What is wrong with the Secret or the service account. The binding's spec
    /// is then the last good one, and what nodes have of it stays valid.
    pub problems: &'a [Named],
    /// Why no credential of this binding is delivered at all.
    pub blocked: Option<&'a Named>,
    /// What keeps Argo CD from using the credential although it is there.
    pub notices: &'a [Named],
    /// Those of the nodes that report which are gone; `None` while the nodes
    /// are not known.
    pub vanished: Option<&'a [Arc<str>]>,
    /// Whether a consumer's service account is there; `None` while service
    /// accounts are not known.
    pub has_consumer: Option<bool>,
    /// Whether there may be notices that are not known yet.
    pub is_partial: bool,
}

/// What the status should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// `Ready` and `Degraded`.
    pub conditions: Vec<Condition>,
    /// While something is wrong, the earliest expiry over all nodes.
    pub expires_at: Option<Timestamp>,
    /// Names of entries whose node is gone.
    pub vanished: Vec<Arc<str>>,
    /// When this has to be looked at again although nothing changes: the next
    /// credential expires then, and its agent may be silent.
    pub again_at: Option<Timestamp>,
}

impl StatusView {
    fn has(&self, condition: &Condition) -> bool {
        let mut written = self.conditions.iter();
        written.any(|written| {
            written.kind == condition.kind
                && written.status == condition.status
                && written.reason == condition.reason
                && *written.message == *condition.message
                && written.last_transition_time == condition.last_transition_time
                && written.observed_generation == condition.observed_generation
        })
    }
}

/// Judges a binding.
///
/// While not everything is known that a condition is made from, it stays as it
/// is, or gets worse: another controller may have known more.
pub fn judge(binding: &Binding, around: Circumstances<'_>, now: Timestamp) -> Verdict {
    let is_gone = |node: &&NodeView| {
        let vanished = around.vanished.unwrap_or_default();
        vanished.contains(&node.name)
    };
    let (gone, live): (Vec<_>, Vec<_>) = binding.status.nodes.iter().partition(is_gone);
    let ready = ready(binding, &live, around, now);
    let degraded = degraded(&live, around, now);
    let ready_is_partial = around.blocked.is_none()
        && (around.vanished.is_none() || (live.is_empty() && around.has_consumer.is_none()));
    let degraded_is_partial = around.is_partial || around.vanished.is_none();
    let conditions = [
        (READY, ready, ready_is_partial, FALSE),
        (DEGRADED, degraded, degraded_is_partial, TRUE),
    ]
    .map(|(kind, finding, is_partial, bad)| {
        let before = binding.condition(kind);
        match before.filter(|before| is_partial && !(finding.status == bad && before.status != bad))
        {
            Some(before) => before.into(),
            None => condition(binding, kind, finding, now),
        }
    });
    let expiries = live.iter().filter_map(|node| node.expires_at);
    let is_well = conditions[0].status != FALSE && conditions[1].status == FALSE;
    Verdict {
        expires_at: expiries.clone().min().filter(|_| !is_well),
        conditions: conditions.into(),
        vanished: gone
            .into_iter()
            .map(|node| Arc::clone(&node.name))
            .collect(),
        again_at: expiries.filter(|expiry| *expiry > now).min(),
    }
}

impl Verdict {
    /// Whether a reader would see a difference. An expiry that only moves on,
    /// because agents go on renewing, is none until the one that is written
    /// has passed.
    pub fn differs_from(&self, written: &StatusView, now: Timestamp) -> bool {
        let is_true_still = match (written.expires_at, self.expires_at) {
            (Some(written), Some(expiry)) => {
                written == expiry || (now < written && written < expiry)
            }
            (written, expiry) => written == expiry,
        };
        self.conditions.len() != written.conditions.len()
            || !self
                .conditions
                .iter()
                .all(|condition| written.has(condition))
            || !is_true_still
    }
}

struct Finding {
    status: &'static str,
    reason: String,
    message: String,
}

impl Finding {
    fn new(status: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    fn named(status: &'static str, error: &Named) -> Self {
        Self::new(status, error.code.as_str(), error.to_string())
    }
}

fn ready(
    binding: &Binding,
    live: &[&NodeView],
    around: Circumstances<'_>,
    now: Timestamp,
) -> Finding {
    if let Some(error) = around.blocked {
        return Finding::named(FALSE, error);
    }
    if live.is_empty() {
        return Finding::new(UNKNOWN, NO_CONSUMER, missing_consumer(binding, around));
    }
    let without = live.iter().find(|node| !has_valid(node, now));
    match without {
        // The order matters: an error explains more than "pending".
        Some(node) => match failure(node, now) {
            Some(finding) => Finding {
                status: FALSE,
                ..finding
            },
            None => Finding::new(
                FALSE,
                PENDING,
                on(node, "the first credential is being obtained"),
            ),
        },
        None => match live.iter().find(|node| node.is_behind) {
            Some(node) => Finding::new(FALSE, PENDING, on(node, "a change is being taken in")),
            None => Finding::new(TRUE, IS_READY, nodes(live.len())),
        },
    }
}

fn degraded(live: &[&NodeView], around: Circumstances<'_>, now: Timestamp) -> Finding {
    if let Some(finding) = all(around.problems) {
        return finding;
    }
    if let Some(error) = around.blocked {
        return Finding::named(TRUE, error);
    }
    let failed = live.iter().find_map(|node| failure(node, now));
    match (failed, all(around.notices)) {
        // A notice may be why the node fails.
        (Some(mut failed), Some(notice)) => {
            failed.message.push(' ');
            failed.message.push_str(&notice.message);
            failed
        }
        (Some(finding), None) | (None, Some(finding)) => finding,
        (None, None) => Finding::new(FALSE, AS_EXPECTED, ""),
    }
}

/// The first gives the reason, all are in the message.
fn all(problems: &[Named]) -> Option<Finding> {
    let (first, more) = problems.split_first()?;
    let mut finding = Finding::named(TRUE, first);
    for problem in more {
        finding.message.push(' ');
        finding.message.push_str(&problem.to_string());
    }
    Some(finding)
}

/// What is wrong on a node.
fn failure(node: &NodeView, now: Timestamp) -> Option<Finding> {
    if let Some(error) = &node.error {
        return Some(Finding::new(TRUE, &error.code, on(node, &error.message)));
    }
    let is_expired = node.expires_at.is_some_and(|expiry| expiry <= now);
    // An agent says why, unless it is silent.
    (node.state == NodeState::Degraded || is_expired).then(|| {
        let code = Code::CredentialExpired;
        Finding::new(TRUE, code.as_str(), on(node, code.cause()))
    })
}

fn has_valid(node: &NodeView, now: Timestamp) -> bool {
    match node.expires_at {
        Some(expiry) => expiry > now,
        None => node.state == NodeState::Ready,
    }
}

fn missing_consumer(binding: &Binding, around: Circumstances<'_>) -> String {
    let consumers = binding.spec.as_ref().map(|spec| &spec.consumers);
    let list = consumers.map(|names| names.join(", ")).unwrap_or_default();
    match around.has_consumer {
        Some(false) => format!("the namespace has no service account {list}"),
        Some(true) | None => format!("no injected pod runs as {list} yet"),
    }
}

fn on(node: &NodeView, message: &str) -> String {
    format!("node {}: {message}", node.name)
}

fn nodes(count: usize) -> String {
    match count {
        1 => "a valid credential is on 1 node".to_owned(),
        _ => format!("valid credentials are on {count} nodes"),
    }
}

fn condition(binding: &Binding, kind: &str, finding: Finding, now: Timestamp) -> Condition {
    let before = binding.condition(kind);
    // The API keeps whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        kind: kind.to_owned(),
        last_transition_time: match before {
            Some(before) if before.status == finding.status => before.last_transition_time,
            _ => now,
        },
        status: finding.status.to_owned(),
        reason: finding.reason,
        message: finding.message.chars().take(LONGEST_MESSAGE).collect(),
        observed_generation: binding.metadata.generation,
    }
}

#[cfg(test)]
mod tests;
