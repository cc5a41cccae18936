//! The project's own images, as `manifests/base` expects them.

use anyhow::Result;

use super::{Image, busybox};
use crate::binaries::Binaries;

const CONTROL_PLANE: &str = "/usr/local/bin/argocd-identity";
const AGENT: &str = "/usr/local/bin/argocd-identity-agent";
const EXEC_AUTH: &str = "/usr/local/bin/exec-auth";
const CREDENTIAL_PROXY: &str = shared::layout::PROXY_PROGRAM;
const SUPERVISOR: &str = "/usr/local/bin/supervisor";
/// The manifests' `runAsUser` of the control plane, and the credential proxy's in Argo CD's pods, where no
/// manifest names one. The agent's says that it runs as root.
pub(crate) const USER: u32 = 65532;

/// Starts the agent again whenever it ends, so that a trial may kill it more often than kubelet
/// would restart its container at once. SIGTERM ends the agent and then the script.
const SUPERVISE: &str = r#"#!/bin/sh
ending= agent=
trap 'ending=yes; [ -z "$agent" ] || kill "$agent"' TERM INT
until [ "$ending" ]; do
  /usr/local/bin/argocd-identity-agent "$@" &
  agent=$!
  # The signal may have come before there was a process to pass it on to.
  [ -z "$ending" ] || kill "$agent"
  wait "$agent"
  # An agent that cannot start must not take the whole processor.
  [ "$ending" ] || sleep 0.1
done
# A signal ends a wait before the process has ended.
wait "$agent"
"#;

/// `argocd-identity:dev`, the control plane.
///
/// # Errors
/// When the program is not built or a library of it is missing.
pub fn control_plane(binaries: &Binaries) -> Result<Image> {
    let mut image = Image::new("argocd-identity:dev".parse()?);
    surroundings(&mut image);
    image.program(CONTROL_PLANE, &binaries.control_plane())?;
    image.config.entrypoint = vec![CONTROL_PLANE.to_owned()];
    image.config.user = USER.to_string();
    Ok(image)
}

/// `argocd-identity-agent:dev`: the node agent, and the programs that it brings to Argo CD's pods.
///
/// # Errors
/// When a program is not built or a library of it is missing.
pub fn agent(binaries: &Binaries) -> Result<Image> {
    let mut image = Image::new("argocd-identity-agent:dev".parse()?);
    surroundings(&mut image);
    image.program(AGENT, &binaries.agent())?;
    image.program(EXEC_AUTH, &binaries.exec_auth())?;
    image.program(CREDENTIAL_PROXY, &binaries.credential_proxy())?;
    image.config.entrypoint = vec![AGENT.to_owned()];
    image.config.user = USER.to_string();
    Ok(image)
}

/// `argocd-identity-agent:supervised`, with busybox, where a script starts the agent again whenever it
/// ends.
///
/// # Errors
/// As [`agent`], and when busybox is not installed.
pub fn supervised_agent(binaries: &Binaries) -> Result<Image> {
    let mut image = agent(binaries)?;
    "supervised".clone_into(&mut image.reference.tag);
    supervise(&mut image)?;
    Ok(image)
}

pub(super) fn supervise(image: &mut Image) -> Result<()> {
    busybox::add(image)?;
    image.text(SUPERVISOR, 0o755, SUPERVISE);
    image.config.entrypoint = vec![SUPERVISOR.to_owned()];
    Ok(())
}

fn surroundings(image: &mut Image) {
    image.users(&[("root", 0, "/root"), ("nonroot", USER, "/")]);
    image.certificates();
}
