//! Cluster Secrets.

use std::{borrow::Cow, collections::BTreeMap};

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use shared::{
    binding::{CredentialKind, Provider},
    bounds,
    errors::{Code, Named},
    layout,
};

use crate::secret::{
    opted_in,
    repository::{credential, provider},
    spelling,
    values::{Reader, SecretValues, key},
};

/// The server URL of the cluster that Argo CD itself runs in; Argo CD ignores
/// exec plugins for it.
pub const IN_CLUSTER_SERVER: &str = "https://kubernetes.default.svc";

/// The environment variable with which the guides pass the audience.
const AUDIENCE_VARIABLE: &str = "SPIFFE_JWT_AUDIENCE";

/// A cluster Secret with workload identity.
#[derive(Debug)]
pub struct ClusterSecret {
    /// The API server's URL.
    pub server: url::Url,
    /// The project that the Secret is scoped to.
    pub project: Option<String>,
    /// The provider.
    pub provider: Provider,
    /// The audience.
    pub audience: String,
    /// The kind of proof, where one is asked for.
    pub credential: Option<CredentialKind>,
    /// Whether `config` turns TLS verification off.
    pub insecure: bool,
    /// Other ways to authenticate that `config` has, by their JSON names.
    pub other_auth: Vec<&'static str>,
    /// The exec plugin that `config` has.
    pub exec: Option<ExecConfig>,
    /// The Secret is in the guides' form: no key of ours, but an exec plugin
    /// that the credential volume provides under its old name.
    pub is_guide_form: bool,
}

/// The `config` JSON, as far as authentication goes.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterConfig<'a> {
    #[serde(borrow)]
    username: Option<Presence<'a>>,
    #[serde(borrow)]
    password: Option<Presence<'a>>,
    #[serde(borrow)]
    bearer_token: Option<Presence<'a>>,
    aws_auth_config: Option<IgnoredAny>,
    #[serde(borrow)]
    tls_client_config: Option<TlsClientConfig<'a>>,
    exec_provider_config: Option<ExecConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TlsClientConfig<'a> {
    #[serde(deserialize_with = "even_null")]
    insecure: bool,
    #[serde(borrow)]
    cert_data: Option<Presence<'a>>,
    #[serde(borrow)]
    key_data: Option<Presence<'a>>,
}

/// A string of which only its being there matters.
#[derive(Deserialize)]
#[serde(transparent)]
struct Presence<'a>(#[serde(borrow)] Cow<'a, str>);

impl std::fmt::Debug for Presence<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// `execProviderConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExecConfig {
    /// Path of the plugin.
    #[serde(deserialize_with = "even_null")]
    pub command: String,
    /// Its arguments.
    pub args: Option<Vec<String>>,
    /// Its environment.
    pub env: Option<BTreeMap<String, String>>,
    /// The ExecCredential version.
    pub api_version: Option<String>,
}

/// To Go, `null` is what is not set.
fn even_null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl ExecConfig {
    /// The plugin as the webhook configures it for a cluster Secret.
    pub fn ours(secret_name: &str) -> Self {
        Self {
            command: format!("{}/{}", layout::BINARIES_PATH, layout::EXEC_AUTH),
            args: Some(vec!["--cluster".into(), secret_name.into()]),
            env: None,
            api_version: Some(shared::exec_credential::ApiVersion::V1Beta1.as_str().into()),
        }
    }

    /// Whether this starts our plugin, whatever its arguments.
    pub fn is_ours(&self) -> bool {
        self.command == format!("{}/{}", layout::BINARIES_PATH, layout::EXEC_AUTH)
    }

    /// Whether this starts the guides' plugin from the guides' folder.
    pub fn is_guides(&self) -> bool {
        self.command == format!("{}/{}", layout::BINARIES_PATH, layout::EXEC_AUTH_ALIAS)
    }

    fn guide_audience(&self) -> Option<&str> {
        let env = self.env.as_ref().filter(|_| self.is_guides())?;
        env.get(AUDIENCE_VARIABLE)
            .map(String::as_str)
            .filter(|audience| !audience.is_empty())
    }
}

impl<'a> ClusterConfig<'a> {
    /// Reads the JSON. An empty text is an empty configuration.
    ///
    /// # Errors
    /// Line and column, or the name of a member that Argo CD would read
    /// otherwise; never the content, which may hold a token.
    pub fn parse(json: &'a str) -> Result<Self, String> {
        let trimmed = json.trim_start();
        if trimmed.is_empty() {
            return Ok(Self::default());
        }
        // serde would read a struct from an array as well.
        if !trimmed.starts_with('{') {
            return Err("not an object".to_owned());
        }
        spelling::check(json)?;
        serde_json::from_str(json)
            .map_err(|error| format!("line {}, column {}", error.line(), error.column()))
    }

    /// The exec plugin.
    pub fn exec(&self) -> Option<&ExecConfig> {
        self.exec_provider_config.as_ref()
    }

    /// Whether TLS verification is turned off.
    pub fn insecure(&self) -> bool {
        self.tls_client_config
            .as_ref()
            .is_some_and(|tls| tls.insecure)
    }

    /// JSON names of other ways to authenticate that are set. Argo CD prefers
    /// `awsAuthConfig`, client-go prefers client certificates.
    pub fn other_auth(&self) -> Vec<&'static str> {
        let set =
            |field: &Option<Presence<'_>>| field.as_ref().is_some_and(|text| !text.0.is_empty());
        let tls = self.tls_client_config.as_ref();
        [
            ("username", set(&self.username)),
            ("password", set(&self.password)),
            ("bearerToken", set(&self.bearer_token)),
            ("awsAuthConfig", self.aws_auth_config.is_some()),
            (
                "tlsClientConfig.certData",
                tls.is_some_and(|tls| set(&tls.cert_data)),
            ),
            (
                "tlsClientConfig.keyData",
                tls.is_some_and(|tls| set(&tls.key_data)),
            ),
        ]
        .into_iter()
        .filter_map(|(name, is_set)| is_set.then_some(name))
        .collect()
    }
}

pub(super) fn parse(
    object: &str,
    values: &SecretValues,
) -> Result<Option<ClusterSecret>, Vec<Named>> {
    let mut reader = Reader::new(object, values);
    let config = ClusterConfig::parse(reader.text(key::CONFIG).unwrap_or_default());
    let guide_audience = config
        .as_ref()
        .ok()
        .and_then(ClusterConfig::exec)
        .and_then(ExecConfig::guide_audience)
        .map(str::to_owned);
    let server = reader.text(key::SERVER).unwrap_or_default();
    // Argo CD takes a slash at the end away.
    let is_local = server.trim_end_matches('/') == IN_CLUSTER_SERVER;
    let opted_in = opted_in(&mut reader);
    if is_local || (!opted_in && guide_audience.is_none()) {
        return reader.finish(Some(None));
    }
    reader.check_all();
    let config = match config {
        Ok(config) => config,
        Err(place) => {
            reader.problem(Code::InvalidClusterConfig, key::CONFIG, &place);
            ClusterConfig::default()
        }
    };
    let server = match url::Url::parse(server) {
        Ok(url) if url.scheme() == "https" && url.host().is_some() && url.username().is_empty() => {
            let length = url.as_str().len();
            reader
                .is_bounded(Code::InvalidUrl, key::SERVER, length, bounds::ADDRESS)
                .then_some(url)
        }
        _ => {
            reader.problem(Code::InvalidUrl, key::SERVER, "not an https URL");
            None
        }
    };
    let project = reader.project();
    let provider = provider(&mut reader);
    let credential = credential(&mut reader);
    let audience = match guide_audience.filter(|_| reader.text(key::AUDIENCE).is_none()) {
        Some(audience) => reader
            .is_bounded(
                Code::InvalidClusterConfig,
                key::CONFIG,
                audience.len(),
                bounds::AUDIENCE,
            )
            .then_some(audience),
        None => {
            if reader.text(key::AUDIENCE).is_none() {
                reader.problem(Code::AudienceMissing, key::AUDIENCE, "not set");
            }
            reader.bounded(key::AUDIENCE, bounds::AUDIENCE)
        }
    };
    let secret = server
        .zip(provider)
        .zip(audience)
        .map(|((server, provider), audience)| ClusterSecret {
            server,
            project,
            provider,
            audience,
            credential,
            insecure: config.insecure(),
            other_auth: config.other_auth(),
            exec: config.exec().cloned(),
            is_guide_form: !opted_in,
        });
    reader.finish(secret).map(Some)
}
