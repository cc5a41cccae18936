//! What an object has that another one lacks, by JSON pointer.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;

/// Everything that `after` has beyond `before`: members of objects, and
/// elements at the end of lists.
///
/// # Errors
/// When something of `before` is changed or gone, with its place.
pub(crate) fn additions(before: &Value, after: &Value) -> Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    compare(String::new(), before, after, &mut found)?;
    Ok(found)
}

fn compare(
    place: String,
    before: &Value,
    after: &Value,
    found: &mut BTreeMap<String, Value>,
) -> Result<()> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            if let Some(name) = before.keys().find(|name| !after.contains_key(*name)) {
                bail!("{place}/{name} is gone");
            }
            for (name, value) in after {
                let place = format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"));
                match before.get(name) {
                    Some(before) => compare(place, before, value, found)?,
                    None => {
                        found.insert(place, value.clone());
                    }
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            if before.len() > after.len() {
                bail!("{place} is shorter than it was");
            }
            for (index, value) in after.iter().enumerate() {
                let place = format!("{place}/{index}");
                match before.get(index) {
                    Some(before) => compare(place, before, value, found)?,
                    None => {
                        found.insert(place, value.clone());
                    }
                }
            }
        }
        _ if before == after => {}
        // The API server works it out from the requests of all containers, and
        // the credential proxy has some.
        _ if place == "/status/qosClass" => {
            found.insert(place, after.clone());
        }
        _ => bail!("{place} was {before} and is {after}"),
    }
    Ok(())
}
