//! Annotations and labels that users and the webhook write.
//!
//! [`PodOptions::parse`] takes a look-up function, so that it works on any
//! representation of a metadata map, and never fails: what cannot be read is
//! reported and treated as not set, because an Argo CD pod is never denied.

use shared::errors::{Code, Named};

/// Opt-in or opt-out: `enabled` or `disabled`. Annotation of a pod template,
/// workload or ArgoCD resource, label of a namespace.
pub const INJECT: &str = "workload-identity.dev/inject";
/// Marks a pod template's [`INJECT`] annotation as the webhook's copy.
pub const INJECT_SOURCE: &str = "workload-identity.dev/inject-source";
/// Value of [`INJECT_SOURCE`]: copied from the workload or ArgoCD resource.
pub const INJECT_SOURCE_WORKLOAD: &str = "workload";
/// Label of injected pods; its value is [`shared::layout::CONTRACT_VERSION`].
pub const INJECTED: &str = "workload-identity.dev/injected";
/// Overrides the component that is read from `app.kubernetes.io/name`.
pub const COMPONENT: &str = "workload-identity.dev/component";
/// Comma-separated names of containers to inject besides the main one.
pub const CONTAINERS: &str = "workload-identity.dev/containers";
/// Comma-separated names of containers to leave alone.
pub const EXCLUDE_CONTAINERS: &str = "workload-identity.dev/exclude-containers";
/// `"true"` or `"false"`: inject the SPIFFE CSI volume.
pub const SPIFFE_CSI: &str = "workload-identity.dev/spiffe-csi";
/// Absolute path of the Workload API socket in the container.
pub const SPIFFE_SOCKET_PATH: &str = "workload-identity.dev/spiffe-socket-path";
/// How the exec plugin gets into the pod: `csi`, `init-container` or `none`.
pub const EXEC_AUTH: &str = "workload-identity.dev/exec-auth";
/// `"false"`: no credential volume.
pub const CREDENTIALS: &str = "workload-identity.dev/credentials";
/// `"false"`: no credential proxy beside the repo-server.
pub const PROXY: &str = "workload-identity.dev/proxy";
/// On a Secret, `"true"`: the webhook may remove static credentials from it.
pub const REMOVE_STATIC_CREDENTIALS: &str = "workload-identity.dev/remove-static-credentials";
/// On a Secret, any new value: the webhook draws another key for its proxy.
pub const ROTATE_PROXY_KEY: &str = "workload-identity.dev/rotate-proxy-key";
/// The label that stock Argo CD puts on its pods.
pub const APP_NAME: &str = "app.kubernetes.io/name";
/// The label that names the product that a pod belongs to.
pub const APP_PART_OF: &str = "app.kubernetes.io/part-of";
/// The label that names the part of the product.
pub const APP_COMPONENT: &str = "app.kubernetes.io/component";

/// The labels with which a pod says what it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AppLabels<'a> {
    /// [`APP_NAME`].
    pub name: Option<&'a str>,
    /// [`APP_PART_OF`].
    pub part_of: Option<&'a str>,
    /// [`APP_COMPONENT`].
    pub component: Option<&'a str>,
}

/// Value of [`INJECT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inject {
    /// Inject.
    Enabled,
    /// Leave alone.
    Disabled,
}

impl Inject {
    /// Reads a value of [`INJECT`].
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "enabled" => Some(Self::Enabled),
            "disabled" => Some(Self::Disabled),
            _ => None,
        }
    }

    /// The value as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }
}

/// The Argo CD components that use credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Component {
    /// Pulls charts and clones repositories.
    RepoServer,
    /// Syncs clusters.
    ApplicationController,
    /// Serves API and UI, and talks to clusters for them.
    Server,
}

impl Component {
    /// What a pod is by its labels and containers; `runs` says whether one of
    /// them has this name or starts this program ([`starts`]).
    ///
    /// Stock Argo CD and its Helm chart write `argocd-<component>` into
    /// `app.kubernetes.io/name`, the operator and charts under another name
    /// `<prefix>-<component>`. Other products call their pods so, too, so such a
    /// name counts only beside what is Argo CD's own: the product's name in
    /// `app.kubernetes.io/part-of`, or the program.
    pub fn recognise(labels: AppLabels<'_>, runs: impl Fn(&str) -> bool) -> Option<Self> {
        let component = Self::from_app_name(labels.name?)?;
        let program = format!("argocd-{}", component.as_str());
        let is_stock = labels.name == Some(&*program);
        let is_part = labels.part_of == Some("argocd")
            && labels.component.is_none_or(|it| it == component.as_str());
        (is_stock || is_part || runs(&program)).then_some(component)
    }

    /// Reads a name that ends in one of the components'. The suffix `-server` is
    /// also the end of `-repo-server`; redis and dex servers have other names.
    fn from_app_name(name: &str) -> Option<Self> {
        let is = |component: &str| {
            name == component
                || name
                    .strip_suffix(component)
                    .is_some_and(|instance| instance.ends_with('-'))
        };
        if is("repo-server") {
            Some(Self::RepoServer)
        } else if is("application-controller") {
            Some(Self::ApplicationController)
        } else if is("server") && !is("dex-server") && !is("commit-server") {
            Some(Self::Server)
        } else {
            None
        }
    }

    /// Reads a value of [`COMPONENT`].
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "repo-server" => Some(Self::RepoServer),
            "application-controller" => Some(Self::ApplicationController),
            "server" => Some(Self::Server),
            _ => None,
        }
    }

    /// The component's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RepoServer => "repo-server",
            Self::ApplicationController => "application-controller",
            Self::Server => "server",
        }
    }
}

/// Whether a container starts `program`, by the words of its command, or of its
/// arguments where the image has the command.
pub fn starts<'a>(program: &str, words: impl IntoIterator<Item = &'a str>) -> bool {
    let is_program = |word: &str| word.rsplit('/').next() == Some(program) && !word.contains(':');
    words.into_iter().enumerate().any(|(at, word)| {
        // A word in the middle that is no path may be a host's name.
        let is_whole = (at == 0 || word.starts_with('/')) && is_program(word);
        let is_script = word.contains(char::is_whitespace);
        let mut tokens = word.split(|c: char| c.is_whitespace() || matches!(c, ';' | '&' | '|'));
        is_whole || (is_script && tokens.any(is_program))
    })
}

/// Value of [`EXEC_AUTH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExecAuth {
    /// From the credential volume.
    #[default]
    Csi,
    /// Copied into an emptyDir by an init container.
    InitContainer,
    /// Not at all.
    None,
}

/// What a pod's annotations ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodOptions<'a> {
    /// Opt-in or opt-out of this pod.
    pub inject: Option<Inject>,
    /// The component, where the annotation names one.
    pub component: Option<Component>,
    /// Containers to inject besides the main one.
    pub containers: Vec<&'a str>,
    /// Containers to leave alone.
    pub exclude_containers: Vec<&'a str>,
    /// Whether to inject the SPIFFE CSI volume; `None` leaves it to the component.
    pub spiffe_csi: Option<bool>,
    /// Absolute path of the Workload API socket in the container.
    pub spiffe_socket_path: Option<&'a str>,
    /// How the exec plugin gets into the pod.
    pub exec_auth: ExecAuth,
    /// Whether the pod gets a credential volume.
    pub credentials: bool,
    /// Whether a repo-server gets the credential proxy.
    pub proxy: bool,
}

impl<'a> PodOptions<'a> {
    /// Reads a pod's annotations through `look_up`. Every value that cannot be
    /// read is returned as an [`Code::InvalidAnnotation`] and taken as not set.
    pub fn parse(look_up: impl Fn(&str) -> Option<&'a str>) -> (Self, Vec<Named>) {
        let mut problems = Vec::new();
        let inject = read(
            &look_up,
            INJECT,
            "enabled or disabled",
            Inject::parse,
            &mut problems,
        );
        let component = read(
            &look_up,
            COMPONENT,
            "repo-server, server or application-controller",
            Component::from_name,
            &mut problems,
        );
        let spiffe_csi = read(
            &look_up,
            SPIFFE_CSI,
            TRUE_OR_FALSE,
            parse_bool,
            &mut problems,
        );
        let credentials = read(
            &look_up,
            CREDENTIALS,
            TRUE_OR_FALSE,
            parse_bool,
            &mut problems,
        );
        let proxy = read(&look_up, PROXY, TRUE_OR_FALSE, parse_bool, &mut problems);
        let exec_auth = read(
            &look_up,
            EXEC_AUTH,
            "csi, init-container or none",
            |value| match value {
                "csi" => Some(ExecAuth::Csi),
                "init-container" => Some(ExecAuth::InitContainer),
                "none" => Some(ExecAuth::None),
                _ => None,
            },
            &mut problems,
        );
        let spiffe_socket_path = read(
            &look_up,
            SPIFFE_SOCKET_PATH,
            "an absolute path without `..`",
            |value| is_plain_absolute_path(value).then_some(value),
            &mut problems,
        );
        let options = Self {
            inject,
            component,
            containers: list(look_up(CONTAINERS)),
            exclude_containers: list(look_up(EXCLUDE_CONTAINERS)),
            spiffe_csi,
            spiffe_socket_path,
            exec_auth: exec_auth.unwrap_or_default(),
            credentials: credentials.unwrap_or(true),
            proxy: proxy.unwrap_or(true),
        };
        (options, problems)
    }
}

const TRUE_OR_FALSE: &str = "\"true\" or \"false\"";

fn read<'a, T>(
    look_up: &impl Fn(&str) -> Option<&'a str>,
    name: &str,
    allowed: &str,
    parse: impl Fn(&'a str) -> Option<T>,
    problems: &mut Vec<Named>,
) -> Option<T> {
    let value = look_up(name)?;
    let parsed = parse(value);
    if parsed.is_none() {
        let shown: String = value.chars().take(64).collect();
        problems.push(Named::new(
            Code::InvalidAnnotation,
            format!("{name}: `{}` is not {allowed}", shown.escape_debug()),
        ));
    }
    parsed
}

fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn list(value: Option<&str>) -> Vec<&str> {
    value
        .into_iter()
        .flat_map(|names| names.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect()
}

fn is_plain_absolute_path(path: &str) -> bool {
    path.len() > 1
        && path.starts_with('/')
        && !path.ends_with('/')
        && !path.chars().any(char::is_control)
        && path
            .split('/')
            .skip(1)
            .all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn components_of_stock_chart_and_operator() {
        for (name, component) in [
            ("argocd-repo-server", Some(Component::RepoServer)),
            ("argocd-server", Some(Component::Server)),
            (
                "argocd-application-controller",
                Some(Component::ApplicationController),
            ),
            ("openshift-gitops-repo-server", Some(Component::RepoServer)),
            ("openshift-gitops-server", Some(Component::Server)),
            (
                "openshift-gitops-application-controller",
                Some(Component::ApplicationController),
            ),
            ("argocd-applicationset-controller", None),
            ("argocd-notifications-controller", None),
            ("argocd-dex-server", None),
            ("argocd-commit-server", None),
            ("argocd-redis", None),
            ("webserver", None),
            ("", None),
        ] {
            assert_eq!(Component::from_app_name(name), component, "{name}");
        }
    }

    #[test]
    fn bad_values_are_reported_and_taken_as_unset() {
        let map = BTreeMap::from([
            (INJECT, "yes"),
            (SPIFFE_CSI, "1"),
            (EXEC_AUTH, "sidecar"),
            (PROXY, "no"),
            (SPIFFE_SOCKET_PATH, "/run/../etc"),
            (CONTAINERS, " a, ,b "),
        ]);
        let (options, problems) = PodOptions::parse(|name| map.get(name).copied());
        assert_eq!(problems.len(), 5);
        assert!(problems.iter().all(|p| p.code == Code::InvalidAnnotation));
        assert!(problems[0].detail.contains(INJECT) && problems[0].detail.contains("yes"));
        let expected = PodOptions {
            containers: vec!["a", "b"],
            credentials: true,
            proxy: true,
            ..PodOptions::default()
        };
        assert_eq!(options, expected);
    }

    proptest! {
        #[test]
        fn no_value_panics(value in any::<String>()) {
            let (options, _) = PodOptions::parse(|_| Some(&value));
            if let Some(path) = options.spiffe_socket_path {
                // `..a` is a name like any other.
                let climbs = path.split('/').any(|part| part == "..");
                prop_assert!(path.starts_with('/') && !climbs);
            }
        }
    }
}
