//! Arguments and environment → a [`Request`]. PURE. Read by hand: five options
//! do not pay for a parser in a program of this size.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use shared::errors::{Code, Named};
use shared::exec_credential::ApiVersion;
use shared::layout;

/// Set by client-go for every exec plugin: what it wants, as an ExecCredential.
const EXEC_INFO: &str = "KUBERNETES_EXEC_INFO";
/// Of the program that the public guides use: `v1` or `v1beta1`.
const EXEC_CREDENTIAL_VERSION: &str = "EXEC_CREDENTIAL_VERSION";
/// Of the program that the public guides use: names the cluster by its audience.
const SPIFFE_JWT_AUDIENCE: &str = "SPIFFE_JWT_AUDIENCE";
/// How long the first credential may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Which credential.
    pub(crate) select: Select,
    /// Where credentials are.
    pub(crate) directory: PathBuf,
    /// The version to print.
    pub(crate) api_version: ApiVersion,
    /// How long to wait for a credential.
    pub(crate) timeout: Duration,
}

/// Which credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Select {
    /// That of this cluster Secret.
    Cluster(String),
    /// The one whose token has this audience.
    Audience(String),
}

/// Reads arguments (without the program's name) and environment.
///
/// # Errors
/// `not-available` for an unknown argument or a bad value, `version-mismatch`,
/// and `credential-ambiguous` when nothing says which credential is wanted.
pub(crate) fn read(
    arguments: impl IntoIterator<Item = String>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Request, Named> {
    let (mut cluster, mut version) = (None, None);
    let mut timeout = TIMEOUT;
    let mut directory = Path::new(layout::CREDENTIALS_PATH).join(layout::CLUSTERS_DIR);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        if !matches!(
            &*name,
            "--cluster" | "--api-version" | "--timeout" | "--directory"
        ) {
            let shown: String = name.chars().take(64).collect();
            return Err(Named::new(
                Code::NotAvailable,
                format!(
                    "argument `{}`; there are --cluster, --api-version, --timeout and --directory",
                    shown.escape_debug()
                ),
            ));
        }
        let value = value
            .or_else(|| arguments.next())
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Named::new(Code::NotAvailable, format!("{name} without a value")))?;
        match &*name {
            "--cluster" => cluster = Some(value),
            "--api-version" => version = Some(ApiVersion::parse(&value)?),
            "--timeout" => timeout = duration(&value)?,
            _ => directory = PathBuf::from(value),
        }
    }
    let api_version = match version {
        Some(version) => version,
        None => version_of(environment(EXEC_INFO), environment(EXEC_CREDENTIAL_VERSION))?,
    };
    let audience = || environment(SPIFFE_JWT_AUDIENCE).filter(|it| !it.is_empty());
    let select = cluster
        .map(Select::Cluster)
        .or_else(|| audience().map(Select::Audience))
        .ok_or_else(|| {
            let detail = format!("neither --cluster nor {SPIFFE_JWT_AUDIENCE} is set");
            Named::new(Code::CredentialAmbiguous, detail)
        })?;
    Ok(Request {
        select,
        directory,
        api_version,
        timeout,
    })
}

fn version_of(exec_info: Option<String>, version: Option<String>) -> Result<ApiVersion, Named> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ExecInfo {
        api_version: String,
    }
    let named =
        |name: &str, error: Named| Named::new(error.code, format!("{name}: {}", error.detail));
    if let Some(json) = exec_info.filter(|it| !it.is_empty()) {
        return serde_json::from_str::<ExecInfo>(&json)
            .map_err(|error| Named::new(Code::VersionMismatch, error.to_string()))
            .and_then(|info| ApiVersion::parse(&info.api_version))
            .map_err(|error| named(EXEC_INFO, error));
    }
    match version.filter(|it| !it.is_empty()) {
        Some(version) => {
            ApiVersion::parse(&version).map_err(|error| named(EXEC_CREDENTIAL_VERSION, error))
        }
        None => Ok(ApiVersion::default()),
    }
}

/// `10s`, `500ms`, `1m`; a number alone is seconds.
fn duration(text: &str) -> Result<Duration, Named> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" | "" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    milliseconds
        .and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            let detail = format!("--timeout `{}`: use 10s", shown.escape_debug());
            Named::new(Code::NotAvailable, detail)
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V1_INFO: &str =
        r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","spec":{}}"#;

    fn read_(arguments: &str, environment: &[(&str, &str)]) -> Result<Request, Code> {
        let words = arguments.split_whitespace().map(str::to_owned);
        read(words, |name| {
            let found = environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
        .map_err(|error| error.code)
    }

    #[test]
    fn options_in_both_forms() {
        let request = read_(
            "--cluster a --timeout=500ms --api-version v1 --directory /d",
            &[],
        );
        assert_eq!(
            request.unwrap(),
            Request {
                select: Select::Cluster("a".into()),
                directory: "/d".into(),
                api_version: ApiVersion::V1,
                timeout: Duration::from_millis(500),
            }
        );
        let request = read_("--cluster=a", &[]).unwrap();
        assert_eq!(request.timeout, TIMEOUT);
        assert_eq!(
            request.directory,
            Path::new("/var/run/workload-identity/clusters")
        );
        for bad in [
            "--cluster",
            "--cluster=",
            "--unknown x",
            "a",
            "--timeout soon",
            "--timeout -1",
        ] {
            assert_eq!(read_(bad, &[]).unwrap_err(), Code::NotAvailable, "{bad}");
        }
    }

    #[test]
    fn the_flag_then_the_caller_then_the_guides_variable_choose_the_version() {
        let version = |arguments, environment: &[_]| {
            read_(&format!("--cluster a {arguments}"), environment).map(|it| it.api_version)
        };
        let (info, guide) = ((EXEC_INFO, V1_INFO), (EXEC_CREDENTIAL_VERSION, "v1"));
        assert_eq!(version("", &[]), Ok(ApiVersion::V1Beta1));
        assert_eq!(version("", &[guide]), Ok(ApiVersion::V1));
        assert_eq!(version("", &[info]), Ok(ApiVersion::V1));
        let beta = (EXEC_CREDENTIAL_VERSION, "v1beta1");
        assert_eq!(version("", &[info, beta]), Ok(ApiVersion::V1));
        assert_eq!(
            version("--api-version v1beta1", &[info]),
            Ok(ApiVersion::V1Beta1)
        );
        for bad in [
            version("--api-version v2", &[]),
            version("", &[(EXEC_INFO, "{")]),
            version("", &[(EXEC_INFO, r#"{"apiVersion":"x/v1"}"#)]),
            version("", &[(EXEC_CREDENTIAL_VERSION, "v3")]),
        ] {
            assert_eq!(bad, Err(Code::VersionMismatch));
        }
    }

    #[test]
    fn the_guides_audience_counts_without_a_cluster() {
        let audience = [(SPIFFE_JWT_AUDIENCE, "openshift-spoke")];
        let select = |arguments| read_(arguments, &audience).unwrap().select;
        assert_eq!(select(""), Select::Audience("openshift-spoke".into()));
        assert_eq!(select("--cluster a"), Select::Cluster("a".into()));
        assert_eq!(read_("", &[]).unwrap_err(), Code::CredentialAmbiguous);
    }

    proptest! {
        #[test]
        fn no_arguments_panic(arguments in proptest::collection::vec("(--[a-z-]{1,9}=?)?\\PC{0,8}", 0..6), value in "\\PC*") {
            let _ = read(arguments, |_| Some(value.clone()));
            let _ = duration(&value);
        }
    }
}
