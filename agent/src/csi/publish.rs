//! What a NodePublishVolume request says, parsed once. PURE: the request flows
//! in; a [`Consumer`] and its volume's path, or the field that is wrong, flow out.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;
use shared::layout;
use tonic::Status;

use super::proto::{AccessType, NodePublishVolumeRequest};
use crate::demand::{Consumer, View};

/// Where kubelet puts the pod's tokens: `tokenRequests` of CSIDriver.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// Prefix of what kubelet says about the pod (`podInfoOnMount`); it overrides
/// volume attributes of the same name, so a pod cannot forge it.
const POD_INFO: &str = "csi.storage.k8s.io/";

/// Reads a publish request.
///
/// # Errors
/// `InvalidArgument` for a request that kubelet would not send for an inline
/// volume of this driver, `FailedPrecondition` when the CSIDriver object does
/// not make kubelet send the pod's token. The message names volume and field.
pub(super) fn consumer(
    request: &NodePublishVolumeRequest,
    kubelet_dir: &Path,
) -> Result<Consumer, Status> {
    let volume = target(&request.volume_id, &request.target_path, kubelet_dir)?;
    let invalid = |field: &str, reason: &str| {
        Status::invalid_argument(describe(&request.volume_id, field, reason))
    };
    match request.volume_capability.as_ref().map(|it| &it.access_type) {
        None => return Err(invalid("volume_capability", "is missing")),
        Some(Some(AccessType::Block(_))) => {
            return Err(invalid("volume_capability", "asks for a block device"));
        }
        Some(Some(AccessType::Mount(_)) | None) => {}
    }
    let context = |key: &str| {
        request
            .volume_context
            .get(&format!("{POD_INFO}{key}"))
            .filter(|value| !value.is_empty())
            .cloned()
            .ok_or_else(|| {
                invalid(
                    &format!("volume_context {POD_INFO}{key}"),
                    "is missing (CSIDriver needs podInfoOnMount: true)",
                )
            })
    };
    if context("ephemeral")? != "true" {
        return Err(invalid(
            "volume_context ephemeral",
            "is not true: only inline volumes exist",
        ));
    }
    let view = match request.volume_context.get(layout::VIEW_ATTRIBUTE) {
        None => View::ArgoCd,
        Some(view) if view == layout::PROXY_VIEW => View::Proxy,
        // An agent that does not know a view must not serve another one instead.
        Some(_) => {
            let field = format!("volume_context {}", layout::VIEW_ATTRIBUTE);
            return Err(invalid(&field, "is neither absent nor `proxy`"));
        }
    };
    let pod = context("pod.name")?;
    let namespace = context("pod.namespace")?;
    let (token, token_expires_at) =
        token(&request.secrets, &request.volume_context).map_err(|reason| {
            let field = format!("{TOKENS} of pod {namespace}/{pod}");
            Status::failed_precondition(describe(&request.volume_id, &field, reason))
        })?;
    Ok(Consumer {
        pod_uid: context("pod.uid")?,
        service_account: context("serviceAccount.name")?,
        pod,
        namespace,
        volume,
        view,
        token,
        token_expires_at,
    })
}

/// Checks a target path: absolute, plain, and below kubelet's folder.
///
/// # Errors
/// `InvalidArgument`, naming the field.
pub(super) fn target(
    volume_id: &str,
    target_path: &str,
    kubelet_dir: &Path,
) -> Result<PathBuf, Status> {
    let invalid =
        |field, reason: &str| Status::invalid_argument(describe(volume_id, field, reason));
    if volume_id.is_empty() {
        return Err(invalid("volume_id", "is missing"));
    }
    if target_path.is_empty() {
        return Err(invalid("target_path", "is missing"));
    }
    let path = Path::new(target_path);
    // `components` hides `.`, and `..` is all that could leave the folder.
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !target_path.contains('\0');
    if !path.is_absolute() || !plain {
        return Err(invalid(
            "target_path",
            "is not an absolute path without `..`",
        ));
    }
    if !path.starts_with(kubelet_dir) || path == kubelet_dir {
        let reason = format!("is not below {}", kubelet_dir.display());
        return Err(invalid("target_path", &reason));
    }
    // Rebuilt from its components: `a//b` and `a/b` are the same volume.
    Ok(path.components().collect())
}

/// A sentence that names the volume and the field.
pub(super) fn describe(volume_id: &str, field: &str, reason: &str) -> String {
    let code = shared::errors::Code::VolumeRejected;
    format!(
        "{}",
        shared::errors::Named::new(code, format!("volume `{volume_id}`: {field} {reason}"))
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodToken {
    token: SecretString,
    expiration_timestamp: Timestamp,
}

/// The pod's token for our audience. Kubernetes 1.35 and later may send it in
/// `secrets` (`serviceAccountTokenInSecrets`), which no sidecar ever logs.
fn token(
    secrets: &HashMap<String, String>,
    context: &HashMap<String, String>,
) -> Result<(SecretString, Timestamp), &'static str> {
    let json = secrets
        .get(TOKENS)
        .or_else(|| context.get(TOKENS))
        .ok_or("is missing (CSIDriver needs tokenRequests)")?;
    // The parser's own message could quote the token.
    let Ok(mut tokens) = serde_json::from_str::<HashMap<String, PodToken>>(json) else {
        return Err("cannot be read");
    };
    let PodToken {
        token,
        expiration_timestamp,
    } = tokens
        .remove(layout::TOKEN_AUDIENCE)
        .ok_or("has no token of audience argocd-identity")?;
    Ok((token, expiration_timestamp))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;
    use tonic::Code;

    use super::super::proto::{BlockVolume, VolumeCapability};
    use super::*;

    const KUBELET: &str = "/var/lib/kubelet";

    fn request() -> NodePublishVolumeRequest {
        let tokens =
            r#"{"argocd-identity":{"token":"t","expirationTimestamp":"2030-01-01T00:00:00Z"}}"#;
        let context = [
            ("pod.name", "p"),
            ("pod.namespace", "argocd"),
            ("pod.uid", "u"),
            ("serviceAccount.name", "sa"),
            ("ephemeral", "true"),
            ("serviceAccount.tokens", tokens),
        ];
        NodePublishVolumeRequest {
            volume_id: "csi-1".into(),
            target_path: format!("{KUBELET}/pods/u/volumes/kubernetes.io~csi/v/mount"),
            volume_capability: Some(VolumeCapability::mount()),
            readonly: true,
            secrets: HashMap::new(),
            volume_context: context
                .iter()
                .map(|(key, value)| (format!("{POD_INFO}{key}"), (*value).to_owned()))
                .collect(),
        }
    }

    fn refusal(edit: impl FnOnce(&mut NodePublishVolumeRequest)) -> Status {
        let mut request = request();
        edit(&mut request);
        consumer(&request, Path::new(KUBELET)).unwrap_err()
    }

    #[test]
    fn reads_what_kubelet_sends_in_either_place() {
        let mut request = request();
        let from_context = consumer(&request, Path::new(KUBELET)).unwrap();
        assert_eq!(from_context.token.expose_secret(), "t");
        let moved = request.volume_context.remove(TOKENS).unwrap();
        request
            .secrets
            .insert(TOKENS.into(), moved.replace("\"t\"", "\"u\""));
        let from_secrets = consumer(&request, Path::new(KUBELET)).unwrap();
        assert_eq!(from_secrets.token.expose_secret(), "u");
        assert_eq!(from_secrets.service_account, "sa");
    }

    #[test]
    fn a_volume_says_which_view_it_is() {
        let attribute = |value: Option<&str>| {
            let mut request = request();
            let value = value.map(|value| (layout::VIEW_ATTRIBUTE.into(), value.into()));
            request.volume_context.extend(value);
            consumer(&request, Path::new(KUBELET)).map(|it| it.view)
        };
        assert_eq!(attribute(None).unwrap(), View::ArgoCd);
        assert_eq!(attribute(Some("proxy")).unwrap(), View::Proxy);
        for other in ["", "Proxy", "argocd", "proxy "] {
            let status = attribute(Some(other)).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            let message = status.message();
            assert!(message.contains("volume_context view"), "{message}");
        }
    }

    #[test]
    fn names_the_missing_field() {
        for key in [
            "pod.name",
            "pod.namespace",
            "pod.uid",
            "serviceAccount.name",
            "ephemeral",
        ] {
            let key = format!("{POD_INFO}{key}");
            let status = refusal(|it| drop(it.volume_context.remove(&key)));
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(&key), "{}", status.message());
        }
        let status = refusal(|it| drop(it.volume_context.remove(TOKENS)));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("argocd/p") && status.message().contains("csi-1"));
        let other = r#"{"other":{"token":"secret","expirationTimestamp":"2030-01-01T00:00:00Z"}}"#;
        for tokens in [other, "{", r#"{"argocd-identity":{"token":"secret"}}"#] {
            let status = refusal(|it| drop(it.volume_context.insert(TOKENS.into(), tokens.into())));
            assert_eq!(status.code(), Code::FailedPrecondition);
            assert!(!status.message().contains("secret"), "{}", status.message());
        }
        let block = VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
        };
        let ephemeral = format!("{POD_INFO}ephemeral");
        for status in [
            refusal(|it| it.volume_id.clear()),
            refusal(|it| it.target_path.clear()),
            refusal(|it| it.volume_capability = None),
            refusal(|it| it.volume_capability = Some(block)),
            refusal(|it| drop(it.volume_context.insert(ephemeral, "false".into()))),
        ] {
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        }
    }

    #[test]
    fn targets_stay_below_kubelets_folder() {
        for path in [
            "relative",
            "/",
            KUBELET,
            "/var/lib/kubelet/",
            "/var/lib/kubelet/../x",
            "/var/lib/kubelet/pods/../../x",
            "/var/lib/kubelet-other/x",
            "/etc",
            "/var/lib/kubelet/a\0b",
        ] {
            let status = target("v", path, Path::new(KUBELET)).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{path}");
        }
        let plain = target("v", "/var/lib/kubelet//a/./b/", Path::new(KUBELET)).unwrap();
        assert_eq!(plain, Path::new("/var/lib/kubelet/a/b"));
    }

    proptest! {
        #[test]
        fn whatever_passes_is_below_the_folder(path in "(/var/lib/kubelet)?[/.a-c]{0,12}") {
            if let Ok(path) = target("v", &path, Path::new(KUBELET)) {
                prop_assert!(path.starts_with(KUBELET) && path != Path::new(KUBELET));
                prop_assert!(!path.components().any(|part| part == Component::ParentDir));
            }
        }
    }
}
