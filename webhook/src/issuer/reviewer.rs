//! Asks the API server: tokens and names flow in, facts for
//! [`authorize`](control_plane_core::identity::authorize) flow out. Nothing is cached here: the
//! token of a deleted pod is refused at once.

use control_plane_core::{
    derive::{
        Derivation,
        meaning::{Derived, Owner},
        object_name,
    },
    identity::authorize::{Consumer, PodState, ReviewedToken},
};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
    core::v1::Pod,
};
use kube::{Api, Client, api::PostParams};
use secrecy::{ExposeSecret, SecretString};
use shared::{
    binding::CredentialBindingSpec,
    errors::{Code, Named},
    layout::TOKEN_AUDIENCE,
};
use zeroize::Zeroize;

use crate::source;

/// A binding as its Secret and service account make it.
#[derive(Debug)]
pub struct Binding {
    /// Its Secret.
    pub secret: Owner,
    /// What the Secret says.
    pub spec: CredentialBindingSpec,
    /// What the service account does not say, or that there is none.
    pub lacks: Option<Named>,
}

/// The API server as the identity API uses it.
#[derive(Clone)]
pub struct Reviewer {
    client: Client,
    derivation: Derivation,
}

impl Reviewer {
    /// A reviewer that derives bindings like the controller does.
    pub fn new(client: Client, derivation: Derivation) -> Self {
        Self { client, derivation }
    }

    /// Has a token reviewed for our audience.
    ///
    /// # Errors
    /// [`Code::IssuerUnavailable`] when the API server does not answer.
    pub async fn review(&self, token: &SecretString) -> Result<ReviewedToken, Named> {
        self.review_for(token, Some(TOKEN_AUDIENCE)).await
    }

    /// Has a token reviewed for an audience; `None` is whatever the API server
    /// takes for its own.
    ///
    /// # Errors
    /// [`Code::IssuerUnavailable`] when the API server does not answer.
    pub async fn review_for(
        &self,
        token: &SecretString,
        audience: Option<&str>,
    ) -> Result<ReviewedToken, Named> {
        let mut review = TokenReview {
            spec: TokenReviewSpec {
                audiences: audience.map(|audience| vec![audience.to_owned()]),
                token: Some(token.expose_secret().to_owned()),
            },
            ..TokenReview::default()
        };
        let api = Api::<TokenReview>::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        review.spec.token.zeroize();
        let mut answer = answer.map_err(|error| unavailable("TokenReview", &error))?;
        answer.spec.token.zeroize();
        let mut reviewed = reviewed(answer.status.unwrap_or_default());
        // The words of an authentication webhook might repeat the token.
        if reviewed.words.contains(token.expose_secret()) {
            reviewed.words.clear();
        }
        Ok(reviewed)
    }

    /// The state of a consumer's pod.
    ///
    /// # Errors
    /// [`Code::IssuerUnavailable`] when the API server does not answer.
    pub async fn pod(&self, namespace: &str, consumer: &Consumer) -> Result<PodState, Named> {
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        match api.get_opt(consumer.pod_name()).await {
            Ok(pod) => Ok(state(pod)),
            Err(error) => Err(unavailable("reading the pod", &error)),
        }
    }

    /// The binding, derived from its Secret and service account.
    ///
    /// # Errors
    /// [`Code::BindingNotFound`], [`Code::IssuerUnavailable`], or the first
    /// thing that is wrong with the Secret.
    pub async fn binding(&self, namespace: &str, name: &str) -> Result<Binding, Named> {
        let found = source::fetch(&self.client, &self.derivation, namespace, name)
            .await
            .map_err(|error| unavailable("reading the Secret", &error))?;
        let object = object_name(namespace, name);
        match found.derived {
            Derived::Valid(secret, spec) => Ok(Binding {
                secret,
                spec: *spec,
                lacks: found.lacks,
            }),
            Derived::Invalid(_, problems) | Derived::Elsewhere(_, problems) => Err(problems
                .into_iter()
                .next()
                .unwrap_or_else(|| Named::new(Code::InvalidSecret, object))),
            Derived::Absent | Derived::Unused(_) => Err(Named::new(Code::BindingNotFound, object)),
        }
    }
}

/// The cause goes to the log only: agents can do nothing about it.
pub(super) fn unavailable(step: &'static str, error: &kube::Error) -> Named {
    tracing::error!(
        error = error as &dyn std::error::Error,
        step,
        "the API server gave no answer"
    );
    Named::new(Code::IssuerUnavailable, step)
}

fn reviewed(status: TokenReviewStatus) -> ReviewedToken {
    let user = status.user.unwrap_or_default();
    ReviewedToken {
        authenticated: status.authenticated.unwrap_or(false),
        audiences: status.audiences.unwrap_or_default(),
        username: user.username.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
        words: status.error.unwrap_or_default(),
    }
}

fn state(pod: Option<Pod>) -> PodState {
    let Some(pod) = pod else {
        return PodState::Absent;
    };
    PodState::Present {
        uid: pod.metadata.uid.unwrap_or_default(),
        phase: pod
            .status
            .and_then(|status| status.phase)
            .unwrap_or_default(),
        deletion: pod.metadata.deletion_timestamp.map(|time| time.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reviews_and_pods_are_read_from_the_api() {
        let status: TokenReviewStatus = serde_json::from_value(json!({
            "authenticated": true, "audiences": [TOKEN_AUDIENCE],
            "user": {"username": "u", "extra": {"authentication.kubernetes.io/pod-name": ["p"]}},
        }))
        .unwrap();
        let reviewed = reviewed(status);
        assert_eq!(
            (reviewed.authenticated, reviewed.username.as_str()),
            (true, "u")
        );
        assert_eq!(
            reviewed.extra["authentication.kubernetes.io/pod-name"],
            ["p"]
        );

        assert_eq!(state(None), PodState::Absent);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u", "deletionTimestamp": "1970-01-12T13:46:40Z"},
            "status": {"phase": "Running"},
        }))
        .unwrap();
        let expected = PodState::Present {
            uid: "u".into(),
            phase: "Running".into(),
            deletion: "1970-01-12T13:46:40Z".parse().ok(),
        };
        assert_eq!(state(Some(pod)), expected);
    }
}
