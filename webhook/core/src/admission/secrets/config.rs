//! Edits a cluster Secret's `config` text. What is not meant stays byte for
//! byte: Argo CD relists a whole cluster whenever this text changes.

use std::{fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json, value::RawValue};

use crate::secret::ExecConfig;

const EXEC: &str = "execProviderConfig";

/// The text with `execProviderConfig` set. Of one that starts the same plugin
/// only the arguments become others, and what is missing is added: the rest is
/// the user's choice.
///
/// # Errors
/// The place of a syntax error, never the content.
pub(super) fn with_exec(config: &str, exec: &ExecConfig) -> Result<String, String> {
    let member = json!({
        "command": exec.command,
        "args": exec.args,
        "apiVersion": exec.api_version,
    });
    if config.trim().is_empty() {
        return Ok(json!({ EXEC: member }).to_string());
    }
    let Some(at) = last(&members(config, 0..config.len())?, EXEC) else {
        return set(config, 0..config.len(), EXEC, &member);
    };
    let is_same_plugin = serde_json::from_str::<ExecConfig>(&config[at.clone()])
        .is_ok_and(|present| present.command == exec.command)
        && config[at.clone()].starts_with('{');
    if !is_same_plugin {
        return Ok(replace(config, at, &member.to_string()));
    }
    let config = set(config, at.clone(), "args", &member["args"])?;
    let at = last(&members(&config, 0..config.len())?, EXEC).unwrap_or(at);
    if last(&members(&config, at.clone())?, "apiVersion").is_some() {
        return Ok(config);
    }
    set(&config, at, "apiVersion", &member["apiVersion"])
}

/// The text without the members that `paths` name, `.` between the levels.
///
/// # Errors
/// The place of a syntax error, never the content.
pub(super) fn without(config: &str, paths: &[&str]) -> Result<String, String> {
    let mut config = config.to_owned();
    for path in paths {
        while let Some(at) = find(&config, path)? {
            config = replace(&config, at, "");
        }
    }
    Ok(config)
}

/// Where the member that `path` names is, with one of the commas around it.
fn find(config: &str, path: &str) -> Result<Option<Range<usize>>, String> {
    let (parents, last_name) = path.rsplit_once('.').unwrap_or(("", path));
    let mut object = 0..config.len();
    for name in parents.split('.').filter(|name| !name.is_empty()) {
        match last(&members(config, object)?, name) {
            Some(at) if config[at.clone()].starts_with('{') => object = at,
            _ => return Ok(None),
        }
    }
    let members = members(config, object)?;
    let Some(index) = members.iter().position(|it| it.name == last_name) else {
        return Ok(None);
    };
    let member = &members[index];
    let comma = |range: Range<usize>| {
        let start = range.start;
        config[range].find(',').map(|at| start + at)
    };
    let before = index
        .checked_sub(1)
        .and_then(|before| comma(members[before].value.end..member.start));
    let after = members
        .get(index + 1)
        .and_then(|next| comma(member.value.end..next.start));
    Ok(Some(match (before, after) {
        (Some(before), Some(after)) => before + 1..after + 1,
        (Some(before), None) => before..member.value.end,
        (None, Some(after)) => member.start..after + 1,
        (None, None) => member.start..member.value.end,
    }))
}

/// The text with one member of the object at `object` set.
fn set(config: &str, object: Range<usize>, name: &str, value: &Value) -> Result<String, String> {
    let members = members(config, object.clone())?;
    if let Some(at) = last(&members, name) {
        return Ok(replace(config, at, &value.to_string()));
    }
    let text = config[object.clone()].trim_end();
    let body = text.strip_suffix('}').ok_or("not an object")?;
    let end = object.start + body.trim_end().len();
    let comma = if members.is_empty() { "" } else { "," };
    let member = format!("{comma}{}:{value}", Value::from(name));
    Ok(replace(config, end..end, &member))
}

fn replace(text: &str, at: Range<usize>, with: &str) -> String {
    format!("{}{with}{}", &text[..at.start], &text[at.end..])
}

/// Go and serde take the last of several.
fn last(members: &[Member], name: &str) -> Option<Range<usize>> {
    let mut members = members.iter().rev();
    members
        .find(|it| it.name == name)
        .map(|it| it.value.clone())
}

fn place(error: &serde_json::Error) -> String {
    format!("line {}, column {}", error.line(), error.column())
}

/// A member of an object, by its place in the text.
struct Member {
    name: String,
    start: usize,
    value: Range<usize>,
}

/// The members of the object at `object`.
fn members(config: &str, object: Range<usize>) -> Result<Vec<Member>, String> {
    struct Spans<'a>(Vec<(&'a RawValue, &'a RawValue)>);

    impl<'de: 'a, 'a> Deserialize<'de> for Spans<'a> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(Object).map(Self)
        }
    }

    struct Object;

    impl<'de> Visitor<'de> for Object {
        type Value = Vec<(&'de RawValue, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }

    // A borrowed RawValue is a part of the text.
    let start = |raw: &RawValue| raw.get().as_ptr().addr() - config.as_ptr().addr();
    let Spans(spans) = serde_json::from_str(&config[object]).map_err(|error| place(&error))?;
    spans
        .into_iter()
        .map(|(name, value)| {
            Ok(Member {
                start: start(name),
                value: start(value)..start(value) + value.get().len(),
                name: serde_json::from_str(name.get()).map_err(|error| place(&error))?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ours() -> ExecConfig {
        ExecConfig::ours("spoke")
    }

    #[test]
    fn a_member_is_added_and_the_rest_stays() {
        let exec = r#""execProviderConfig":{"apiVersion":"client.authentication.k8s.io/v1beta1","args":["--cluster","spoke"],"command":"/binaries/exec-auth"}"#;
        for (before, after) in [
            ("", format!("{{{exec}}}")),
            ("{}", format!("{{{exec}}}")),
            ("{ }\n", format!("{{{exec} }}\n")),
            (r#"{"a" : 1.0}"#, format!(r#"{{"a" : 1.0,{exec}}}"#)),
            (
                "{\n  \"b\": [ ]\n}\n",
                format!("{{\n  \"b\": [ ],{exec}\n}}\n"),
            ),
            (
                r#"{"execProviderConfig": null, "a":1}"#,
                format!(
                    r#"{{{exec_spaced}, "a":1}}"#,
                    exec_spaced = exec.replacen(":{", ": {", 1)
                ),
            ),
        ] {
            assert_eq!(with_exec(before, &ours()).unwrap(), after, "{before}");
        }
    }

    #[test]
    fn members_are_removed_at_any_level() {
        let config = r#"{"bearerToken":"x","tlsClientConfig":{"caData":"c","keyData":"k"}}"#;
        let rest = without(
            config,
            &["bearerToken", "tlsClientConfig.keyData", "no.such"],
        )
        .unwrap();
        assert_eq!(rest, r#"{"tlsClientConfig":{"caData":"c"}}"#);
    }

    #[test]
    fn what_is_not_removed_stays_byte_for_byte() {
        for (before, paths, after) in [
            (
                "{ \"z\" : 1.0,\n \"bearerToken\":\"x\" , \"a\":[1e2, 10000000000000000000000] }\n",
                &["bearerToken"][..],
                "{ \"z\" : 1.0, \"a\":[1e2, 10000000000000000000000] }\n",
            ),
            (
                r#"{"bearerToken":"x", "a": "\u0061"}"#,
                &["bearerToken"],
                r#"{ "a": "\u0061"}"#,
            ),
            (
                r#"{"a": 1 , "bearerToken":"x"}"#,
                &["bearerToken"],
                r#"{"a": 1 }"#,
            ),
            (r#"{"bearerToken":"x"}"#, &["bearerToken"], "{}"),
            (
                r#"{"tlsClientConfig" : {"caData":"c" ,"keyData":"k", "x":1.50}, "username":"u", "password":"p"}"#,
                &["username", "password", "tlsClientConfig.keyData", "no.such"],
                r#"{"tlsClientConfig" : {"caData":"c" , "x":1.50}}"#,
            ),
        ] {
            assert_eq!(without(before, paths).unwrap(), after, "{before}");
        }
    }

    proptest! {
        #[test]
        fn any_object_keeps_its_other_members(a in "\\PC{0,12}", n in any::<i32>(), had in any::<bool>()) {
            let mut value = json!({ "x": {"y": [a, n]}, "z": null });
            if had {
                value[EXEC] = json!({"command": "old"});
            }
            let text = serde_json::to_string_pretty(&value).unwrap();
            let mut edited: Value = serde_json::from_str(&with_exec(&text, &ours()).unwrap()).unwrap();
            prop_assert_eq!(&edited[EXEC]["command"], "/binaries/exec-auth");
            edited.as_object_mut().unwrap().remove(EXEC);
            value.as_object_mut().unwrap().remove(EXEC);
            prop_assert_eq!(edited, value);
        }

        /// What serde_json would leave, with every other byte as it was.
        #[test]
        fn what_is_removed_is_all_that_goes(
            text in "[{]( ?\"[abc]\" ?: ?(1\\.0|\"[,}{]\"|[{]\"b\" : \"x\"[}]|null) ?,){0,4} ?\"d\":[0-9] [}]"
        ) {
            let paths = ["a", "c.b", "d"];
            let after = without(&text, &paths).unwrap();
            let mut expected: Value = serde_json::from_str(&text).unwrap();
            for path in ["/a", "/c/b", "/d"] {
                let (parent, name) = path.rsplit_once('/').unwrap();
                if let Some(Value::Object(parent)) = expected.pointer_mut(parent) {
                    parent.remove(name);
                }
            }
            prop_assert_eq!(serde_json::from_str::<Value>(&after).unwrap(), expected);
            prop_assert_eq!(without(&after, &paths).unwrap(), after);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = with_exec(&text, &ours());
            let _ = without(&text, &["a", "b.c"]);
        }
    }
}
