//! The real Keycloak as a token service (RFC 8693): identities of issuers flow in, access tokens of a realm flow out.
//!
//! Its distribution comes from Maven Central once, is built for these options once, and is kept in the user's cache
//! folder. It speaks plain HTTP on loopback; whoever uses it brings TLS ([`crate::upstreams`]).

use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::extract::Request;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::packages;
use crate::ports;
use crate::process::{Process, output};
use crate::progress;
use crate::relay;

const VERSION: &str = "26.4.7";
const PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy";
/// The exchange of tokens that others issued, and the permissions that it asks for.
const FEATURES: &str = "--features=token-exchange,admin-fine-grained-authz:v1";
/// It starts for longer than it is used: no time for the best machine code.
const QUICK_START: &str = "-XX:TieredStopAtLevel=1";
/// On a busy machine with two cores.
const READY: Duration = Duration::from_secs(180);
/// Its program starts Java and passes only SIGTERM on: killed before, it would leave Java behind.
const GRACE: Duration = Duration::from_secs(30);
/// The realm.
pub const REALM: &str = "prod";
/// The public client of the realm that may exchange.
pub const CLIENT: &str = "argocd";
/// The audience of the access tokens that this client gets.
pub const AUDIENCE: &str = "registry-of-prod";

/// How a Keycloak is started.
pub struct Options<'a> {
    /// Where it is to those who ask it: a host name, and a port unless it is 443.
    pub host: &'a str,
    /// Whose identities it trusts.
    pub issuers: &'a [Issuer],
    /// Whose certificates it trusts when it fetches their keys: a PEM file.
    pub authority: &'a Path,
}

/// An issuer as Keycloak is told of it.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// The `iss` of its tokens.
    pub url: String,
    /// What verifies them.
    pub keys: Keys,
}

/// The keys of an issuer.
#[derive(Debug, Clone)]
pub enum Keys {
    /// One public key, PEM.
    Pem(String),
    /// Where its key set (JWKS) is.
    Url(String),
}

/// A running Keycloak. It stops when this is dropped.
pub struct Keycloak {
    _process: Process,
    host: String,
    url: String,
    client: Client,
    token: String,
    issuers: usize,
}

impl Keycloak {
    /// Starts it below `folder`.
    ///
    /// # Errors
    /// When it cannot be had from Maven Central, does not get ready, or refuses its configuration.
    pub async fn start(folder: &Path, options: Options<'_>) -> Result<Self> {
        let distribution = tokio::task::spawn_blocking(distribution).await??;
        let home = folder.join("keycloak");
        fs::create_dir_all(&home)?;
        // What it writes goes beside its program.
        output(
            Command::new("cp")
                .args(["-a", "--reflink=auto"])
                .arg(distribution.join("."))
                .arg(&home),
        )?;
        let import = home.join("data/import");
        fs::create_dir_all(&import)?;
        fs::write(
            import.join("realm.json"),
            realm(options.issuers).to_string(),
        )?;
        let port = ports::free()?;
        let password = password();
        let mut process = Process::start(
            "keycloak",
            Command::new(home.join("bin/kc.sh"))
                .args([
                    "start",
                    "--optimized",
                    "--import-realm",
                    "--cache=local",
                    "--http-enabled=true",
                ])
                .args(["--http-host=127.0.0.1", &format!("--http-port={port}")])
                .arg(format!("--hostname=https://{}", options.host))
                .arg(format!(
                    "--truststore-paths={}",
                    options.authority.display()
                ))
                .env("JAVA_OPTS_KC_HEAP", "-Xms64m -Xmx384m")
                .env("JAVA_OPTS_APPEND", QUICK_START)
                .env("KC_BOOTSTRAP_ADMIN_USERNAME", "admin")
                .env("KC_BOOTSTRAP_ADMIN_PASSWORD", &password),
            folder,
        )?
        .with_grace(GRACE);
        let url = format!("http://127.0.0.1:{port}");
        let client = Client::builder().no_proxy().build()?;
        let form = [
            ("grant_type", "password"),
            ("client_id", "admin-cli"),
            ("username", "admin"),
            ("password", &password),
        ];
        let login = format!("{url}/realms/master/protocol/openid-connect/token");
        let answer: Value = process
            .ready(READY, || async {
                let answer = client.post(&login).form(&form).send().await?;
                Ok(answer.error_for_status()?.json().await?)
            })
            .await?;
        let token = answer["access_token"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Ok(Self {
            _process: process,
            host: options.host.to_owned(),
            url,
            client,
            token,
            issuers: options.issuers.len(),
        })
    }

    /// Lets [`CLIENT`] exchange what the issuers signed. Before, every exchange is refused.
    ///
    /// # Errors
    /// When the administration API refuses a step.
    pub async fn permit(&self) -> Result<()> {
        let management = self.id("realm-management").await?;
        let resources = format!("clients/{management}/authz/resource-server");
        let mut policy = Value::Null;
        for issuer in 0..self.issuers {
            let alias = alias(issuer);
            let provider = format!("identity-provider/instances/{alias}/management/permissions");
            let permissions = self
                .admin(Method::PUT, &provider, &json!({"enabled": true}))
                .await?;
            let permission = text(&permissions["scopePermissions"]["token-exchange"])?;
            if policy.is_null() {
                policy = self.policy(&resources).await?;
            }
            let path = format!("{resources}/permission/scope/{permission}");
            let mut found = self.admin(Method::GET, &path, &Value::Null).await?;
            found["policies"] = json!([policy]);
            self.admin(Method::PUT, &path, &found).await?;
        }
        Ok(())
    }

    /// Makes the policy that is true for [`CLIENT`]; its ID.
    async fn policy(&self, resources: &str) -> Result<Value> {
        let policy = json!({"name": CLIENT, "clients": [self.id(CLIENT).await?]});
        let path = format!("{resources}/policy/client");
        let mut made = self.admin(Method::POST, &path, &policy).await?;
        Ok(made["id"].take())
    }

    async fn id(&self, client: &str) -> Result<String> {
        let found = self
            .admin(
                Method::GET,
                &format!("clients?clientId={client}"),
                &Value::Null,
            )
            .await?;
        text(&found[0]["id"])
    }

    async fn admin(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}/admin/realms/{REALM}/{path}", self.url);
        let mut request = self.client.request(method, url).bearer_auth(&self.token);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let (status, body) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path}: {status}: {body}");
        Ok(serde_json::from_str(&body).unwrap_or_default())
    }

    /// Everything that it serves, for a server with TLS.
    pub fn routes(&self) -> Router {
        let (client, url, host) = (self.client.clone(), self.url.clone(), self.host.clone());
        Router::new().fallback(async move |request: Request| {
            relay::relay(&client, &url, &host, request).await
        })
    }
}

fn text(value: &Value) -> Result<String> {
    value
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("no text: {value}"))
}

/// Good enough for a server that lives as long as a test, on loopback.
fn password() -> String {
    format!("{:016x}", RandomState::new().hash_one(()))
}

/// A realm whose public client has no secret, and which knows each issuer by its keys.
fn realm(issuers: &[Issuer]) -> Value {
    let audience = json!({
        "name": "registry",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": { "included.custom.audience": AUDIENCE, "access.token.claim": "true" },
    });
    let providers = issuers.iter().enumerate();
    let providers: Vec<_> = providers
        .map(|(index, issuer)| provider(&alias(index), issuer))
        .collect();
    json!({
        "realm": REALM,
        "enabled": true,
        "clients": [
            {
                "clientId": CLIENT,
                "publicClient": true,
                "standardFlowEnabled": false,
                "directAccessGrantsEnabled": false,
                "protocolMappers": [audience],
            },
            {"clientId": "registry", "publicClient": true, "standardFlowEnabled": false},
        ],
        "identityProviders": providers,
    })
}

/// What an identity provider is called.
fn alias(index: usize) -> String {
    format!("workloads-{index}")
}

fn provider(alias: &str, issuer: &Issuer) -> Value {
    let none = format!("{}/none", issuer.url);
    let mut provider = json!({
        "alias": alias,
        "providerId": "oidc",
        "enabled": true,
        "config": {
            "issuer": issuer.url,
            "validateSignature": "true",
            // Else it looks for the claim `typ`, which identities do not have.
            "disableTypeClaimCheck": "true",
            "disableUserInfo": "true",
            "authorizationUrl": none,
            "tokenUrl": none,
            "clientId": "unused",
            "clientSecret": "unused",
        },
    });
    let config = &mut provider["config"];
    match &issuer.keys {
        Keys::Pem(key) => {
            config["useJwksUrl"] = json!("false");
            config["publicKeySignatureVerifier"] = json!(key);
        }
        Keys::Url(url) => {
            config["useJwksUrl"] = json!("true");
            config["jwksUrl"] = json!(url);
        }
    }
    provider
}

/// The distribution, downloaded and built for our options, or as an earlier run left it. Blocks.
///
/// # Errors
/// When a package of Debian's is missing that cannot be installed, or with the words of the step that failed.
pub fn distribution() -> Result<PathBuf> {
    packages::ensure_for_keycloak()?;
    let cache = crate::peers::cache()?;
    let folder = cache.join(format!("keycloak-{VERSION}"));
    let program = folder.join(format!("keycloak-{VERSION}"));
    if program.is_dir() {
        return Ok(program);
    }
    let lock = File::create(cache.join(".keycloak.lock")).context("create a lock")?;
    lock.lock().context("wait for another test")?;
    if program.is_dir() {
        return Ok(program);
    }
    progress::step(format_args!(
        "fetching Keycloak {VERSION} from Maven Central"
    ));
    let partial = cache.join(".keycloak.partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    output(
        Command::new("mvn")
            .args(["-q", "-B", PLUGIN, "-Dmdep.stripVersion=true"])
            .arg(format!(
                "-Dartifact=org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
            ))
            .arg(format!("-DoutputDirectory={}", partial.display()))
            .current_dir(&partial),
    )?;
    let zip = partial.join("keycloak-quarkus-dist.zip");
    output(
        Command::new("unzip")
            .arg("-q")
            .arg(&zip)
            .arg("-d")
            .arg(&partial),
    )?;
    fs::remove_file(&zip)?;
    progress::step(format_args!("building Keycloak's configuration"));
    let built = partial.join(format!("keycloak-{VERSION}/bin/kc.sh"));
    output(Command::new(built).args(["build", "--db=dev-mem", FEATURES]))?;
    fs::rename(&partial, &folder).context("keep Keycloak")?;
    Ok(program)
}
