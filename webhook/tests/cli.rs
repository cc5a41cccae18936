//! The binary as a user runs it: arguments and stdin flow in, stdout, stderr
//! and the exit code are what they are said to be.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

const QUAY: &str = include_str!("../../tests/tests/process/guides/quay.yaml");

fn generate(flags: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_argocd-identity"))
        .args(["generate", "spire", "--trust-domain=example.org"])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let written = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    // A command that refuses its arguments reads nothing.
    if let Err(error) = written {
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }
    child.wait_with_output().unwrap()
}

/// Exit code, stdout and stderr.
fn seen(output: &Output) -> (i32, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(&output.stdout), text(&output.stderr))
}

#[test]
fn documents_go_to_stdout_and_complaints_to_stderr() {
    let flags = ["-f", "-", "--cluster-name=prod"];
    let output = generate(&flags, QUAY);
    let (code, out, err) = seen(&output);
    assert_eq!((code, err), (0, ""));
    assert!(
        out.starts_with("# 3 identities of trust domain example.org"),
        "{out}"
    );

    let bad = QUAY.replacen(
        "https://quay.example.org/oauth2",
        "http://quay.example.org/oauth2",
        1,
    );
    let output = generate(&flags, &bad);
    let (code, out, err) = seen(&output);
    assert_eq!(code, 1);
    assert!(out.starts_with("# 2 identities"), "{out}");
    assert!(err.starts_with("error: auth-url-invalid: "), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
}

#[test]
fn a_bad_argument_is_one_plain_line() {
    let output = generate(&["-f", "-", "--cluster-name=a b"], QUAY);
    let (code, out, err) = seen(&output);
    assert_eq!((code, out), (1, ""));
    assert_eq!(
        err,
        "argocd-identity: --cluster-name `a b`: only a-z, A-Z, 0-9, `.`, `-` and `_` are allowed. \
         Use the name that SPIRE's configuration has\n"
    );
}
