//! Snapshots, all in one folder beside this file.

use serde::Serialize;

/// Compares `value` with the snapshot `<trial>__<name>`, and panics with the
/// difference. `cargo insta` is not needed: `INSTA_UPDATE=always` writes them.
#[track_caller]
pub(crate) fn check(trial: &str, name: &str, value: &impl Serialize) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_json_snapshot!(format!("{trial}__{name}"), value));
}
