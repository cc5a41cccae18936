//! The error catalogue: one stable code, one cause, one remedy for everything
//! that can go wrong where a user can do something about it.
//!
//! The same code appears in admission responses, events, conditions, metric
//! labels and logs, so a search for it finds every place it was reported and
//! the page in `docs/errors.md` that explains it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! catalogue {
    ($($variant:ident $code:literal: $cause:literal; $remedy:literal;)*) => {
        /// A stable error code. Becomes a metric label, so the set is closed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $cause] $variant,)*
        }

        impl Code {
            /// Every code of the catalogue, in the order of `docs/errors.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as users see it, in kebab case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What went wrong, in one sentence without a full stop.
            pub const fn cause(self) -> &'static str {
                match self { $(Self::$variant => $cause,)* }
            }

            /// What to do about it, in one sentence.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

catalogue! {
    // Annotations and pods.
    InvalidAnnotation "invalid-annotation":
        "an annotation has a value that is not one of those allowed";
        "Use one of the values listed in docs/annotations.md.";
    UnknownContainer "unknown-container":
        "an annotation names a container that the pod does not have";
        "Correct the container name in the annotation.";
    VolumeConflict "volume-conflict":
        "the pod already has a volume of this name with other content";
        "Rename the pod's own volume.";
    MountConflict "mount-conflict":
        "the container already mounts something else at this path";
        "Move the container's own mount to another path.";
    EnvConflict "env-conflict":
        "the container already sets this environment variable to another value";
        "Remove the variable, or set it to the value that is shown.";
    EnvFromOverridden "env-from-overridden":
        "a source of the container's envFrom may have this variable, and what is injected counts before it";
        "If the source has it, take it out there, or set the variable in env, which is left as it is.";
    HostNetwork "host-network":
        "the pod uses the host's network, which every other process of the node shares";
        "Run the pod on the pod network.";
    DefaultServiceAccount "default-service-account":
        "the pod runs as the service account `default`, which is no consumer of any binding";
        "Give the component a service account of its own and list it as a consumer.";
    ContainerConflict "container-conflict":
        "the pod already has a container of the credential proxy's name that is something else";
        "Rename the pod's own container.";
    SharedProcessNamespace "shared-process-namespace":
        "the pod's containers share their processes, so that each of them could read the credential proxy's memory and files";
        "Remove shareProcessNamespace from the repo-server's pod.";
    NotAvailable "not-available":
        "this version does not have the feature that was asked for";
        "Remove the setting, or use the alternative that is shown.";

    // Repository and cluster Secrets.
    InvalidSecret "invalid-secret":
        "a key of the Secret has a value that cannot be read";
        "Correct the key that is shown.";
    InvalidUrl "invalid-url":
        "the repository or server URL cannot be used with workload identity";
        "Use oci://host/path, host/path with enableOCI, or https://host/path.";
    PathRefused "path-refused":
        "the URL's path has a form that servers read in different ways, so the credential proxy forwards no request to it";
        "Use a path without empty, dotted or encoded segments: at GitLab the project's numeric ID, at Azure DevOps the IDs of project and repository.";
    InvalidProject "invalid-project":
        "the project name is not a valid Argo CD project name";
        "Use the name of an existing AppProject.";
    UnknownProvider "unknown-provider":
        "workloadIdentityProvider names no known provider";
        "Use spiffe, aws, oidc, gcp or azure.";
    AudienceMissing "audience-missing":
        "workloadIdentityAudience is needed for this target and is not set";
        "Set workloadIdentityAudience to the audience that the target expects in the token.";
    AuthUrlInvalid "auth-url-invalid":
        "the URL of an exchange must be an absolute https URL without user information";
        "Use an https:// URL.";
    HostNotAllowed "host-not-allowed":
        "identity tokens may not be sent to this host";
        "Use an exchange on the registry's own host, or let the administrator add the host to the allow-list.";
    UsernameMissing "username-missing":
        "workloadIdentityRegistryUsername is needed for this exchange and is not set";
        "Set workloadIdentityRegistryUsername, for Quay to the robot's full name.";
    ExchangeUnspecified "exchange-unspecified":
        "either workloadIdentityTokenURL or workloadIdentityRegistryAuthURL must be specified";
        "Set one of the two URLs.";
    StaticCredentialsPresent "static-credentials-present":
        "the Secret holds static credentials beside workload identity, and Argo CD would use those";
        "Remove them, or set the annotation workload-identity.dev/remove-static-credentials to \"true\".";
    ProxyConflict "proxy-conflict":
        "the key proxy is needed for the delivery of the credential";
        "Move your proxy to the key workloadIdentityUpstreamProxy.";
    ProxyBypassed "proxy-bypassed":
        "Argo CD does not use a proxy for this host, so no credential would reach it";
        "Remove the host from the key noProxy; a registry on localhost or a loopback address cannot be reached through the credential proxy.";
    ProxyNotInstalled "proxy-not-installed":
        "the Secret needs the credential proxy, and this installation injects none";
        "Set --proxy-image of the control plane (ARGOCD_IDENTITY_PROXY_IMAGE) and restart the repo-server.";
    ProxyNotWritten "proxy-not-written":
        "the Secret's key proxy is not what the webhook would write, for example because the Secret was written while the webhook was down";
        "Remove a proxy of your own, then touch the Secret: kubectl annotate --overwrite secret <name> workload-identity.dev/touched=$(date +%s).";
    ProxyKeyStale "proxy-key-stale":
        "the key in the Secret's proxy was made for another project, URL or type, whose readers may know it, and opens nothing";
        "Touch the Secret, which draws a new key: kubectl annotate --overwrite secret <name> workload-identity.dev/touched=$(date +%s).";
    ProxyForeign "proxy-foreign":
        "the Secret's key proxy is that of another Secret's credential";
        "Remove the key proxy; if somebody copied it, rotate the other Secret's key: kubectl annotate --overwrite secret <name> workload-identity.dev/rotate-proxy-key=$(date +%s).";
    ProxyNotInjected "proxy-not-injected":
        "a repo-server that runs has no credential proxy, so it cannot use the Secret";
        "Restart the repo-server where injection is on; the warnings of its pod say what stood in the way.";
    UpstreamProxyInvalid "upstream-proxy-invalid":
        "workloadIdentityUpstreamProxy is not the URL of a proxy without user information";
        "Use http://host:port.";
    ClientCertificateUnused "client-certificate-unused":
        "the registry never sees the Secret's client certificate, because the connection to it is the credential proxy's";
        "Remove tlsClientCertData and tlsClientCertKey.";
    ProjectIgnored "project-ignored":
        "Argo CD does not read the project of a repo-creds Secret: every project would use the credential";
        "Remove project, or make a repository Secret for each repository of the project.";
    DeliveryRefused "delivery-refused":
        "docker-config delivers to Helm OCI repositories without a project only: every project could use the credential, and nothing else reads it";
        "Leave out workloadIdentityDelivery.";
    NamespaceNotServed "namespace-not-served":
        "the control plane does not serve this namespace, so nothing was changed";
        "Add the namespace to --argocd-namespaces (ARGOCD_IDENTITY_ARGOCD_NAMESPACES) with the component argocd-namespace, or remove the opt-in.";
    SecretImmutable "secret-immutable":
        "the Secret is immutable, so what it lacks was not written";
        "Delete the Secret and create it again.";
    GenerateNameRefused "generate-name-refused":
        "a Secret with workload identity needs a name, because its binding carries the same one";
        "Set metadata.name in place of metadata.generateName.";
    InvalidClusterConfig "invalid-cluster-config":
        "the key config of the cluster Secret is not the JSON object that Argo CD expects";
        "Correct the JSON: every member once, and spelled as in Argo CD's documentation.";
    ClusterAuthConflict "cluster-auth-conflict":
        "the cluster's config has another way to authenticate, which Argo CD or client-go would prefer";
        "Remove it from config, or set the annotation workload-identity.dev/remove-static-credentials to \"true\".";
    InsecureTransport "insecure-transport":
        "an identity token would travel over TLS that nobody verifies";
        "Set tlsClientConfig.caData, or let the administrator mark the host as insecure in the allow-list.";
    ClusterExecConflict "cluster-exec-conflict":
        "the cluster's config already runs another exec plugin";
        "Remove execProviderConfig, or remove useWorkloadIdentity.";
    UrlRewritten "url-rewritten":
        "stock Argo CD pulls Helm OCI charts only from a URL without scheme";
        "In the Application write this repoURL, and the chart's name in chart.";
    DriftFromGit "drift-from-git":
        "a value was changed that git may hold too";
        "If it does, list the pointers in the Application's ignoreDifferences.";
    KeysRestored "keys-restored":
        "an update had dropped the workload identity keys, and they were kept";
        "To remove them, remove execProviderConfig from config as well.";
    MultipleExecEnv "multiple-exec-env":
        "an exec plugin with several environment variables makes Argo CD start it more often than needed";
        "Use arguments, and at most one variable.";

    // Bindings.
    DeliveryNotAvailable "delivery-not-available":
        "docker-config delivers credentials of Helm OCI repositories without a project only";
        "Leave out workloadIdentityDelivery.";
    ExchangeNotAvailable "exchange-not-available":
        "this version cannot trade an identity for a credential with this provider";
        "See docs/providers for what this version supports.";
    IdentityNotAvailable "identity-not-available":
        "the identity source of this installation does not give credentials of this kind";
        "Set workloadIdentityCredential to another kind: X.509-SVIDs need SPIRE or the Workload API, JWT-SVIDs one of them or the control plane's --issuer-url.";
    CertificateNotUsable "certificate-not-usable":
        "an X.509-SVID is shown to a registry by the credential proxy, and traded for nothing";
        "Remove the exchange's URLs and workloadIdentityDelivery, or use SpiffeJWT.";
    ServiceAccountForbidden "service-account-forbidden":
        "tokens are made of the service accounts of projects only";
        "Set a project, so that the service account is argocd-project-<project> or argocd-cluster-<project>, or use SpiffeJWT.";
    AudienceForbidden "audience-forbidden":
        "a token of this audience would be accepted by this cluster's own API server";
        "Set workloadIdentityAudience to the audience of the registry, cloud or remote cluster.";
    ServiceAccountMissing "service-account-missing":
        "the service account of the project does not exist";
        "Create it in the Secret's namespace: kubectl create serviceaccount <name>.";
    ServiceAccountAnnotationMissing "service-account-annotation-missing":
        "the service account lacks an annotation that the provider needs, or its value cannot be used";
        "Set the annotation that is shown on the service account.";
    TokenRequestRefused "token-request-refused":
        "the API server makes no token of the service account";
        "Read the words that are shown; the control plane needs create on serviceaccounts/token in the Secret's namespace (manifests/components/argocd-namespace).";
    IdentityConflict "identity-conflict":
        "an older Secret already binds this host to another identity";
        "Use one identity per host for Secrets without a project, or set a project.";
    ServerConflict "server-conflict":
        "an older cluster Secret already names this server, and Argo CD uses only the first";
        "Remove one of the two Secrets.";
    AudienceConflict "audience-conflict":
        "the same audience is already used with another exchange, which could replay the token";
        "Give each exchange an audience of its own.";

    // The identity API of the control plane.
    BadRequest "bad-request":
        "the request is not one that the identity API understands";
        "Run agent and control plane of the same version.";
    AgentTokenRejected "agent-token-rejected":
        "the agent's own token was not accepted";
        "Check that the agent runs as its DaemonSet with its projected token.";
    AgentNotAuthorized "agent-not-authorized":
        "the caller is not the credential agent";
        "Only the agent's service account may ask for identities.";
    AgentTokenUnbound "agent-token-unbound":
        "the agent's token is not bound to a pod on a node";
        "Use the token that kubelet projects into the agent's pod.";
    PodTokenRejected "pod-token-rejected":
        "the consumer pod's token was not accepted";
        "Wait for kubelet to publish a new token; if it stays, restart the pod.";
    PodTokenUnbound "pod-token-unbound":
        "the consumer's token is not bound to a pod on a node";
        "Use the token that kubelet hands to the CSI driver.";
    NodeMismatch "node-mismatch":
        "the consumer pod runs on another node than the agent that asks for it";
        "Nothing to do if a pod has just moved; otherwise treat it as an attack.";
    PodNotRunning "pod-not-running":
        "the consumer pod no longer runs";
        "Nothing to do: a new pod gets a new identity.";
    NotAConsumer "not-a-consumer":
        "the pod's service account is no consumer of this binding";
        "Run the component under a service account that is listed as a consumer, in the Secret's own namespace.";
    BindingNotFound "binding-not-found":
        "there is no Secret with workload identity for this binding";
        "Create the Secret again, or remove the binding.";
    BindingRefused "binding-refused":
        "the API server refuses the binding of this Secret";
        "Read the API server's words that are shown: the CustomResourceDefinition may be an older version's, or a quota or a policy may be in the way.";
    IssuerUnavailable "issuer-unavailable":
        "the control plane cannot issue identities at the moment";
        "Look at the control plane's log.";

    // The agent: identity and exchange.
    ControlPlaneUnreachable "control-plane-unreachable":
        "the agent cannot reach the control plane's identity API";
        "Check the control plane's pods, Service and certificate.";
    IdentityMismatch "identity-mismatch":
        "the identity that came back is not the one that was asked for";
        "Check the identity source's configuration.";
    IdentityIssuerMismatch "identity-issuer-mismatch":
        "the token was issued by another issuer than this installation expects";
        "Correct --spiffe-issuer of the agent, or jwt_issuer of the SPIRE server.";
    IdentitySignatureInvalid "identity-signature-invalid":
        "the signature of the identity fits no key of the trust domain's bundle";
        "Check that the agent and the registry speak to the same SPIRE; if it stays, treat it as an attack.";
    ClockSkew "clock-skew":
        "by this node's clock the identity has expired already or is not valid yet, although it has just been issued";
        "Set the clocks of the node and of the issuer.";
    WorkloadApiNotConfigured "workload-api-not-configured":
        "SPIFFE_ENDPOINT_SOCKET environment variable not set";
        "Set SPIFFE_ENDPOINT_SOCKET of the agent to the SPIFFE Workload API's socket, as manifests/overlays/workload-api does.";
    SpireAgentAbsent "spire-agent-absent":
        "the SPIRE agent's socket on this node does not answer";
        "Check that a SPIRE agent runs on the node and that its socket is where the agent's --spire-admin-socket or SPIFFE_ENDPOINT_SOCKET says.";
    SpireAgentNotRegistered "spire-agent-not-registered":
        "SPIRE has no registration entry for the credential agent itself";
        "Register the agent's pod: argocd-identity generate spire prints the entry.";
    SpireNotADelegate "spire-not-a-delegate":
        "the SPIRE agent does not accept the credential agent as a delegate";
        "Add the credential agent's SPIFFE ID to authorized_delegates of the SPIRE agent.";
    IdentityNotRegistered "identity-not-registered":
        "failed to fetch the SVID: no identity issued";
        "Register the SPIFFE ID that is shown for this node: argocd-identity generate spire prints the entry.";
    SpiffeIdNotIssued "spiffe-id-not-issued":
        "SPIRE issues other SPIFFE IDs for these selectors, but not the one of the project";
        "Correct the SPIFFE ID of the registration entry, or the installation's trust domain.";
    SelectorsRefused "selectors-refused":
        "SPIRE does not accept the selectors or the audience that it was asked with";
        "Correct --spire-selectors of the agent.";
    SpireUnavailable "spire-unavailable":
        "SPIRE cannot issue identities at the moment";
        "Look at the logs of the SPIRE agent of this node and of the SPIRE server.";
    AddressRefused "address-refused":
        "the host resolves only to addresses that identity tokens never go to (loopback, link-local, metadata)";
        "If this is on purpose, let the administrator mark the host as private in the allow-list.";
    ExchangeUnreachable "exchange-unreachable":
        "the exchange cannot be reached";
        "Check the URL, name resolution, certificate and network policy.";
    ExchangeRejected "exchange-rejected":
        "the exchange refused the identity";
        "Read the upstream's words that are shown.";
    ExchangeThrottled "exchange-throttled":
        "the exchange asks to be left alone for a while";
        "Nothing to do: the agent waits; if it stays, raise the exchange's limit for this identity.";
    ExchangeUnreadable "exchange-unreadable":
        "the exchange gave an answer that cannot be understood";
        "Check that the URL is the one of the registry's token endpoint.";
    RobotNotFound "robot-not-found":
        "Quay does not know the robot account";
        "Set workloadIdentityRegistryUsername to the robot's full name, namespace+name.";
    RobotSubjectMismatch "robot-subject-mismatch":
        "the robot's federation expects another subject or issuer than the token has";
        "Set the federation's subject to the identity that `kubectl get credentialbindings` shows.";
    IssuerNotConfigured "issuer-not-configured":
        "the robot's federation does not list the token's issuer";
        "Add the issuer URL to the robot's federation, character for character.";
    FederationMissing "federation-missing":
        "the robot account has no federation configured";
        "Set up robot federation with the issuer and the subject.";
    UnsupportedAlgorithm "unsupported-algorithm":
        "the registry could not verify the token: it accepts RS256 and RS384 only, or cannot read the issuer's keys";
        "Use an RSA signing key, and check that the registry reaches the issuer's discovery document.";
    ExchangeSkipped "exchange-skipped":
        "the registry got the identity token itself as a password, or one from before it changed its signing key";
        "Set workloadIdentityRegistryAuthURL to the federation endpoint; if it is set, wait for the next exchange.";

    AudienceMismatch "audience-mismatch":
        "the registry does not accept the identity token: it expects another audience, issuer or subject";
        "Set workloadIdentityAudience to the audience that the registry is configured with, and let the registry trust the issuer and the identity that `kubectl get credentialbindings` shows.";
    BearerRealmMissing "bearer-realm-missing":
        "the registry asks for a token, and does not give the absolute https URL of its token realm";
        "Set the realm in the registry's configuration (for Zot http.auth.bearer.realm) to an absolute https URL.";
    ScopeEmpty "scope-empty":
        "the registry's token realm gave a token without the right to pull";
        "Let the identity pull from the repository that is shown.";
    IdentityTokenRejected "identity-token-rejected":
        "the token service refuses the identity token: it has expired there, or its issuer, key or audience is not the one that is configured";
        "Compare the issuer, the audience and the clock with the configuration of the token service.";
    IdentityProviderMissing "identity-provider-missing":
        "the account has no identity provider for the token's issuer and audience";
        "Make the IAM OIDC identity provider with the issuer's URL, and the audience as one of its client IDs.";
    IdentityProviderUnreachable "identity-provider-unreachable":
        "the token service cannot reach the issuer's discovery document and keys";
        "Make the issuer's documents reachable from the token service, or publish them where they are: argocd-identity generate issuer-documents.";
    AssumeRoleDenied "assume-role-denied":
        "failed to assume role: AccessDenied";
        "Let the role's trust policy allow sts:AssumeRoleWithWebIdentity to the identity provider, with conditions on exactly the subject and audience that are shown.";
    RegionDisabled "region-disabled":
        "AWS STS is not activated in this region for the account";
        "Activate STS in the region, or set workloadIdentityTokenURL to another region's endpoint.";
    EcrDenied "ecr-denied":
        "failed to get ECR authorization token: AccessDeniedException";
        "Attach a policy to the role that allows ecr:GetAuthorizationToken on resource \"*\"; for public.ecr.aws ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken.";
    NoAuthorizationData "no-authorization-data":
        "no ECR authorization data returned";
        "Check that the region in the repository's URL is the registry's.";
    SubjectTooLong "subject-too-long":
        "Google Cloud takes no google.subject of more than 127 bytes";
        "Map a shorter attribute to google.subject in the provider, for example assertion.sub.extract(...).";
    PoolRejected "pool-rejected":
        "the workload identity pool refuses the identity token";
        "Compare issuer, allowed audiences, attribute mapping and condition of the pool's provider with the identity that is shown.";
    ImpersonationDenied "impersonation-denied":
        "the identity may not impersonate the Google service account";
        "Grant roles/iam.workloadIdentityUser on the service account to the pool's principal with this subject.";
    FederatedCredentialMismatch "federated-credential-mismatch":
        "the application has no federated credential with the token's issuer, subject and audience";
        "Add a federated credential to the application or managed identity with exactly the issuer, subject and audience that are shown.";
    ApplicationNotFound "application-not-found":
        "Microsoft Entra has no application with this client ID in this tenant";
        "Correct azure.workload.identity/client-id and azure.workload.identity/tenant-id of the service account.";
    AcrDenied "acr-denied":
        "ACR exchange failed: unauthorized";
        "Assign AcrPull on the registry to the application or managed identity.";

    // Credentials in the consumer pod.
    CredentialMissing "credential-missing":
        "the agent has not written this credential yet";
        "Look at the conditions of the CredentialBinding of the same name.";
    CredentialExpired "credential-expired":
        "the credential has expired and could not be renewed";
        "Look at the conditions of the CredentialBinding of the same name.";
    CredentialUnreadable "credential-unreadable":
        "the credential's file cannot be read";
        "Check that the pod mounts the credential volume.";
    CredentialAmbiguous "credential-ambiguous":
        "several credentials of different identities fit the request";
        "Name the cluster Secret with --cluster.";
    VersionMismatch "version-mismatch":
        "the ExecCredential version that was asked for is unknown";
        "Use client.authentication.k8s.io/v1 or client.authentication.k8s.io/v1beta1.";
    RegistrationRefused "registration-refused":
        "kubelet did not register the CSI driver of this node";
        "Read the words that are shown, and check that one agent only runs on the node.";
    VolumeEmpty "volume-empty":
        "no binding of the pod's namespace names its service account, so its credential volume stays empty";
        "Create the Secrets with workload identity, or run the component under a service account that is a consumer.";
    VolumeRejected "volume-rejected":
        "the volume cannot be published";
        "Read the field that is shown; the volume is made by the admission webhook only.";
    StoreFailed "store-failed":
        "the agent could not write to the credential volume";
        "Look at the agent's log on this node.";

    // The credential proxy.
    ProxyViewUnreadable "proxy-view-unreadable":
        "a file of the credential proxy's volume cannot be read";
        "Run agent and credential proxy of the same version.";
    ProxyRequestRefused "proxy-request-refused":
        "the credential proxy does not forward a request of this form";
        "Use an https URL, and a path without empty, dotted or encoded segments.";
    PlainHttpRefused "plain-http-refused":
        "the host is bound, and its credential never travels over plain HTTP";
        "Use an https URL, and remove insecureOCIForceHttp from the Secret.";
    ProxyAuthorizationInvalid "proxy-authorization-invalid":
        "the request to the credential proxy names no binding and key";
        "Leave the Secret's key proxy as the webhook wrote it.";
    ProxyBindingUnknown "proxy-binding-unknown":
        "the credential proxy has no binding of this name";
        "Check that the Secret exists, and look at the conditions of the CredentialBinding of the same name.";
    ProxyKeyRejected "proxy-key-rejected":
        "the key is not the one of the binding that the request names";
        "Leave the Secret's key proxy as the webhook wrote it.";
    ProxyHostMismatch "proxy-host-mismatch":
        "the host is bound, but not by the binding that the request names";
        "Use each Secret's proxy for that Secret's own URL only.";
    ChallengeUnreadable "challenge-unreadable":
        "the registry asks for authentication in a way that the credential proxy does not know";
        "Check that the registry offers Basic or Bearer authentication.";
    RealmRefused "realm-refused":
        "the registry's token realm is on a host that the credential may not go to";
        "Let the administrator add the realm's host to the allow-list.";
    RegistryRefused "registry-refused":
        "the registry refused the credential of this binding";
        "Check that the identity may pull from this repository.";
    UpstreamUnreachable "upstream-unreachable":
        "the registry or git server cannot be reached";
        "Check the URL, name resolution and network policy.";
    UpstreamUntrusted "upstream-untrusted":
        "the registry's or git server's certificate cannot be verified";
        "Add its CA to argocd-tls-certs-cm.";
    UpstreamProxyRefused "upstream-proxy-refused":
        "the proxy on the way to the registry or git server opens no connection to it";
        "Check workloadIdentityUpstreamProxy of the Secret, or HTTPS_PROXY and NO_PROXY of repo-server.";
}

impl Code {
    /// The code with this kebab-case name, if the catalogue has it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::from_name(&name)
            .ok_or_else(|| serde::de::Error::custom(format_args!("unknown error code `{name}`")))
    }
}

/// A catalogue error with the object and field it is about.
///
/// `detail` names the object and the field, and the upstream's words where
/// there are any; it never holds a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {} ({detail}). {}", .code.cause(), .code.remedy())]
pub struct Named {
    /// The stable code.
    pub code: Code,
    /// Object, field and the upstream's words.
    pub detail: String,
}

impl Named {
    /// Joins a code and its detail.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_kebab_case_and_found_by_name() {
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            let name = code.as_str();
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{name}"
            );
            assert_eq!(Code::from_name(name), Some(*code));
            assert!(!code.cause().ends_with('.'), "{name}");
            assert!(code.remedy().ends_with('.'), "{name}");
        }
    }

    /// `UPDATE_DOCS=1 cargo test -p shared` writes the page anew.
    #[test]
    fn the_page_has_every_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
        let mut page = "# Errors\n\nThe same code appears in admission responses, events, conditions, metrics and \
            logs.\nThis page is made from `shared/src/errors.rs`.\n\n| code | cause | what to do |\n|---|---|---|\n"
            .to_owned();
        for code in Code::ALL {
            page += &format!("| `{code}` | {} | {} |\n", code.cause(), code.remedy());
        }
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page,
            "docs/errors.md is stale: run UPDATE_DOCS=1 cargo test -p shared"
        );
    }

    #[test]
    fn display_gives_code_cause_detail_and_remedy() {
        let error = Named::new(Code::AudienceMissing, "Secret argocd/spoke");
        assert_eq!(
            error.to_string(),
            "audience-missing: workloadIdentityAudience is needed for this target and is not set \
             (Secret argocd/spoke). Set workloadIdentityAudience to the audience that the target \
             expects in the token."
        );
    }
}
