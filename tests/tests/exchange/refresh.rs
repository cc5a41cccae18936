//! How often a registry is asked: by the whole engine, with real files and real clocks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent::acquire::Acquirer;
use agent::demand::{Binding, BindingRef, Bindings, Consumer, View};
use agent::engine::{self, Clock, Engine};
use agent::identity::{IdentityError, IdentityRequest, IdentitySource, IdentityToken, Svid};
use agent::report::Reports;
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use harness::upstreams::Upstreams;
use jiff::Timestamp;
use serde_json::json;
use shared::binding::{
    CredentialBindingSpec, CredentialKind, Delivery, Exchange, ExchangeKind, Identity, Provider,
    Target, TargetKind,
};
use shared::errors::Code;
use tokio::sync::watch;

const REGISTRY: &str = "quay.example.test";
const LISTED: &str = "quay.example.test;private";

/// Gives everybody an identity.
struct Identities;

impl IdentitySource for Identities {
    async fn identity(&self, _request: &IdentityRequest) -> Result<Svid, IdentityError> {
        Ok(Svid::Token(IdentityToken {
            token: "identity.jwt.x".into(),
            expires_at: Timestamp::MAX,
        }))
    }

    fn silence(&self, _credential: CredentialKind) -> Code {
        Code::SpireUnavailable
    }
}

/// A token that lives for at most `seconds`, and at least for one less.
fn token(seconds: i64) -> String {
    let exp = Timestamp::now().as_second() + seconds;
    let part = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!(
        "{}.{}.x",
        part(json!({"alg": "none"})),
        part(json!({"exp": exp}))
    )
}

fn binding(path: &str) -> Binding {
    Binding {
        created_at: Timestamp::UNIX_EPOCH,
        generation: 1,
        spec: CredentialBindingSpec {
            target: Target {
                kind: TargetKind::Registry,
                address: format!("{REGISTRY}/{path}"),
            },
            project: None,
            provider: Provider::Spiffe,
            identity: Identity {
                subject: "spiffe://td/ns/argocd/sa/argocd-global".into(),
                audience: REGISTRY.into(),
                service_account: "argocd-global".into(),
                credential: CredentialKind::SpiffeJWT,
            },
            exchange: Exchange {
                username: Some("org+argocd".into()),
                ..Exchange::of(ExchangeKind::Quay)
            },
            delivery: Delivery::DockerConfig,
            consumers: vec!["repo-server".into()],
            proxy: None,
        },
        reported_here: false,
    }
}

fn pod(name: &str, volume: &Path) -> Consumer {
    Consumer {
        pod_uid: name.into(),
        pod: name.into(),
        namespace: "argocd".into(),
        service_account: "repo-server".into(),
        volume: volume.to_owned(),
        view: View::ArgoCd,
        token: "pod-token".into(),
        token_expires_at: Timestamp::MAX,
    }
}

#[tokio::test]
async fn two_pods_and_three_bindings_of_one_identity_cost_one_exchange_per_period() {
    let world = Upstreams::new().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&asked);
    let routes = Router::new().fallback(move || {
        times.lock().unwrap().push(Instant::now());
        async { Json(json!({"token": token(4)})) }
    });
    let _server = world.serve(&[REGISTRY], routes).await.unwrap();

    let acquirer = Acquirer::new(Identities, world.upstream(LISTED).unwrap());
    let (reports, reported) = watch::channel(Reports::default());
    let names = ["one", "two", "three"];
    let bindings: Bindings = names
        .into_iter()
        .map(|name| {
            let reference = BindingRef {
                namespace: "argocd".into(),
                name: name.into(),
            };
            (reference, binding(name))
        })
        .collect::<BTreeMap<_, _>>();
    let (listed, watched) = watch::channel(None);
    let (handle, events) = engine::channel();
    let engine = Engine::new(
        "node".into(),
        Clock::system(),
        acquirer,
        Default::default(),
        reports,
    );
    tokio::spawn(engine.run(events, watched));
    listed.send_replace(Some(Arc::new(bindings)));

    let volumes = [(); 2].map(|()| tempfile::tempdir_in("/dev/shm").unwrap());
    for (index, volume) in volumes.iter().enumerate() {
        handle
            .publish(pod(&format!("pod-{index}"), volume.path()))
            .await;
    }
    let started = Instant::now();
    let times = loop {
        let times = asked.lock().unwrap().clone();
        if times.len() >= 4 {
            break times;
        }
        let late = started.elapsed() > Duration::from_secs(60);
        assert!(!late, "{times:?} {:?}", *reported.borrow());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for pair in times.windows(2) {
        // 75 % of a life of 3 s at least, less what the call took.
        let gap = pair[1] - pair[0];
        assert!(gap >= Duration::from_millis(2_150), "{gap:?}");
    }
    for volume in &volumes {
        let config = std::fs::read_to_string(volume.path().join("docker/config.json")).unwrap();
        assert!(config.contains(REGISTRY), "{config}");
    }
}
