//! A page of the documentation as its reader takes it: its YAML, with names of their own in place of those in capitals.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

/// The objects and parts of objects that a page shows.
pub(super) struct Page(Vec<Value>);

impl Page {
    /// Reads the blocks of a page that are YAML, after every name in capitals was replaced by the reader's.
    pub(super) fn read(markdown: &str, names: &[(&str, &str)]) -> Result<Self> {
        let put = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
        let text = names.iter().fold(markdown.to_owned(), put);
        let blocks = text.split("```yaml\n").skip(1);
        let blocks = blocks.map(|rest| rest.split("```").next().unwrap_or_default());
        let read = |block: &str| serde_saphyr::from_str(block).context("a block is no YAML");
        Ok(Self(blocks.map(read).collect::<Result<_>>()?))
    }

    /// The object of a kind.
    pub(super) fn object(&self, kind: &str) -> Result<Value> {
        let found = self.0.iter().find(|it| it["kind"] == kind);
        found
            .cloned()
            .with_context(|| format!("there is no {kind}"))
    }

    /// The `stringData` of the first Secret.
    pub(super) fn values(&self) -> Result<Map<String, Value>> {
        let found = self.0.iter().find_map(|it| it["stringData"].as_object());
        found.cloned().context("there is no Secret")
    }

    /// The `source` of the Application.
    pub(super) fn source(&self) -> Result<Value> {
        let found = self.0.iter().find_map(|it| it.get("source"));
        found.cloned().context("there is no Application's source")
    }
}
