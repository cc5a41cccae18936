//! Members of a cluster's `config` that Argo CD would read otherwise than they
//! are read here: the JSON flows in, the first such member flows out. Pure.
//!
//! Go's encoding/json takes a member for a field of a struct also when their
//! names differ in case only, and of several the last one wins or all are
//! merged (fold.go and decode.go there; golang/go#14750). So a spelling that is
//! not the field's own, or a second member of one name, could say something
//! that no check has seen.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// What Argo CD reads a member into.
enum Field {
    /// A value whose own members do not matter.
    Value,
    /// A struct with these fields.
    Struct(&'static [(&'static str, Field)]),
    /// A map, whose names are taken as they are.
    Map,
}

/// `ClusterConfig` of Argo CD's pkg/apis/application/v1alpha1/types.go.
const CONFIG: &[(&str, Field)] = &[
    ("username", Field::Value),
    ("password", Field::Value),
    ("bearerToken", Field::Value),
    (
        "tlsClientConfig",
        Field::Struct(&[
            ("insecure", Field::Value),
            ("serverName", Field::Value),
            ("certData", Field::Value),
            ("keyData", Field::Value),
            ("caData", Field::Value),
        ]),
    ),
    (
        "awsAuthConfig",
        Field::Struct(&[
            ("clusterName", Field::Value),
            ("roleARN", Field::Value),
            ("profile", Field::Value),
        ]),
    ),
    (
        "execProviderConfig",
        Field::Struct(&[
            ("command", Field::Value),
            ("args", Field::Value),
            ("env", Field::Map),
            ("apiVersion", Field::Value),
            ("installHint", Field::Value),
            ("provideClusterInfo", Field::Value),
            ("config", Field::Value),
        ]),
    ),
    ("disableCompression", Field::Value),
    ("proxyUrl", Field::Value),
];

/// Looks through the JSON of a `config`, an object.
///
/// # Errors
/// Line and column of a syntax error, or the path of the first member that Go
/// would read otherwise; never a value, which may be a token.
pub(super) fn check(json: &str) -> Result<(), String> {
    let members: Members<'_> = serde_json::from_str(json)
        .map_err(|error| format!("line {}, column {}", error.line(), error.column()))?;
    fields(members, CONFIG, "")
}

fn fields(
    members: Members<'_>,
    known: &'static [(&'static str, Field)],
    above: &str,
) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (name, value) in members.0 {
        let Some((field, kind)) = known.iter().find(|(field, _)| is_folded(&name, field)) else {
            continue;
        };
        let path = path(above, &name);
        if name != *field {
            return Err(format!(
                "`{path}` is not spelled `{field}`, and Argo CD would obey it all the same"
            ));
        }
        if !seen.insert(*field) {
            return Err(twice(&path));
        }
        let is_object = value.get().starts_with('{');
        if !is_object || matches!(kind, Field::Value) {
            continue;
        }
        let inner: Members<'_> = serde_json::from_str(value.get())
            .map_err(|error| format!("`{path}`, column {} of it", error.column()))?;
        match kind {
            Field::Value => {}
            Field::Struct(known) => fields(inner, known, &path)?,
            Field::Map => entries(&inner, &path)?,
        }
    }
    Ok(())
}

fn entries(members: &Members<'_>, above: &str) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    match members.0.iter().find(|(name, _)| !seen.insert(name)) {
        Some((name, _)) => Err(twice(&path(above, name))),
        None => Ok(()),
    }
}

fn twice(path: &str) -> String {
    format!("`{path}` stands twice")
}

fn path(above: &str, name: &str) -> String {
    let dot = if above.is_empty() { "" } else { "." };
    let shown: String = name.chars().take(80).collect();
    format!("{above}{dot}{}", shown.escape_debug())
}

/// Whether Go takes `name` for the field, a name of ASCII letters. Besides case
/// in ASCII, Unicode's simple folding knows two more letters for them.
fn is_folded(name: &str, field: &str) -> bool {
    let mut letters = field.chars();
    let same = name.chars().all(|c| {
        let c = match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            other => other,
        };
        letters
            .next()
            .is_some_and(|letter| letter.eq_ignore_ascii_case(&c))
    });
    same && letters.next().is_none()
}

/// An object's members in their order, equal names included.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A name, borrowed where it has no escape.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
