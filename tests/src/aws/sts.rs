//! `AssumeRoleWithWebIdentity`: a form comes in, XML goes out (STS API reference; the texts are AWS' own).

use std::collections::HashMap;

use axum::extract::Query;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

use super::account::Provider;
use super::{Answered, State};

const INVALID: &str = "InvalidIdentityToken";

struct Refusal(u16, &'static str, String);

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn has(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|it| it == audience),
        }
    }
}

pub(super) fn answer(state: &State, body: &[u8]) -> Answered {
    let form = form(body).unwrap_or_default();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let (role, name) = (field("RoleArn"), field("RoleSessionName"));
    let caller = Some((role.to_owned(), name.to_owned()));
    let response = match assume(state, &form, role, name) {
        Err(Refusal(status, code, message)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            refuse(status, code, &message)
        }
        Ok(subject) => {
            let (key_id, session, secret) = state.account.open(role, name);
            let assumed = format!(
                "{}/{name}",
                role.replace(":iam:", ":sts:")
                    .replace(":role/", ":assumed-role/")
            );
            xml(
                StatusCode::OK,
                format!(
                    "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                     <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{key_id}</AccessKeyId>\
                     <SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{}</SessionToken>\
                     <Expiration>{}</Expiration></Credentials><AssumedRoleUser><Arn>{assumed}</Arn>\
                     <AssumedRoleId>AROA:{name}</AssumedRoleId></AssumedRoleUser>\
                     <SubjectFromWebIdentityToken>{subject}</SubjectFromWebIdentityToken>\
                     </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
                    session.token, session.expires_at
                ),
            )
        }
    };
    (response, caller)
}

/// The subject that may assume `role`.
fn assume(
    state: &State,
    form: &HashMap<String, String>,
    role: &str,
    name: &str,
) -> Result<String, Refusal> {
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    if field("Action") != "AssumeRoleWithWebIdentity" || field("Version") != "2011-06-15" {
        return Err(Refusal(
            400,
            "InvalidAction",
            "Could not find operation".into(),
        ));
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    if !(2..=64).contains(&name.len()) || !name.chars().all(is_allowed) {
        let message = "Value at 'roleSessionName' failed to satisfy constraint";
        return Err(Refusal(400, "ValidationError", message.into()));
    }
    let token = field("WebIdentityToken");
    let claimed: Claims = insecure_decode_claims(token).map_err(|_unreadable| {
        Refusal(
            400,
            INVALID,
            "The ID Token provided is not a valid JWT.".into(),
        )
    })?;
    let provider = state.account.provider(&claimed.iss).ok_or_else(|| {
        let message = format!(
            "No OpenIDConnect provider found in your account for {}",
            claimed.iss
        );
        Refusal(400, INVALID, message)
    })?;
    let claims = verify(&provider, token)?;
    let role = state.account.role(role);
    let trusts = role.into_iter().flat_map(|role| role.trust).any(|trust| {
        trust.issuer == claims.iss && trust.subject == claims.sub && claims.aud.has(&trust.audience)
    });
    if trusts {
        return Ok(claims.sub);
    }
    let message = "Not authorized to perform sts:AssumeRoleWithWebIdentity";
    Err(Refusal(403, "AccessDenied", message.into()))
}

fn verify(provider: &Provider, token: &str) -> Result<Claims, Refusal> {
    let invalid = |message: &str| Refusal(400, INVALID, message.to_owned());
    let header = decode_header(token)
        .map_err(|_unreadable| invalid("The ID Token provided is not a valid JWT."))?;
    let keys = provider.keys.as_ref();
    let key = keys
        .and_then(|keys| keys.find(header.kid.as_deref()?))
        .ok_or_else(|| {
            invalid(
                "Couldn't retrieve verification key from your identity provider, please reference \
             AssumeRoleWithWebIdentity documentation for requirements",
            )
        })?;
    let key = DecodingKey::from_jwk(key).map_err(|_unreadable| invalid("Unsupported key"))?;
    let mut validation = Validation::new(header.alg);
    validation.leeway = 0;
    validation.set_audience(&provider.client_ids);
    match decode::<Claims>(token, &key, &validation) {
        Ok(verified) => Ok(verified.claims),
        Err(error) => Err(match error.kind() {
            ErrorKind::ExpiredSignature => {
                let message =
                    "Token expired: current date/time must be before the expiration date/time";
                Refusal(400, "ExpiredTokenException", message.into())
            }
            ErrorKind::InvalidAudience => invalid("Incorrect token audience"),
            _ => invalid("The web identity token provided could not be validated"),
        }),
    }
}

/// The fields of a form, by the same rules as those of a query.
fn form(body: &[u8]) -> Option<HashMap<String, String>> {
    let uri: Uri = format!("/?{}", std::str::from_utf8(body).ok()?)
        .parse()
        .ok()?;
    Some(Query::try_from_uri(&uri).ok()?.0)
}

/// An error as STS answers it.
pub(super) fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    let party = if status.is_server_error() {
        "Receiver"
    } else {
        "Sender"
    };
    xml(
        status,
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>{party}</Type>\
             <Code>{code}</Code><Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
        ),
    )
}

fn xml(status: StatusCode, body: String) -> Response {
    (status, [(CONTENT_TYPE, "text/xml")], body).into_response()
}
