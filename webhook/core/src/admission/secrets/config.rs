//! Edits a cluster Secret's `config` text. What is not meant stays byte for
//! byte: Argo CD relists a whole cluster whenever this text changes.

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json, value::RawValue};

use crate::secret::ExecConfig;

const EXEC: &str = "execProviderConfig";

/// The text with `execProviderConfig` set.
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
    let present: Present<'_> = serde_json::from_str(config).map_err(|error| place(&error))?;
    if let Some(raw) = present.exec_provider_config {
        // A borrowed RawValue is a part of the text.
        let start = raw.get().as_ptr().addr() - config.as_ptr().addr();
        let end = start + raw.get().len();
        return Ok(format!("{}{member}{}", &config[..start], &config[end..]));
    }
    let text = config.trim_end();
    let body = text.strip_suffix('}').ok_or("not an object")?;
    let kept = body.trim_end();
    let space = &body[kept.len()..];
    let comma = if kept.ends_with('{') { "" } else { "," };
    Ok(format!("{kept}{comma}\"{EXEC}\":{member}{space}}}"))
}

/// The text without the members that `paths` name, `.` between the levels.
///
/// # Errors
/// The place of a syntax error, never the content.
pub(super) fn without(config: &str, paths: &[&str]) -> Result<String, String> {
    let mut value: Value = serde_json::from_str(config).map_err(|error| place(&error))?;
    for path in paths {
        let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
        let parent = parents
            .split('.')
            .filter(|name| !name.is_empty())
            .try_fold(&mut value, |parent, name| parent.get_mut(name));
        if let Some(Value::Object(parent)) = parent {
            parent.remove(last);
        }
    }
    Ok(value.to_string())
}

fn place(error: &serde_json::Error) -> String {
    format!("line {}, column {}", error.line(), error.column())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Present<'a> {
    #[serde(borrow, default, deserialize_with = "even_null")]
    exec_provider_config: Option<&'a RawValue>,
}

/// A member that is `null` has a place in the text too.
fn even_null<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
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
            ("{ }\n", format!("{{{exec} }}")),
            (r#"{"a" : 1.0}"#, format!(r#"{{"a" : 1.0,{exec}}}"#)),
            (
                "{\n  \"b\": [ ]\n}\n",
                format!("{{\n  \"b\": [ ],{exec}\n}}"),
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

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = with_exec(&text, &ours());
            let _ = without(&text, &["a", "b.c"]);
        }
    }
}
