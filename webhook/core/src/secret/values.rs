//! Decoded values of a Secret, and a reader that collects problems.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use shared::{
    bounds,
    errors::{Code, Named},
};
use zeroize::Zeroizing;

/// Keys of the Secrets' data.
pub mod key {
    /// `helm`, `oci` or `git`.
    pub const TYPE: &str = "type";
    /// URL of the repository.
    pub const URL: &str = "url";
    /// The Argo CD project that the Secret belongs to.
    pub const PROJECT: &str = "project";
    /// `"true"` for Helm charts in an OCI registry.
    pub const ENABLE_OCI: &str = "enableOCI";
    /// `"true"` skips TLS verification toward the registry.
    pub const INSECURE: &str = "insecure";
    /// `"true"` makes Argo CD speak plain HTTP to an OCI registry.
    pub const INSECURE_OCI_FORCE_HTTP: &str = "insecureOCIForceHttp";
    /// `"true"` makes Argo CD fetch a credential of its own from Azure.
    pub const USE_AZURE_WORKLOAD_IDENTITY: &str = "useAzureWorkloadIdentity";
    /// Argo CD's proxy for this repository.
    pub const PROXY: &str = "proxy";
    /// Hosts that Argo CD reaches without that proxy.
    pub const NO_PROXY: &str = "noProxy";
    /// Name of the cluster.
    pub const NAME: &str = "name";
    /// URL of the cluster's API server.
    pub const SERVER: &str = "server";
    /// JSON with TLS and authentication of the cluster.
    pub const CONFIG: &str = "config";
    /// Opt-in: `"true"`.
    pub const USE_WORKLOAD_IDENTITY: &str = "useWorkloadIdentity";
    /// spiffe, aws, oidc, gcp or azure.
    pub const PROVIDER: &str = "workloadIdentityProvider";
    /// Audience of the token.
    pub const AUDIENCE: &str = "workloadIdentityAudience";
    /// Token endpoint of the registry.
    pub const REGISTRY_AUTH_URL: &str = "workloadIdentityRegistryAuthURL";
    /// `service` parameter of that endpoint.
    pub const REGISTRY_SERVICE: &str = "workloadIdentityRegistryService";
    /// Account at the registry.
    pub const REGISTRY_USERNAME: &str = "workloadIdentityRegistryUsername";
    /// Token service (RFC 8693, STS).
    pub const TOKEN_URL: &str = "workloadIdentityTokenURL";
    /// Ours: the kind of proof.
    pub const CREDENTIAL: &str = "workloadIdentityCredential";
    /// Ours: auto, docker-config or proxy.
    pub const DELIVERY: &str = "workloadIdentityDelivery";
    /// Ours: the user's own proxy, beyond the credential proxy.
    pub const UPSTREAM_PROXY: &str = "workloadIdentityUpstreamProxy";

    /// Every key that configures workload identity, in documentation order.
    pub const WORKLOAD_IDENTITY: [&str; 10] = [
        USE_WORKLOAD_IDENTITY,
        PROVIDER,
        AUDIENCE,
        REGISTRY_AUTH_URL,
        REGISTRY_SERVICE,
        REGISTRY_USERNAME,
        TOKEN_URL,
        CREDENTIAL,
        DELIVERY,
        UPSTREAM_PROXY,
    ];

    /// Keys with which Argo CD authenticates to repositories by itself, besides
    /// [`USE_AZURE_WORKLOAD_IDENTITY`]. Argo CD reads the names of an Azure
    /// service principal in one spelling from repository Secrets, and in the
    /// other from repo-creds (util/db/repository_secrets.go).
    pub const STATIC_CREDENTIALS: [&str; 13] = [
        "username",
        "password",
        "bearerToken",
        "sshPrivateKey",
        "tlsClientCertData",
        "tlsClientCertKey",
        "githubAppPrivateKey",
        "gcpServiceAccountKey",
        "azureServicePrincipalClientSecret",
        "azureServicePrincipalClientId",
        "azureServicePrincipalClientID",
        "azureServicePrincipalTenantId",
        "azureServicePrincipalTenantID",
    ];

    /// Those of [`STATIC_CREDENTIALS`] that belong to a TLS connection.
    pub const CLIENT_CERTIFICATE: [&str; 2] = ["tlsClientCertData", "tlsClientCertKey"];

    pub(super) const READ: [&str; 12] = [
        TYPE,
        URL,
        PROJECT,
        ENABLE_OCI,
        INSECURE,
        INSECURE_OCI_FORCE_HTTP,
        USE_AZURE_WORKLOAD_IDENTITY,
        PROXY,
        NO_PROXY,
        NAME,
        SERVER,
        CONFIG,
    ];

    /// Those whose blanks and line ends are somebody else's to judge: of a URL
    /// and a project, whose own readers refuse them, of JSON and lists, where
    /// they mean nothing, and of a value that is written here.
    pub(super) const AS_THEY_ARE: [&str; 5] = [URL, PROJECT, CONFIG, NO_PROXY, PROXY];
}

/// The values that this crate reads, decoded. Of static credentials only their
/// presence is kept.
#[derive(Clone, Default)]
pub struct SecretValues {
    values: BTreeMap<&'static str, Zeroizing<String>>,
    static_credentials: Vec<&'static str>,
    unreadable: Vec<(&'static str, &'static str)>,
}

impl std::fmt::Debug for SecretValues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretValues")
            .field("keys", &self.values.keys())
            .finish_non_exhaustive()
    }
}

impl SecretValues {
    /// Takes `data` as the API's JSON has it, in base64.
    pub fn from_base64<'a>(data: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut values = Self::default();
        for (name, text) in data {
            values.add(name, !text.is_empty(), || {
                STANDARD
                    .decode(text)
                    .ok()
                    .map(Zeroizing::new)
                    .ok_or("not base64")
            });
        }
        values
    }

    /// Takes decoded `data`.
    pub fn from_bytes<'a>(data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut values = Self::default();
        for (name, bytes) in data {
            values.add(name, !bytes.is_empty(), || {
                Ok(Zeroizing::new(bytes.to_vec()))
            });
        }
        values
    }

    fn add(
        &mut self,
        name: &str,
        present: bool,
        decode: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, &'static str>,
    ) {
        // Argo CD writes empty values for what is not set.
        if !present {
            return;
        }
        if let Some(name) = key::STATIC_CREDENTIALS
            .into_iter()
            .find(|known| *known == name)
        {
            self.static_credentials.push(name);
        }
        let known = key::WORKLOAD_IDENTITY.into_iter().chain(key::READ);
        let Some(name) = known.into_iter().find(|known| *known == name) else {
            return;
        };
        let text = decode().and_then(|bytes| match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err("not UTF-8"),
        });
        match text {
            Ok(text) => {
                self.values.insert(name, text);
            }
            Err(reason) => self.unreadable.push((name, reason)),
        }
    }

    /// The value of a key that is set and not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|text| text.as_str())
    }

    /// Whether a key is not set, or its value is text.
    pub fn is_readable(&self, name: &str) -> bool {
        !self
            .unreadable
            .iter()
            .any(|(unreadable, _)| *unreadable == name)
    }

    /// Names of the static credentials that are present.
    pub fn static_credentials(&self) -> &[&'static str] {
        &self.static_credentials
    }
}

/// Reads values and collects what is wrong with them.
pub(super) struct Reader<'a> {
    object: &'a str,
    values: &'a SecretValues,
    problems: Vec<Named>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(object: &'a str, values: &'a SecretValues) -> Self {
        Self {
            object,
            values,
            problems: Vec::new(),
        }
    }

    /// Looks whether the value of a key can be read, and has no blank around it
    /// that Argo CD and registries would take for a part of it.
    pub(super) fn check(&mut self, name: &str) {
        let mut unreadable = self.values.unreadable.iter();
        let reason = match unreadable.find(|(key, _)| *key == name) {
            Some((_, reason)) => Some(*reason),
            None if key::AS_THEY_ARE.contains(&name) => None,
            None => self.values.text(name).and_then(|text| {
                if text.trim() != text {
                    Some("has a blank or a line end at its start or end")
                } else if text.chars().any(char::is_control) {
                    Some("has a control character")
                } else {
                    None
                }
            }),
        };
        if let Some(reason) = reason {
            self.problem(Code::InvalidSecret, name, reason);
        }
    }

    /// [`Reader::check`] of every key, but for those of the opt-in, which are
    /// looked at before.
    pub(super) fn check_all(&mut self) {
        let known = key::WORKLOAD_IDENTITY.into_iter().chain(key::READ);
        for name in known.filter(|name| *name != key::USE_WORKLOAD_IDENTITY) {
            self.check(name);
        }
    }

    /// The value of a key, without the blanks around it that [`Reader::check`]
    /// finds, so that nothing else is said of them.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        let text = self.values.text(name)?;
        if key::AS_THEY_ARE.contains(&name) {
            return Some(text);
        }
        Some(text.trim()).filter(|text| !text.is_empty())
    }

    /// The value of a key that has at most `longest` bytes.
    pub(super) fn bounded(&mut self, name: &str, longest: usize) -> Option<String> {
        let text = self.text(name)?;
        self.is_bounded(Code::InvalidSecret, name, text.len(), longest)
            .then(|| text.to_owned())
    }

    /// Whether a value's `length` is within what a binding takes.
    pub(super) fn is_bounded(
        &mut self,
        code: Code,
        name: &str,
        length: usize,
        longest: usize,
    ) -> bool {
        if length > longest {
            let reason = format!("has {length} bytes, and at most {longest} are allowed");
            self.problem(code, name, &reason);
        }
        length <= longest
    }

    /// A boolean as Go's strconv.ParseBool reads it, which Argo CD uses.
    pub(super) fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.text(name)? {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => {
                self.problem(Code::InvalidSecret, name, "not true or false");
                None
            }
        }
    }

    /// A value of a closed set; `allowed` is shown when it is none of them.
    pub(super) fn one_of<T>(
        &mut self,
        name: &str,
        code: Code,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let parsed = parse(text);
        if parsed.is_none() {
            let shown: String = text.chars().take(40).collect();
            self.problem(
                code,
                name,
                &format!("`{}` is not {allowed}", shown.escape_debug()),
            );
        }
        parsed
    }

    /// An absolute https URL without user information.
    pub(super) fn https_url(&mut self, name: &str) -> Option<url::Url> {
        let text = self.text(name)?;
        match url::Url::parse(text) {
            Ok(url) if url.scheme() != "https" => {
                self.problem(
                    Code::AuthUrlInvalid,
                    name,
                    &format!("scheme `{}`", url.scheme()),
                );
                None
            }
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                self.problem(Code::AuthUrlInvalid, name, "has user information");
                None
            }
            Ok(url) => self
                .is_bounded(Code::AuthUrlInvalid, name, url.as_str().len(), bounds::URL)
                .then_some(url),
            Err(error) => {
                self.problem(Code::AuthUrlInvalid, name, &error.to_string());
                None
            }
        }
    }

    pub(super) fn project(&mut self) -> Option<String> {
        self.one_of(
            key::PROJECT,
            Code::InvalidProject,
            "a project name",
            |text| is_project_name(text).then(|| text.to_owned()),
        )
    }

    pub(super) fn problem(&mut self, code: Code, name: &str, reason: &str) {
        let problem = Named::new(code, format!("{}, key {name}: {reason}", self.object));
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    pub(super) fn push(&mut self, name: &str, error: Named) {
        self.problem(error.code, name, &error.detail);
    }

    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Named>> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(self.problems),
        }
    }
}

/// An AppProject's name is a DNS-1123 subdomain, and the name of its service
/// account, `argocd-project-<name>`, has to be one too.
fn is_project_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 - "argocd-project-".len() && text.split('.').all(label)
}
