//! The native sidecars of a pod: init containers that stay. As kubelet does it, each is started before the
//! pod's containers and awaited by its startup probe. They are the credential proxy, whose port is fixed: a
//! run has one repo-server at a time.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Container, Pod};
use shared::layout::PROXY_CONTAINER;

use super::{READY, Settings};
use crate::images::project::USER;
use crate::process::wait_until;
use crate::sandboxed_container::{Image, SandboxedContainer};

/// An image with nothing but the credential proxy.
pub(super) fn image(program: PathBuf) -> Image {
    Image {
        programs: [(PROXY_CONTAINER.to_owned(), program)].into(),
        home: PathBuf::from("/"),
        user: USER.into(),
        ..Image::default()
    }
}

/// Starts those that the pod has; they are ready when this returns.
pub(super) async fn start(settings: &Settings, pod: &Pod) -> Result<Vec<SandboxedContainer>> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.init_containers);
    let mut running = Vec::new();
    for container in containers
        .flatten()
        .filter(|it| it.restart_policy.as_deref() == Some("Always"))
    {
        let sidecar = settings
            .container(pod, &container.name, &settings.sidecar_image, &[])
            .await?;
        ready(&sidecar, container).await?;
        running.push(sidecar);
    }
    Ok(running)
}

async fn ready(sidecar: &SandboxedContainer, container: &Container) -> Result<()> {
    let probe = container.startup_probe.as_ref();
    let command = probe
        .and_then(|probe| probe.exec.as_ref()?.command.as_deref())
        .with_context(|| format!("container {} has no startup probe", container.name))?;
    let (program, arguments) = command.split_first().context("a probe without a program")?;
    wait_until(
        &format!("the startup probe of {}", container.name),
        READY,
        || async move {
            let output = sidecar.exec(program)?.args(arguments).output()?;
            ensure!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
            Ok(())
        },
    )
    .await
    .with_context(|| format!("its log is {}", sidecar.log().display()))
}
