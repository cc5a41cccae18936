//! Waits, bounded, for the credential that is asked for. A directory is looked
//! at until it has a valid one or the time is over; then the reason is named.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::ExposeSecret;
use shared::errors::{Code, Named};
use shared::exec_credential::ExecCredential;
use shared::layout;

use crate::arguments::{Request, Select};
use crate::claims::Claims;

/// Between two looks. client-go calls under a lock, so waiting is rare and short.
const PAUSE: Duration = Duration::from_millis(50);

/// The credential, which may be about to be written for the first time.
///
/// # Errors
/// `credential-missing` and `credential-expired` when the time is over;
/// `credential-ambiguous` and `credential-unreadable` at once.
pub(crate) fn wait(request: &Request) -> Result<ExecCredential, Named> {
    let deadline = Instant::now().checked_add(request.timeout);
    loop {
        let error = match look(request, Timestamp::now()) {
            Err(error)
                if matches!(
                    error.code,
                    Code::CredentialMissing | Code::CredentialExpired
                ) =>
            {
                error
            }
            result => return result,
        };
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(error);
        }
        sleep(PAUSE);
    }
}

fn look(request: &Request, now: Timestamp) -> Result<ExecCredential, Named> {
    match &request.select {
        Select::Cluster(name) => {
            let file = layout::cluster_file(name)
                .ok()
                .and_then(|path| path.file_name().map(|name| request.directory.join(name)))
                .ok_or_else(|| {
                    let shown: String = name.chars().take(64).collect();
                    let detail =
                        format!("--cluster `{}` is no Secret's name", shown.escape_debug());
                    Named::new(Code::CredentialUnreadable, detail)
                })?;
            let credential = read(&file)?
                .ok_or_else(|| Named::new(Code::CredentialMissing, file.display().to_string()))?;
            valid(credential, &file, now)
        }
        Select::Audience(audience) => of_audience(&request.directory, audience, now),
    }
}

/// What the guides' program gets from the Workload API by audience alone.
fn of_audience(directory: &Path, audience: &str, now: Timestamp) -> Result<ExecCredential, Named> {
    let missing = || {
        let detail = format!("audience `{audience}` in {}", directory.display());
        Named::new(Code::CredentialMissing, detail)
    };
    let mut found: Vec<(PathBuf, ExecCredential, Claims)> = Vec::new();
    for file in files(directory)? {
        // Others' broken files are not this caller's concern.
        if let Ok(Some(credential)) = read(&file) {
            let claims = Claims::read(credential.status.token.expose_secret());
            if claims.is_for(audience) {
                found.push((file, credential, claims));
            }
        }
    }
    if let Some([(first, _, a), (second, _, b)]) = found.windows(2).find_map(|pair| match pair {
        [one, other] if one.2.sub != other.2.sub => Some([one, other]),
        _ => None,
    }) {
        let name = |file: &Path| file.file_stem().unwrap_or_default().display().to_string();
        let sub = |claims: &Claims| claims.sub.clone().unwrap_or_default();
        let detail = format!(
            "audience `{audience}`: {} is {}, {} is {}",
            name(first),
            sub(a),
            name(second),
            sub(b)
        );
        return Err(Named::new(Code::CredentialAmbiguous, detail));
    }
    let (file, credential, _) = found
        .into_iter()
        .max_by_key(|(_, credential, _)| credential.status.expiration_timestamp)
        .ok_or_else(missing)?;
    valid(credential, &file, now)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, Named> {
    let unreadable = |error: std::io::Error| {
        let code = match error.kind() {
            ErrorKind::NotFound => Code::CredentialMissing,
            _ => Code::CredentialUnreadable,
        };
        Named::new(code, format!("{}: {error}", directory.display()))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let visible = |name: &std::ffi::OsStr| !name.as_encoded_bytes().starts_with(b".");
        if path.extension().is_some_and(|it| it == "json") && path.file_name().is_some_and(visible)
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Option<ExecCredential>, Named> {
    let unreadable = |detail: &str| {
        Named::new(
            Code::CredentialUnreadable,
            format!("{}: {detail}", file.display()),
        )
    };
    match std::fs::read(file) {
        Ok(bytes) => ExecCredential::parse(&bytes)
            .map(Some)
            .map_err(|error| unreadable(&error.detail)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&error.to_string())),
    }
}

/// `expirationTimestamp` tells client-go when to ask again, and lies before the
/// token's end: in between, while a renewal is late, the token is still good.
fn valid(credential: ExecCredential, file: &Path, now: Timestamp) -> Result<ExecCredential, Named> {
    let end = Claims::read(credential.status.token.expose_secret())
        .expires_at()
        .unwrap_or(credential.status.expiration_timestamp);
    if end <= now {
        let detail = format!("{}: expired at {end}", file.display());
        return Err(Named::new(Code::CredentialExpired, detail));
    }
    Ok(credential)
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;
    use shared::exec_credential::ApiVersion;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn write(folder: &Path, name: &str, sub: &str, aud: &serde_json::Value, exp: i64) {
        let claims = json!({"sub": sub, "aud": aud, "exp": exp}).to_string();
        let token = format!("e30.{}.s", URL_SAFE_NO_PAD.encode(claims));
        let bytes = ExecCredential::new(token.into(), at(exp - 5))
            .render()
            .unwrap();
        std::fs::write(folder.join(format!("{name}.json")), bytes).unwrap();
    }

    fn check(folder: &Path, select: Select) -> Result<String, Code> {
        let request = Request {
            select,
            directory: folder.to_owned(),
            api_version: ApiVersion::V1,
            timeout: Duration::ZERO,
        };
        look(&request, at(NOW))
            .map(|credential| {
                Claims::read(credential.status.token.expose_secret())
                    .sub
                    .unwrap()
            })
            .map_err(|error| error.code)
    }

    fn cluster(folder: &Path, name: &str) -> Result<String, Code> {
        check(folder, Select::Cluster(name.into()))
    }

    fn audience(folder: &Path, name: &str) -> Result<String, Code> {
        check(folder, Select::Audience(name.into()))
    }

    #[test]
    fn a_cluster_is_found_by_its_secrets_name() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "spoke", "a", &json!("x"), NOW + 1);
        assert_eq!(
            cluster(folder, "spoke"),
            Ok("a".into()),
            "past its published expiry"
        );
        assert_eq!(cluster(folder, "other"), Err(Code::CredentialMissing));
        write(folder, "spoke", "a", &json!("x"), NOW);
        assert_eq!(cluster(folder, "spoke"), Err(Code::CredentialExpired));
        std::fs::write(folder.join("spoke.json"), "{").unwrap();
        assert_eq!(cluster(folder, "spoke"), Err(Code::CredentialUnreadable));
        for name in ["../spoke", "/etc/passwd", "", "a\0b", ".hidden"] {
            assert_eq!(
                cluster(folder, name),
                Err(Code::CredentialUnreadable),
                "{name:?}"
            );
        }
    }

    #[test]
    fn an_audience_finds_one_identity_or_is_ambiguous() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(audience(folder, "x"), Err(Code::CredentialMissing));
        write(folder, "a", "one", &json!(["x", "y"]), NOW + 10);
        write(folder, "b", "one", &json!("x"), NOW + 20);
        write(folder, "c", "two", &json!("y"), NOW + 20);
        std::fs::write(folder.join("broken.json"), "{").unwrap();
        std::fs::write(folder.join(".new-d.json"), "{").unwrap();
        assert_eq!(audience(folder, "x"), Ok("one".into()));
        assert_eq!(audience(folder, "y"), Err(Code::CredentialAmbiguous));
        assert_eq!(audience(folder, "z"), Err(Code::CredentialMissing));
        assert_eq!(
            audience(&folder.join("absent"), "x"),
            Err(Code::CredentialMissing)
        );
    }
}
