//! One SPIRE agent, one source that asks it, and the questions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::config::{SpiffeConfig, SpiffeSource};
use agent::demand::BindingRef;
use agent::identity::control_plane::ControlPlane;
use agent::identity::sources::Sources;
use agent::identity::{IdentityError, IdentityRequest, IdentitySource as _, Registration, Svid};
use harness::spire::{Entry, KeyType, Method, Spire};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use shared::binding::CredentialKind;
use shared::errors::Code;
use shared::selectors;
use tokio::time::{Instant, sleep, timeout};

pub(crate) const TRUST_DOMAIN: &str = "example.test";
pub(crate) const ISSUER: &str = "https://issuer.example.test";
/// What SPIRE knows about the agent's own pod.
const OWN_POD: &str = "k8s:pod-label:app:argocd-identity-agent";
/// The audience of every request that does not say another.
pub(crate) const AUDIENCE: &str = "quay.test";
/// Longer than anything may take here: a call of the agent may last 35 seconds.
const DEADLINE: Duration = Duration::from_secs(60);

/// Which of SPIRE's APIs the agent uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Delegated,
    Workload,
}

impl Api {
    pub(crate) const BOTH: [Self; 2] = [Self::Delegated, Self::Workload];

    pub(crate) fn jwt(self) -> Method {
        match self {
            Self::Delegated => Method::DelegatedJwtSvids,
            Self::Workload => Method::WorkloadJwtSvid,
        }
    }

    pub(crate) fn x509(self) -> Method {
        match self {
            Self::Delegated => Method::DelegatedX509Svids,
            Self::Workload => Method::WorkloadX509Svid,
        }
    }

    pub(crate) fn jwt_bundles(self) -> Method {
        match self {
            Self::Delegated => Method::DelegatedJwtBundles,
            Self::Workload => Method::WorkloadJwtBundles,
        }
    }

    pub(crate) fn x509_bundles(self) -> Method {
        match self {
            Self::Delegated => Method::DelegatedX509Bundles,
            Self::Workload => Method::WorkloadX509Bundles,
        }
    }
}

#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) api: Api,
    pub(crate) spire: Arc<Spire>,
    source: Arc<Sources>,
    _folder: Arc<tempfile::TempDir>,
}

impl Scene {
    /// SPIRE with the agent's own entry, and a catch-all one where there are selectors to catch.
    pub(crate) fn new(api: Api) -> Self {
        Self::with_issuer(api, None)
    }

    /// As [`Scene::new`]; the agent accepts only this issuer.
    pub(crate) fn with_issuer(api: Api, issuer: Option<&str>) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let spire = Spire::with_keys(folder.path(), TRUST_DOMAIN, KeyType::EcP256);
        let spire = spire.unwrap();
        spire.set_workload(&["k8s:ns:argocd-identity", OWN_POD]);
        let own = id("ns/argocd-identity/sa/argocd-identity-agent");
        spire.add(Entry::new(&own, &[OWN_POD]));
        spire.add(Entry::new(&id("catch-all"), &["k8s:ns:argocd"]));
        let source = source(api, &spire, issuer);
        Self {
            api,
            spire: Arc::new(spire),
            source: Arc::new(source),
            _folder: Arc::new(folder),
        }
    }

    /// As [`Scene::new`], with an entry for this project.
    pub(crate) fn with_project(api: Api, project: &str) -> Self {
        let scene = Self::new(api);
        scene.register(project);
        scene
    }

    /// Registers a project, each of its SVIDs for an hour.
    pub(crate) fn register(&self, project: &str) {
        let hour = Duration::from_secs(60 * 60);
        self.spire.add(self.entry(project).jwt_ttl(hour));
    }

    pub(crate) fn entry(&self, project: &str) -> Entry {
        let service_account = format!("k8s:sa:argocd-project-{project}");
        match self.api {
            Api::Delegated => {
                Entry::new(&project_id(project), &["k8s:ns:argocd", &service_account])
            }
            Api::Workload => Entry::new(&project_id(project), &[OWN_POD]),
        }
    }

    /// Another agent that starts now, for the same SPIRE and any issuer.
    pub(crate) fn another_agent(&self) -> Self {
        Self {
            source: Arc::new(self.sources()),
            ..self.clone()
        }
    }

    /// Sources for another agent.
    pub(crate) fn sources(&self) -> Sources {
        source(self.api, &self.spire, None)
    }

    pub(crate) async fn ask(&self, request: &IdentityRequest) -> Result<Svid, IdentityError> {
        let answer = self.source.identity(request);
        timeout(DEADLINE, answer).await.expect("an answer in time")
    }

    /// The claims of the project's token.
    pub(crate) async fn token(&self, project: &str) -> Result<Value, IdentityError> {
        self.ask(&token(project, AUDIENCE)).await.map(claims)
    }

    /// The code of the error that there must be.
    pub(crate) async fn refusal(&self, request: &IdentityRequest) -> Code {
        match self.ask(request).await {
            Ok(svid) => panic!("{:?}: {svid:?} instead of an error", self.api),
            Err(error) => error.code(),
        }
    }

    /// Asks until the answer is such that `accept` says so.
    pub(crate) async fn ask_until<T>(
        &self,
        request: &IdentityRequest,
        accept: impl Fn(Result<Svid, IdentityError>) -> Result<T, String>,
    ) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match accept(self.ask(request).await) {
                Ok(accepted) => return accepted,
                Err(found) => assert!(Instant::now() < deadline, "{:?}: {found}", self.api),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks until there is an identity.
    pub(crate) async fn served(&self, request: &IdentityRequest) -> Svid {
        let accept = |answer: Result<Svid, IdentityError>| answer.map_err(|it| it.to_string());
        self.ask_until(request, accept).await
    }

    /// Asks until the error has this code.
    pub(crate) async fn refused(&self, request: &IdentityRequest, code: Code) {
        let accept = |answer: Result<Svid, IdentityError>| match answer {
            Err(error) if error.code() == code => Ok(()),
            other => Err(format!("{other:?}, not {code}")),
        };
        self.ask_until(request, accept).await;
    }
}

fn source(api: Api, spire: &Spire, issuer: Option<&str>) -> Sources {
    let source = match api {
        Api::Delegated => SpiffeSource::Spire {
            admin_socket: spire.admin_socket().to_owned(),
            selectors: selectors::DEFAULT.parse().unwrap(),
        },
        Api::Workload => {
            let socket = format!("unix://{}", spire.workload_socket().display());
            SpiffeSource::WorkloadApi(Some(socket.parse().unwrap()))
        }
    };
    start(source, issuer)
}

/// A source as the agent has it, with a control plane that nobody reaches.
pub(crate) fn start(source: SpiffeSource, issuer: Option<&str>) -> Sources {
    let url = "https://control-plane.invalid".parse().unwrap();
    let absent = || PathBuf::from("/nonexistent");
    let issuer = issuer.map(str::to_owned);
    let control_plane = ControlPlane::new(&url, absent(), absent(), issuer.clone());
    Sources::start(control_plane, SpiffeConfig { source, issuer })
}

pub(crate) fn id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{path}")
}

pub(crate) fn project_id(project: &str) -> String {
    id(&format!("ns/argocd/sa/argocd-project-{project}"))
}

/// Asks for a project's JWT-SVID.
pub(crate) fn token(project: &str, audience: &str) -> IdentityRequest {
    IdentityRequest {
        binding: BindingRef {
            namespace: "argocd".into(),
            name: format!("charts-{project}"),
        },
        pod_token: "a pod's token".into(),
        credential: CredentialKind::SpiffeJWT,
        subject: project_id(project),
        audience: audience.into(),
        registration: Registration {
            namespace: "argocd".into(),
            service_account: format!("argocd-project-{project}"),
            project: Some(project.into()),
        },
    }
}

/// Asks for a project's X.509-SVID.
pub(crate) fn certificate(project: &str) -> IdentityRequest {
    IdentityRequest {
        credential: CredentialKind::SpiffeCertificate,
        audience: String::new(),
        ..token(project, AUDIENCE)
    }
}

/// The claims of a JWT-SVID.
pub(crate) fn claims(svid: Svid) -> Value {
    let Svid::Token(token) = svid else {
        panic!("{svid:?} is no token");
    };
    let token = token.token.expose_secret();
    jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap()
}

/// Chain and key of an X.509-SVID, PEM.
pub(crate) fn pem(svid: &Svid) -> (&str, &str) {
    let Svid::Certificate(certificate) = svid else {
        panic!("{svid:?} is no certificate");
    };
    (&certificate.certificates, certificate.key.expose_secret())
}
