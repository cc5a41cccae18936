//! What an Argo CD pod gets: a borrowed view of the pod flows in, a verdict
//! with a minimal patch flows out. Pure.
//!
//! A pod is never denied. What cannot be injected is left out with a warning,
//! and what the pod already has for the same purpose is used as it is, which
//! also makes the decision about a patched pod an empty patch.

mod certificates;
mod container;
mod sidecar;
mod view;

use serde_json::json;
use shared::{
    errors::{Code, Named},
    layout::{CONTRACT_VERSION, CSI_DRIVER, SPIFFE_CSI_DRIVER, SPIFFE_VOLUME_NAME, VOLUME_NAME},
};

use self::{
    container::{Additions, Wishes},
    sidecar::is_sidecar,
    view::{Container, PodSpec},
};
pub use self::{
    sidecar::{PullPolicy, SidecarSettings},
    view::PodView,
};
use super::{
    Skip, Verdict,
    patch::{Patch, Slot},
};
use crate::annotations::{Component, ExecAuth, INJECTED, Inject, PodOptions};

/// What selected the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The label of its namespace, which says `enabled`.
    Namespace,
    /// An annotation of its own.
    Annotation,
}

/// What the installation has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodConfig {
    /// Image of the credential proxy; without it no pod gets one.
    pub proxy_image: Option<String>,
    /// How the credential proxy runs.
    pub sidecar: SidecarSettings,
    /// The nodes have the SPIFFE CSI driver.
    pub spiffe_csi_driver: bool,
}

/// Decides what a new pod gets.
pub fn decide(pod: &PodView<'_>, entry: Entry, config: &PodConfig) -> Verdict {
    let (options, mut warnings) = PodOptions::parse(|name| pod.annotation(name));
    match (options.inject, entry) {
        (Some(Inject::Disabled), _) => return Verdict::skip(Skip::OptedOut, warnings),
        (None, Entry::Annotation) => return Verdict::skip(Skip::NotOptedIn, warnings),
        (Some(Inject::Enabled), _) | (None, Entry::Namespace) => {}
    }
    let Some(component) = options.component.or_else(|| component_of(pod)) else {
        if options.inject.is_some() {
            warnings.push(unknown_component());
        }
        return Verdict::skip(Skip::NotArgoCd, warnings);
    };
    let Some(spec) = &pod.spec else {
        return Verdict::skip(Skip::NoContainer, warnings);
    };
    if spec.host_network == Some(true) {
        let detail = "spec.hostNetwork: nothing was injected";
        warnings.push(Named::new(Code::HostNetwork, detail));
        return Verdict::skip(Skip::HostNetwork, warnings);
    }
    let targets = targets(spec, component, &options, &mut warnings);
    if targets.is_empty() {
        return Verdict::skip(Skip::NoContainer, warnings);
    }

    let volumes = Volumes::plan(spec, component, &options, config, &mut warnings);
    let wishes = Wishes {
        component,
        exec_auth: options.exec_auth == ExecAuth::Csi,
        spiffe_socket_path: options.spiffe_socket_path,
        spec,
        credentials: volumes.credentials,
        spiffe: volumes.spiffe,
    };
    let mut additions: Vec<_> = targets
        .iter()
        .map(|target| container::plan(target.container, &wishes, &mut warnings))
        .collect();

    let main = targets.iter().position(|target| target.is_main);
    let sidecar = sidecar::plan(
        spec,
        main.map(|at| (targets[at].container, &mut additions[at])),
        component,
        &options,
        config,
        &mut warnings,
    );

    let mut patch = Patch::new();
    // The label says that the pod has something of ours, for whoever looks for
    // pods that have to be restarted.
    let carries = |volume: &PlannedVolume<'_>| {
        additions.iter().any(|it| it.mounts(volume.name))
            || targets.iter().any(|it| {
                it.container
                    .mounts()
                    .iter()
                    .any(|mount| &*mount.name == volume.name)
            })
    };
    let has_sidecar = sidecar.is_some() || spec.init_containers().iter().any(is_sidecar);
    if has_sidecar || volumes.planned().any(|volume| carries(&volume)) {
        label(pod, &mut patch);
    }
    volumes.write(spec, &additions, &mut patch);
    if let Some(sidecar) = sidecar {
        sidecar.write(spec, &mut patch);
    }
    for (target, additions) in targets.iter().zip(additions) {
        additions.write(target.container, &target.slot(), &mut patch);
    }
    Verdict::patch(patch, warnings)
}

fn component_of(pod: &PodView<'_>) -> Option<Component> {
    let containers = || pod.spec.iter().flat_map(PodSpec::containers);
    Component::recognise(pod.labels()?.app(), |program| {
        containers().any(|container| container.runs(program))
    })
}

fn unknown_component() -> Named {
    Named::new(
        Code::InvalidAnnotation,
        "workload-identity.dev/inject: the pod is no repo-server, server or \
         application-controller by app.kubernetes.io/name or workload-identity.dev/component",
    )
}

/// A container that is to be injected.
struct Target<'p, 'a> {
    list: &'static str,
    index: usize,
    container: &'p Container<'a>,
    is_main: bool,
}

impl Target<'_, '_> {
    fn slot(&self) -> Slot {
        Slot::root()
            .member("spec", true)
            .member(self.list, true)
            .element(self.index)
    }
}

/// The main container and those that the annotation names, in the order in
/// which the pod has them, without the excluded ones.
fn targets<'p, 'a>(
    spec: &'p PodSpec<'a>,
    component: Component,
    options: &PodOptions<'_>,
    warnings: &mut Vec<Named>,
) -> Vec<Target<'p, 'a>> {
    let main = main_container(spec.containers(), component);
    let init = spec.init_containers().iter().enumerate();
    let regular = spec.containers().iter().enumerate();
    let all = init
        .map(|(index, container)| ("initContainers", index, container, false))
        .chain(
            regular.map(|(index, container)| ("containers", index, container, main == Some(index))),
        );
    let targets = all
        // The credential proxy has its own, and nothing of Argo CD's.
        .filter(|(_, _, container, _)| !is_sidecar(container))
        .filter(|(_, _, container, is_main)| {
            let name = &*container.name;
            (*is_main || options.containers.contains(&name))
                && !options.exclude_containers.contains(&name)
        })
        .map(|(list, index, container, is_main)| Target {
            list,
            index,
            container,
            is_main,
        })
        .collect();

    let known = |name: &str| {
        let mut containers = spec.containers().iter().chain(spec.init_containers());
        containers.any(|container| &*container.name == name && !is_sidecar(container))
    };
    let named = options.containers.iter().chain(&options.exclude_containers);
    for name in named.filter(|name| !known(name)) {
        let shown: String = name.chars().take(63).collect();
        let detail = format!("no container `{}`", shown.escape_debug());
        warnings.push(Named::new(Code::UnknownContainer, detail));
    }
    targets
}

/// The container that runs the component: by the name that stock Argo CD and
/// the operator use, by the Helm chart's, else the first that is no plugin.
fn main_container(containers: &[Container<'_>], component: Component) -> Option<usize> {
    let stock = format!("argocd-{}", component.as_str());
    let by_name = |name: &str| containers.iter().position(|c| &*c.name == name);
    by_name(&stock)
        .or_else(|| by_name(component.as_str()))
        .or_else(|| containers.iter().position(|c| !c.is_plugin()))
}

/// A volume that containers can mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PlannedVolume<'p> {
    name: &'p str,
    driver: &'static str,
    /// The pod has none of this driver: it is added if a container mounts it.
    is_new: bool,
}

/// The pod's volumes for credentials and the Workload API, where it gets them.
struct Volumes<'p> {
    credentials: Option<PlannedVolume<'p>>,
    spiffe: Option<PlannedVolume<'p>>,
}

impl<'p> Volumes<'p> {
    fn plan(
        spec: &'p PodSpec<'_>,
        component: Component,
        options: &PodOptions<'_>,
        config: &PodConfig,
        warnings: &mut Vec<Named>,
    ) -> Self {
        if options.exec_auth == ExecAuth::InitContainer {
            warnings.push(Named::new(
                Code::NotAvailable,
                "workload-identity.dev/exec-auth: init-container; csi is the alternative",
            ));
        }
        let credentials = options.credentials.then(|| {
            if matches!(
                spec.service_account_name.as_deref(),
                None | Some("" | "default")
            ) {
                warnings.push(Named::new(
                    Code::DefaultServiceAccount,
                    "spec.serviceAccountName",
                ));
            }
            volume(spec, VOLUME_NAME, CSI_DRIVER)
        });
        let spiffe = wants_spiffe(component, options, config, warnings)
            .then(|| volume(spec, SPIFFE_VOLUME_NAME, SPIFFE_CSI_DRIVER));
        let mut keep = |planned: Option<Result<_, _>>| match planned? {
            Ok(volume) => Some(volume),
            Err(conflict) => {
                warnings.push(conflict);
                None
            }
        };
        Self {
            credentials: keep(credentials),
            spiffe: keep(spiffe),
        }
    }

    fn planned(&self) -> impl Iterator<Item = PlannedVolume<'p>> {
        [self.credentials, self.spiffe].into_iter().flatten()
    }

    /// Adds the volumes that are new and that one of `additions` mounts.
    fn write(&self, spec: &PodSpec<'_>, additions: &[Additions], patch: &mut Patch) {
        let new = self
            .planned()
            .filter(|volume| volume.is_new && additions.iter().any(|a| a.mounts(volume.name)))
            .map(|volume| {
                let csi = json!({"driver": volume.driver, "readOnly": true});
                json!({"name": volume.name, "csi": csi})
            });
        let slot = Slot::root()
            .member("spec", true)
            .member("volumes", spec.volumes.is_some());
        patch.append(&slot, new.collect());
    }
}

/// Controller and server get the Workload API where the installation has it,
/// the repo-server on request.
fn wants_spiffe(
    component: Component,
    options: &PodOptions<'_>,
    config: &PodConfig,
    warnings: &mut Vec<Named>,
) -> bool {
    let by_default = component != Component::RepoServer;
    let wanted = options.spiffe_csi.unwrap_or(by_default);
    if wanted && !config.spiffe_csi_driver && options.spiffe_csi.is_some() {
        warnings.push(Named::new(
            Code::NotAvailable,
            "workload-identity.dev/spiffe-csi: the control plane runs without --spiffe-csi-driver",
        ));
    }
    wanted && config.spiffe_csi_driver
}

/// Finds the pod's volume of this driver, or plans one with this name.
fn volume<'p>(
    spec: &'p PodSpec<'_>,
    name: &'static str,
    driver: &'static str,
) -> Result<PlannedVolume<'p>, Named> {
    let named = spec.volumes().iter().find(|v| &*v.name == name);
    let of_driver = || spec.volumes().iter().find(|v| v.is_of_driver(driver));
    let existing = named.filter(|v| v.is_of_driver(driver)).or_else(of_driver);
    if existing.is_none() && named.is_some() {
        let detail = format!("volume `{name}` is not of the CSI driver {driver}; left out");
        return Err(Named::new(Code::VolumeConflict, detail));
    }
    Ok(PlannedVolume {
        name: existing.map_or(name, |volume| &volume.name),
        driver,
        is_new: existing.is_none(),
    })
}

fn label(pod: &PodView<'_>, patch: &mut Patch) {
    let injected = pod.labels().and_then(|labels| labels.injected.as_deref());
    if injected != Some(CONTRACT_VERSION) {
        let slot = Slot::root()
            .member("metadata", pod.metadata.is_some())
            .member("labels", pod.labels().is_some());
        patch.set(&slot, [(INJECTED, json!(CONTRACT_VERSION))]);
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
