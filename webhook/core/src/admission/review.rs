//! Bytes ⇄ AdmissionReview: a request body flows in as a borrowed [`Request`],
//! a [`Verdict`] flows out as the answer's bytes.
//!
//! `object` and `oldObject` stay the bytes they came as ([`RawValue`]); each
//! decision reads from them only what it needs. Wire format:
//! <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>.

use std::{borrow::Cow, collections::BTreeMap, fmt, ops::Deref};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use shared::errors::Named;

use super::{Outcome, Verdict};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// kube-apiserver cuts longer warnings, and drops what exceeds the sum.
const LONGEST_WARNING: usize = 256;
const LONGEST_WARNINGS: usize = 4096;

/// Text that is borrowed from the body unless it has escapes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kube-apiserver asks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// Identifies this call; the answer carries it.
    #[serde(borrow)]
    pub uid: Text<'a>,
    /// Type of `object`.
    #[serde(borrow)]
    pub kind: Kind<'a>,
    /// Such as `status`; empty or missing for the object itself.
    #[serde(borrow, default)]
    pub sub_resource: Option<Text<'a>>,
    /// Missing or empty where the API server has yet to make the name.
    #[serde(borrow, default)]
    pub name: Option<Text<'a>>,
    /// Namespace of the object.
    #[serde(borrow, default)]
    pub namespace: Option<Text<'a>>,
    /// What is done to the object.
    pub operation: Operation,
    /// The object as it will be stored; missing for deletions.
    #[serde(borrow, default)]
    pub object: Option<&'a RawValue>,
    /// The object as it is stored; missing for creations.
    #[serde(borrow, default)]
    pub old_object: Option<&'a RawValue>,
}

impl Request<'_> {
    /// `namespace/name`, as far as they are known.
    pub fn reference(&self) -> String {
        let part = |text: &Option<Text<'_>>| match text.as_deref() {
            None | Some("") => "-".to_owned(),
            Some(text) => text.to_owned(),
        };
        format!("{}/{}", part(&self.namespace), part(&self.name))
    }

    /// Whether the request is about a part of the object, such as its status.
    pub fn is_sub_resource(&self) -> bool {
        self.sub_resource.as_deref().is_some_and(|s| !s.is_empty())
    }
}

/// Group, version and kind.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Kind<'a> {
    /// Empty for the core group.
    #[serde(borrow)]
    pub group: Text<'a>,
    /// Such as `v1`.
    #[serde(borrow)]
    pub version: Text<'a>,
    /// Such as `Pod`.
    #[serde(borrow)]
    pub kind: Text<'a>,
}

impl Kind<'_> {
    /// Group and kind, for comparison with those that a decision is for.
    pub fn group_kind(&self) -> (&str, &str) {
        (&self.group, &self.kind)
    }
}

/// What is done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Operation {
    /// The object is new.
    #[serde(rename = "CREATE")]
    Create,
    /// The object changes.
    #[serde(rename = "UPDATE")]
    Update,
    /// Anything else, which nothing here is registered for.
    #[serde(other)]
    Other,
}

/// The body cannot be read as an AdmissionReview of the supported version.
#[derive(Debug, thiserror::Error)]
#[error("the body is no {API_VERSION} {KIND} that can be read: {reason}")]
pub struct Unreadable {
    /// The request's uid where it could be told nevertheless.
    pub uid: Option<String>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow)]
    api_version: Text<'a>,
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    request: Request<'a>,
}

/// Reads a request body.
///
/// # Errors
/// When it is not JSON, not an `admission.k8s.io/v1` AdmissionReview, or a
/// field of the request has the wrong type.
pub fn parse(body: &[u8]) -> Result<Request<'_>, Unreadable> {
    let envelope: Envelope<'_> = serde_json::from_slice(body).map_err(|error| Unreadable {
        uid: salvage_uid(body),
        reason: error.to_string(),
    })?;
    if envelope.kind.as_str() != KIND || envelope.api_version.as_str() != API_VERSION {
        return Err(Unreadable {
            uid: None,
            reason: format!(
                "it is a {} {}",
                shorten(&envelope.api_version, 64),
                shorten(&envelope.kind, 64)
            ),
        });
    }
    Ok(envelope.request)
}

/// Finds `request.uid` in a body that breaks later on. kube-apiserver writes it
/// before the object, so a broken object does not hide it.
fn salvage_uid(body: &[u8]) -> Option<String> {
    struct Member<'u> {
        name: &'static str,
        inner: Option<&'static str>,
        found: &'u mut Option<String>,
    }

    impl<'de> DeserializeSeed<'de> for Member<'_> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_map(self)
        }
    }

    impl<'de> Visitor<'de> for Member<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an object with {}", self.name)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(key) = map.next_key::<Text<'de>>()? {
                match self.inner {
                    _ if key.as_str() != self.name => {
                        map.next_value::<IgnoredAny>()?;
                    }
                    Some(inner) => map.next_value_seed(Member {
                        name: inner,
                        inner: None,
                        found: &mut *self.found,
                    })?,
                    None => *self.found = Some(map.next_value::<String>()?),
                }
            }
            Ok(())
        }
    }

    let mut found = None;
    let seed = Member {
        name: "request",
        inner: Some("uid"),
        found: &mut found,
    };
    // The error is the one that is being reported already.
    let _ = seed.deserialize(&mut serde_json::Deserializer::from_slice(body));
    found
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

/// Writes the answer to the request with this uid.
///
/// # Errors
/// When serde_json cannot write it, which no value of these types causes.
pub fn render(uid: &str, verdict: &Verdict) -> Result<Vec<u8>, serde_json::Error> {
    let mut response = Response {
        uid,
        allowed: true,
        status: None,
        patch_type: None,
        patch: None,
        warnings: limit_warnings(&verdict.warnings),
        audit_annotations: BTreeMap::from([("verdict", verdict.label().as_str().to_owned())]),
    };
    match &verdict.outcome {
        Outcome::Skip(skip) => {
            response
                .audit_annotations
                .insert("skipped", skip.as_str().to_owned());
        }
        Outcome::Patch(patch) if patch.is_empty() => {}
        Outcome::Patch(patch) => {
            response.patch_type = Some("JSONPatch");
            response.patch = Some(STANDARD.encode(serde_json::to_vec(patch)?));
        }
        Outcome::Deny(error) => {
            response.allowed = false;
            response
                .audit_annotations
                .insert("denied", error.code.as_str().to_owned());
            response.status = Some(Status {
                code: 403,
                reason: "Forbidden",
                message: error.to_string(),
            });
        }
    }
    serde_json::to_vec(&Review {
        api_version: API_VERSION,
        kind: KIND,
        response,
    })
}

/// Brings warnings into the form that kube-apiserver passes on whole: no
/// control characters, 256 characters each, 4096 in all.
fn limit_warnings(warnings: &[Named]) -> Vec<String> {
    let mut left = LONGEST_WARNINGS;
    let mut limited = Vec::with_capacity(warnings.len());
    for warning in warnings {
        let line = one_line(warning);
        let length = line.chars().count();
        if length > left {
            break;
        }
        left -= length;
        limited.push(line);
    }
    limited
}

/// The whole warning, or without its remedy, or cut.
fn one_line(warning: &Named) -> String {
    let mut line = warning.to_string();
    if line.chars().count() > LONGEST_WARNING {
        let Named { code, detail } = warning;
        line = format!("{code}: {} ({detail})", code.cause());
    }
    let line: String = line
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    shorten(&line, LONGEST_WARNING).into_owned()
}

/// The text in at most `longest` characters, the last of them `…` if cut.
fn shorten(text: &str, longest: usize) -> Cow<'_, str> {
    if text.chars().count() <= longest {
        return Cow::Borrowed(text);
    }
    let mut short: String = text.chars().take(longest.saturating_sub(1)).collect();
    short.push('…');
    Cow::Owned(short)
}
