//! Who asks, for which binding: reviewed tokens, a pod's state and a derived
//! binding flow in, a [`Grant`] or a named refusal flows out. Pure.
//!
//! Each step returns evidence that the next one asks for, so that none can be
//! left out:
//!
//! ```text
//! agent token ─▶ Agent ─┐
//! pod token ────────────┴▶ Consumer ─┐
//! pod, binding ──────────────────────┴▶ Grant
//! ```
//!
//! Labels and annotations prove nothing here: a stolen node can make a mirror
//! pod with any of them, but not get a token of a service account that runs
//! nowhere on it (the node authorizer and NodeRestriction see to that).

use std::collections::BTreeMap;

use jiff::Timestamp;
use shared::{
    binding::{CredentialBindingSpec, Identity, undeliverable},
    errors::{Code, Named},
    layout::TOKEN_AUDIENCE,
};

// Extra fields of a bound token's user (Kubernetes 1.30 and later,
// ServiceAccountTokenPodNodeInfo).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// Whom the control plane serves.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The installation's namespace, in which the agents run.
    pub namespace: String,
    /// The agents' service account.
    pub agent_service_account: String,
    /// Namespaces whose Secrets are served.
    pub argocd_namespaces: Vec<String>,
}

/// What the API server said about a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReviewedToken {
    /// Whether it vouches for the token.
    pub authenticated: bool,
    /// The audiences that the token and the question have in common.
    pub audiences: Vec<String>,
    /// The user.
    pub username: String,
    /// More about the user.
    pub extra: BTreeMap<String, Vec<String>>,
    /// Why the token was refused, in the API server's words.
    pub words: String,
}

impl ReviewedToken {
    /// Why the token is not accepted, if it is not. An API server that does
    /// not know audiences returns none.
    fn rejection(&self) -> Option<String> {
        if !self.authenticated {
            let words: String = self.words.chars().take(200).collect();
            return Some(match words.is_empty() {
                true => "TokenReview: not authenticated".to_owned(),
                false => format!("TokenReview: {}", words.escape_debug()),
            });
        }
        let is_ours = self
            .audiences
            .iter()
            .any(|audience| audience == TOKEN_AUDIENCE);
        (!is_ours).then(|| format!("its audience is not {TOKEN_AUDIENCE}"))
    }

    /// The only value of an extra field.
    fn one(&self, field: &str) -> Option<&str> {
        match self.extra.get(field).map(Vec::as_slice) {
            Some([value]) if !value.is_empty() => Some(value),
            _ => None,
        }
    }

    fn bound(&self) -> Result<Bound, &'static str> {
        let one = |field| self.one(field).map(str::to_owned).ok_or(field);
        Ok(Bound {
            pod_name: one(POD_NAME)?,
            pod_uid: one(POD_UID)?,
            node_name: one(NODE_NAME)?,
            node_uid: one(NODE_UID)?,
        })
    }

    fn service_account(&self) -> Option<(&str, &str)> {
        let rest = self.username.strip_prefix("system:serviceaccount:")?;
        let (namespace, name) = rest.split_once(':')?;
        (!namespace.is_empty() && !name.is_empty()).then_some((namespace, name))
    }
}

/// The pod and node that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bound {
    pod_name: String,
    pod_uid: String,
    node_name: String,
    node_uid: String,
}

/// A credential agent in a pod on a known node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    node_name: String,
    node_uid: String,
}

impl Agent {
    /// The name of its node.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// The uid of its node.
    pub fn node_uid(&self) -> &str {
        &self.node_uid
    }
}

/// A pod on the agent's node, and who runs in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    namespace: String,
    service_account: String,
    pod_name: String,
    pod_uid: String,
}

impl Consumer {
    /// The pod's name.
    pub fn pod_name(&self) -> &str {
        &self.pod_name
    }

    /// The pod's uid.
    pub fn pod_uid(&self) -> &str {
        &self.pod_uid
    }
}

/// What the API server has of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    /// Nothing.
    Absent,
    /// A pod of that name.
    Present {
        /// Its uid.
        uid: String,
        /// Its phase.
        phase: String,
        /// When its grace period ends, if it is being deleted.
        deletion: Option<Timestamp>,
    },
}

/// The right to one identity token. Only [`grant`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    namespace: String,
    identity: Identity,
}

impl Grant {
    /// The namespace of the binding, its Secret and its service account.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whose identity it is, and the kind of its proof.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Recognises a credential agent by its token.
///
/// # Errors
/// [`Code::AgentTokenRejected`], [`Code::AgentNotAuthorized`],
/// [`Code::AgentTokenUnbound`].
pub fn agent(token: &ReviewedToken, policy: &Policy) -> Result<Agent, Named> {
    if let Some(reason) = token.rejection() {
        return Err(Named::new(Code::AgentTokenRejected, reason));
    }
    let expected = (
        policy.namespace.as_str(),
        policy.agent_service_account.as_str(),
    );
    if token.service_account() != Some(expected) {
        let (namespace, name) = expected;
        return Err(Named::new(
            Code::AgentNotAuthorized,
            format!(
                "`{}` is not {namespace}/{name}",
                token.username.escape_debug()
            ),
        ));
    }
    let bound = token
        .bound()
        .map_err(|field| Named::new(Code::AgentTokenUnbound, format!("it lacks {field}")))?;
    Ok(Agent {
        node_name: bound.node_name,
        node_uid: bound.node_uid,
    })
}

/// Recognises a pod of `namespace` on the agent's node by its token.
///
/// # Errors
/// [`Code::PodTokenRejected`], [`Code::PodTokenUnbound`],
/// [`Code::NodeMismatch`], [`Code::NotAConsumer`].
pub fn consumer(token: &ReviewedToken, agent: &Agent, namespace: &str) -> Result<Consumer, Named> {
    if let Some(reason) = token.rejection() {
        return Err(Named::new(Code::PodTokenRejected, reason));
    }
    let bound = token
        .bound()
        .map_err(|field| Named::new(Code::PodTokenUnbound, format!("it lacks {field}")))?;
    // By uid: a node that was made again under the same name is another one.
    if bound.node_uid != agent.node_uid {
        let (pod, node, asks) = (&bound.pod_name, &bound.node_name, &agent.node_name);
        return Err(Named::new(
            Code::NodeMismatch,
            format!("pod {pod} is on node {node}, the agent on {asks}"),
        ));
    }
    match token.service_account() {
        Some((pod_namespace, name)) if pod_namespace == namespace => Ok(Consumer {
            namespace: pod_namespace.to_owned(),
            service_account: name.to_owned(),
            pod_name: bound.pod_name,
            pod_uid: bound.pod_uid,
        }),
        _ => Err(Named::new(
            Code::NotAConsumer,
            format!(
                "`{}` is no service account of namespace {namespace}",
                token.username.escape_debug()
            ),
        )),
    }
}

/// Grants a running consumer the identity of the binding `name`, whose `spec`
/// was derived from its Secret.
///
/// # Errors
/// [`Code::PodNotRunning`], [`Code::NotAConsumer`], and the code of what this
/// version cannot deliver.
pub fn grant(
    consumer: &Consumer,
    pod: &PodState,
    name: &str,
    spec: &CredentialBindingSpec,
    now: Timestamp,
) -> Result<Grant, Named> {
    running(consumer, pod, now)?;
    let (namespace, account) = (&consumer.namespace, &consumer.service_account);
    if !spec.consumers.contains(account) {
        let expected = spec.consumers.join(", ");
        return Err(Named::new(
            Code::NotAConsumer,
            format!("CredentialBinding {namespace}/{name}: {account} is not one of {expected}"),
        ));
    }
    match undeliverable(&crate::derive::object_name(namespace, name), spec) {
        Some(error) => Err(error),
        None => Ok(Grant {
            namespace: namespace.clone(),
            identity: spec.identity.clone(),
        }),
    }
}

fn running(consumer: &Consumer, pod: &PodState, now: Timestamp) -> Result<(), Named> {
    let reason = match pod {
        PodState::Absent => "it is gone".to_owned(),
        PodState::Present { uid, .. } if *uid != consumer.pod_uid => {
            "another pod has its name now".to_owned()
        }
        PodState::Present { phase, .. } if matches!(phase.as_str(), "Succeeded" | "Failed") => {
            format!("its phase is {phase}")
        }
        // Until its grace period ends, a pod may need to finish what it does.
        PodState::Present {
            deletion: Some(end),
            ..
        } if *end <= now => "its grace period is over".to_owned(),
        PodState::Present { .. } => return Ok(()),
    };
    let (namespace, name) = (&consumer.namespace, &consumer.pod_name);
    Err(Named::new(
        Code::PodNotRunning,
        format!("pod {namespace}/{name}: {reason}"),
    ))
}

#[cfg(test)]
mod tests;
