//! The program as client-go runs it.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use shared::exec_credential::ExecCredential;

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exec-auth"));
    command
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .args(["--cluster", "spoke", "--directory"])
        .arg(folder);
    command
}

fn write(folder: &Path, token: &str, expires: Timestamp) {
    let bytes = ExecCredential::new(token.into(), expires).render().unwrap();
    std::fs::write(folder.join(".new"), bytes).unwrap();
    std::fs::rename(folder.join(".new"), folder.join("spoke.json")).unwrap();
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn prints_the_credential_in_the_version_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let expires = Timestamp::now() + Duration::from_secs(60);
    write(folder.path(), "hunter2", expires);
    for (arguments, environment, version) in [
        (&[][..], None, "v1beta1"),
        (&["--api-version", "v1"][..], None, "v1"),
        (&[][..], Some(("EXEC_CREDENTIAL_VERSION", "v1")), "v1"),
        (
            &[][..],
            Some((
                "KUBERNETES_EXEC_INFO",
                r#"{"apiVersion":"client.authentication.k8s.io/v1"}"#,
            )),
            "v1",
        ),
    ] {
        let output = command(folder.path())
            .args(arguments)
            .envs(environment)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(output.stderr.is_empty());
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            value["apiVersion"],
            format!("client.authentication.k8s.io/{version}")
        );
        assert_eq!(value["status"]["token"], "hunter2");
    }
}

#[test]
fn waits_for_the_first_credential() {
    let folder = tempfile::tempdir().unwrap();
    let child = command(folder.path()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    write(
        folder.path(),
        "t",
        Timestamp::now() + Duration::from_secs(60),
    );
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn failures_are_named_and_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let fails = |arguments: &[&str], code: &str| {
        let output = command(folder.path())
            .args(["--timeout", "100ms"])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        let message = stderr(&output);
        assert!(
            message.starts_with(&format!("exec-auth: {code}: ")),
            "{message}"
        );
        assert!(!message.contains("hunter2"));
    };
    fails(&[], "credential-missing");
    fails(&["--api-version", "v2"], "version-mismatch");
    write(
        folder.path(),
        "hunter2",
        Timestamp::now() - Duration::from_secs(1),
    );
    fails(&[], "credential-expired");
    std::fs::write(folder.path().join("spoke.json"), "hunter2").unwrap();
    fails(&[], "credential-unreadable");
    assert!(start.elapsed() < Duration::from_secs(5));
}
