//! What Argo CD pulls from and deploys to: a private registry, a remote cluster, and the objects of an
//! Argo CD that uses both.
//!
//! The registry starts first. The remote cluster waits for the issuer that it trusts, which may be the project itself.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::chart::{Chart, Destination};
use crate::code::{self, CodeHost};
use crate::control_plane::{
    Authority, Etcd, OidcIssuer, Proof, RemoteCluster, RemoteSettings, apply,
};
use crate::folders::create;
use crate::identities::Trust;
use crate::installation::TRUST_DOMAIN;
use crate::peers::Peers;
use crate::ports;
use crate::process::wait_until;
use crate::quay::{self, Lifetimes, Quay, Robot};
use crate::registry::{CertificateAuth, Registry};
use crate::scene::ARGOCD;

/// Audience of the remote cluster.
pub const SPOKE_AUDIENCE: &str = "spoke";
/// Another one, for a second cluster Secret that names it by another URL: no two Secrets share an audience.
pub const SECOND_SPOKE_AUDIENCE: &str = "spoke-2";
/// The robot that pulls what is below `prod/`.
pub const ROBOT: &str = "prod+argocd";
const PUBLISHER: &str = "prod+publisher";
const AUTHORITY_FILE: &str = "authority.pem";
/// Until what was granted is in force.
const LIMIT: Duration = Duration::from_secs(30);

/// How long credentials live in the scene.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    /// Identity tokens, from the issuer.
    pub identity: Duration,
    /// Robot tokens, from the registry.
    pub robot: Duration,
}

/// How the targets of one scene differ from another's.
#[derive(Debug)]
pub struct Options {
    /// Where they listen: loopback, or an address that pods can reach.
    pub address: Ipv4Addr,
    /// Whose identities they trust.
    pub trust: Trust,
    /// How long tokens of the registry's robots live.
    pub robot_life: Duration,
}

/// The registry, and the place of the remote cluster.
pub struct Targets {
    /// The private registry.
    pub quay: Quay,
    /// Issues every certificate of the scene.
    pub authority: Authority,
    /// Whose identities both trust.
    pub trust: Trust,
    address: Ipv4Addr,
    /// Where the remote cluster is going to listen.
    remote: SocketAddrV4,
    folder: PathBuf,
}

impl Targets {
    /// Starts the registry, with its files below `folder`; it answers when this returns. The remote cluster starts
    /// when its issuer runs.
    ///
    /// # Errors
    /// When it cannot be started, with the last lines of its log.
    pub async fn start(folder: &Path, peers: &Peers, options: Options) -> Result<Self> {
        let Options {
            address,
            trust,
            robot_life,
        } = options;
        let authority = Authority::new("argocd-workload-identity tests")?;
        let authority_file = folder.join(AUTHORITY_FILE);
        fs::write(&authority_file, authority.pem()).context("write the authority")?;
        let place = anywhere(address);
        let quay = registry(folder.join("quay"), peers, place, &authority, robot_life).await?;
        Ok(Self {
            quay,
            authority,
            trust,
            address,
            remote: SocketAddrV4::new(address, ports::free()?),
            folder: folder.to_owned(),
        })
    }

    /// Starts the remote cluster, with its data in `etcd`; it trusts the identities, whose issuer has to run, and
    /// takes their tokens when this returns.
    ///
    /// # Errors
    /// As [`RemoteCluster::start`].
    pub async fn remote(
        &self,
        peers: &Peers,
        etcd: Arc<Etcd>,
        proof: &Proof,
    ) -> Result<RemoteCluster> {
        let issuer = OidcIssuer {
            url: self.trust.issuer_url().to_owned(),
            ca_pem: self.authority.pem().to_owned(),
            audiences: vec![SPOKE_AUDIENCE.into(), SECOND_SPOKE_AUDIENCE.into()],
        };
        let settings = RemoteSettings {
            name: "remote",
            address: self.remote,
            issuer: &issuer,
            proof,
        };
        RemoteCluster::start(&self.folder, peers, etcd, settings).await
    }

    /// Where the registry and the remote cluster listen.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A client of somebody who trusts their certificates, and has no credential.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn http_client(&self) -> Result<reqwest::Client> {
        let authority = reqwest::Certificate::from_pem(self.authority.pem().as_bytes())
            .context("the authority's certificate")?;
        reqwest::Client::builder()
            .tls_certs_only([authority])
            .no_proxy()
            .build()
            .context("make an HTTP client")
    }

    /// The allow-list of an administrator who knows the hosts of registries and code, at any port, and the remote
    /// cluster, which need not run yet, under both of its names.
    #[must_use]
    pub fn allowed_hosts(&self) -> String {
        let (quay, code, remote) = (quay::HOST, code::HOST, self.remote.port());
        let address = self.address;
        format!(
            "{quay};private,{code};private,{address}:{remote};private,localhost:{remote};private"
        )
    }

    /// Starts another registry under the same host name, at a port of its own, which is another host to
    /// Docker configurations. It has no robots and no content.
    ///
    /// # Errors
    /// As [`Quay::start`].
    pub async fn registry(&self, peers: &Peers, name: &str, robot_life: Duration) -> Result<Quay> {
        let folder = self.folder.join("registries").join(name);
        let place = anywhere(self.address);
        registry(folder, peers, place, &self.authority, robot_life).await
    }

    /// The same under a host name and at a place of its own, with Quay's own lifetimes.
    ///
    /// # Errors
    /// As [`Quay::start`].
    pub async fn named(
        &self,
        peers: &Peers,
        name: &str,
        host: &str,
        address: SocketAddrV4,
    ) -> Result<Quay> {
        let folder = self.folder.join("registries").join(name);
        let life = Lifetimes::default().robot;
        registry(folder, peers, (host, address), &self.authority, life).await
    }

    /// Starts a registry that serves whoever has a certificate of one of the authorities (PEM), under the host name of the
    /// private registry at a port of its own, with this chart below `charts`.
    ///
    /// # Errors
    /// As [`Registry::with_certificates`], and with Helm's own words.
    pub async fn certificate_registry(
        &self,
        peers: &Peers,
        client_authorities: &str,
        chart: &Chart<'_>,
    ) -> Result<Registry> {
        let folder = create(self.folder.join("certificate-registry"))?;
        let open = Registry::open(peers.registry(), &folder).await?;
        chart.push_in_the_open(peers.helm(), &folder, &open.url(), "charts")?;
        drop(open);
        let auth = CertificateAuth {
            address: self.address,
            certificate: &self.authority.issue(&[quay::HOST])?,
            client_authorities,
        };
        Registry::with_certificates(peers.registry(), &folder, &auth).await
    }

    /// Starts a code host that knows the robots of a registry.
    ///
    /// # Errors
    /// As [`CodeHost::start`].
    pub async fn code_host(&self, name: &str, quay: &Quay) -> Result<CodeHost> {
        CodeHost::start(code::Options {
            folder: &self.folder.join("code").join(name),
            certificate: &self.authority.issue(&[code::HOST])?,
            accounts: quay.accounts(),
        })
        .await
    }

    /// Publishes a chart below `prod/charts`, and lets the robot [`ROBOT`] pull
    /// what is below `prod/`: a robot that trusts the identity of Secrets
    /// without a project.
    ///
    /// # Errors
    /// With Helm's own words.
    pub fn publish(&self, peers: &Peers, chart: &Chart<'_>) -> Result<()> {
        let subject = self.trust.subject("argocd-global");
        self.quay.add_robot(Robot::federated(
            ROBOT,
            self.trust.issuer_url(),
            subject,
            &["prod/"],
        ));
        self.push(peers, &self.quay, "prod/charts", chart)
    }

    /// Pushes a chart below `path` of a registry.
    ///
    /// # Errors
    /// With Helm's own words.
    pub fn push(&self, peers: &Peers, quay: &Quay, path: &str, chart: &Chart<'_>) -> Result<()> {
        let password = "publisher";
        let (top, _) = path.split_once('/').unwrap_or((path, ""));
        let below = format!("{top}/");
        quay.add_robot(Robot::publisher(PUBLISHER, password, &[&below]));
        let to = Destination {
            host: quay.host(),
            path,
            user: PUBLISHER,
            password,
            authority: &self.folder.join(AUTHORITY_FILE),
        };
        chart.push(peers.helm(), &self.folder, &to)
    }

    /// Lets the identity of unscoped cluster Secrets do everything in the
    /// remote cluster, and makes a namespace there. It may when this returns.
    ///
    /// # Errors
    /// When the remote cluster refuses it.
    pub async fn admit_to(&self, remote: &RemoteCluster, target: &str) -> Result<()> {
        let user = self.trust.cluster_subject();
        let yaml = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {target}}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\n\
             metadata: {{name: argocd}}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, \
             kind: ClusterRole, name: cluster-admin}}\nsubjects:\n- apiGroup: \
             rbac.authorization.k8s.io\n  kind: User\n  name: {user}\n",
        );
        let admin = remote.client()?;
        apply(&admin, "", &yaml).await?;
        // Its authorizer learns of it by a watch.
        let what = format!("the rights of {user} in the remote cluster");
        wait_until(&what, LIMIT, || may_do_everything(&admin, &user)).await
    }

    /// The repository Secret of the Quay guide without its project line.
    #[must_use]
    pub fn repository_secret(&self, name: &str) -> String {
        let host = self.quay.host();
        let auth = self.quay.federation_url();
        secret(
            name,
            "repository",
            &[
                ("type", "helm"),
                ("url", &format!("oci://{host}/prod/charts")),
                ("useWorkloadIdentity", "true"),
                ("workloadIdentityProvider", "spiffe"),
                ("workloadIdentityAudience", quay::HOST),
                ("workloadIdentityRegistryAuthURL", &auth),
                ("workloadIdentityRegistryService", host),
                ("workloadIdentityRegistryUsername", ROBOT),
            ],
        )
    }

    /// A cluster Secret for the remote cluster, with its CA and nothing to authenticate with.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn cluster_secret(&self, remote: &RemoteCluster, name: &str) -> Result<String> {
        use base64::Engine as _;
        let ca = base64::engine::general_purpose::STANDARD.encode(remote.ca_pem());
        let config = serde_json::json!({ "tlsClientConfig": { "caData": ca } }).to_string();
        let (url, more) = (remote.url(), self.trust.secret_values());
        let values = [
            ("name", name),
            ("server", &url),
            ("config", &config),
            ("useWorkloadIdentity", "true"),
            ("workloadIdentityAudience", SPOKE_AUDIENCE),
        ];
        Ok(secret(name, "cluster", &[&values, more].concat()))
    }
}

/// Looks once whether a user may do everything in a cluster.
async fn may_do_everything(admin: &Client, user: &str) -> Result<()> {
    let all = || Some("*".to_owned());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            resource_attributes: Some(ResourceAttributes {
                verb: all(),
                group: all(),
                resource: all(),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews = Api::<SubjectAccessReview>::all(admin.clone());
    let answer = reviews.create(&PostParams::default(), &review).await?;
    let is_allowed = answer.status.as_ref().is_some_and(|status| status.allowed);
    ensure!(is_allowed, "{:?}", answer.status);
    Ok(())
}

async fn registry(
    folder: PathBuf,
    peers: &Peers,
    (host, address): (&str, SocketAddrV4),
    authority: &Authority,
    robot_life: Duration,
) -> Result<Quay> {
    let options = quay::Options {
        registry: peers.registry(),
        host,
        address,
        folder: &folder,
        certificate: &authority.issue(&[host])?,
        authority: authority.pem(),
        lifetimes: Lifetimes {
            robot: robot_life,
            ..Lifetimes::default()
        },
    };
    Quay::start(options).await
}

/// The private registry's name, at a free port.
fn anywhere(address: Ipv4Addr) -> (&'static str, SocketAddrV4) {
    (quay::HOST, SocketAddrV4::new(address, 0))
}

/// The SPIFFE ID of a service account's name in namespace `argocd`.
#[must_use]
pub fn identity(service_account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{ARGOCD}/sa/{service_account}")
}

/// YAML of one of Argo CD's Secrets.
#[must_use]
pub fn secret(name: &str, secret_type: &str, values: &[(&str, &str)]) -> String {
    secret_in(ARGOCD, name, secret_type, values)
}

/// The same for an Argo CD in another namespace.
#[must_use]
pub fn secret_in(
    namespace: &str,
    name: &str,
    secret_type: &str,
    values: &[(&str, &str)],
) -> String {
    let data: serde_json::Map<_, _> = values
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).into()))
        .collect();
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": { control_plane_core::secret::SECRET_TYPE: secret_type },
        },
        "stringData": data,
    })
    .to_string()
}
