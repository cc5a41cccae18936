use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    derive::Derivation,
    secret::{SecretKind, SecretValues, parse},
};

const ROLE: &str = "arn:aws:iam::123456789012:role/argocd/project-prod";
const EMAIL: &str = "argocd-prod@my-project.iam.gserviceaccount.com";
const PROVIDER: &str =
    "projects/123456/locations/global/workloadIdentityPools/argocd/providers/cluster";
const CLIENT: &str = "2d1c7b2a-1111-4222-8333-0123456789ab";

fn spec(provider: &str, url: &str, more: &[(&str, &str)]) -> CredentialBindingSpec {
    let mut values = vec![
        ("type", "helm"),
        ("url", url),
        ("workloadIdentityProvider", provider),
        ("project", "prod"),
    ];
    values.extend(more);
    let bytes = values.iter().map(|(key, text)| (*key, text.as_bytes()));
    let values = SecretValues::from_bytes(bytes);
    let parsed = parse(SecretKind::Repository, "Secret argocd/charts", &values);
    let derivation = Derivation {
        trust_domain: "example.org".into(),
        ..Derivation::default()
    };
    let binding = derivation.binding("argocd", "charts", &parsed.unwrap().unwrap());
    binding.unwrap()
}

fn aws() -> CredentialBindingSpec {
    let url = "oci://123456789012.dkr.ecr.eu-west-1.amazonaws.com/charts";
    spec("aws", url, &[])
}

fn gcp(more: &[(&str, &str)]) -> CredentialBindingSpec {
    spec("gcp", "oci://europe-docker.pkg.dev/p/charts", more)
}

fn azure() -> CredentialBindingSpec {
    spec("azure", "oci://prod.azurecr.io/charts", &[])
}

fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    let all = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    Annotations::read(Some(&all.collect()))
}

/// The completed exchange's account, or what is missing.
fn check(
    mut spec: CredentialBindingSpec,
    pairs: &[(&str, &str)],
) -> Result<(Value, String), Named> {
    assert!(is_needed(&spec));
    match complete("argocd", "charts", &mut spec, Some(&annotations(pairs))) {
        None => Ok((json!(spec.exchange.account), spec.identity.audience)),
        Some(error) => {
            assert_eq!(spec.exchange.account, None);
            Err(error)
        }
    }
}

#[test]
fn each_cloud_has_its_account() {
    let (account, _) = check(aws(), &[(ROLE_ARN, ROLE)]).unwrap();
    assert_eq!(account, json!({"aws": {"roleArn": ROLE}}));

    let named = gcp(&[("workloadIdentityAudience", "my-audience")]);
    let (account, audience) = check(named.clone(), &[(GCP_SERVICE_ACCOUNT, EMAIL)]).unwrap();
    assert_eq!(account, json!({"gcp": {"serviceAccount": EMAIL}}));
    assert_eq!(audience, "my-audience");

    let ids = [(AZURE_CLIENT_ID, CLIENT), (AZURE_TENANT_ID, CLIENT)];
    let (account, _) = check(azure(), &ids).unwrap();
    assert_eq!(
        account,
        json!({"azure": {"clientId": CLIENT, "tenantId": CLIENT}})
    );
}

#[test]
fn the_provider_of_google_cloud_stands_for_the_audience() {
    for prefix in ["", "//iam.googleapis.com/", "https://iam.googleapis.com/"] {
        let full = format!("{prefix}{PROVIDER}");
        let pairs = [(GCP_SERVICE_ACCOUNT, EMAIL), (GCP_PROVIDER, &full)];
        let (account, audience) = check(gcp(&[]), &pairs).unwrap();
        assert_eq!(
            account,
            json!({"gcp": {"serviceAccount": EMAIL, "workloadIdentityProvider": PROVIDER}})
        );
        assert_eq!(audience, format!("https://iam.googleapis.com/{PROVIDER}"));
        let named = gcp(&[("workloadIdentityAudience", "my-audience")]);
        assert_eq!(check(named, &pairs).unwrap().1, "my-audience");
    }
    let error = check(gcp(&[]), &[(GCP_SERVICE_ACCOUNT, EMAIL)]).unwrap_err();
    assert_eq!(error.code, Code::AudienceMissing);
}

#[test]
fn a_provider_that_no_audience_has_room_for_is_unusable() {
    let with = |length: usize| {
        let end = "a".repeat(length - PROVIDER.len());
        let provider = format!("{PROVIDER}{end}");
        let pairs = [(GCP_SERVICE_ACCOUNT, EMAIL), (GCP_PROVIDER, &*provider)];
        check(gcp(&[]), &pairs)
    };
    let room = bounds::AUDIENCE - "https://iam.googleapis.com/".len();
    assert_eq!(with(room).unwrap().1.len(), bounds::AUDIENCE);
    let error = with(room + 1).unwrap_err();
    assert_eq!(error.code, Code::ServiceAccountAnnotationMissing);
}

#[test]
fn what_is_missing_or_unusable_is_named() {
    let missing = Code::ServiceAccountAnnotationMissing;
    for (spec, pairs, annotation) in [
        (aws(), &[][..], ROLE_ARN),
        (aws(), &[(ROLE_ARN, "")][..], ROLE_ARN),
        (aws(), &[(ROLE_ARN, "argocd")][..], ROLE_ARN),
        (aws(), &[(ROLE_ARN, "arn:aws:iam::1:role/a")][..], ROLE_ARN),
        (
            aws(),
            &[(ROLE_ARN, "arn:aws:iam::123456789012:user/a")][..],
            ROLE_ARN,
        ),
        (
            gcp(&[]),
            &[(GCP_PROVIDER, PROVIDER)][..],
            GCP_SERVICE_ACCOUNT,
        ),
        (
            gcp(&[]),
            &[(GCP_SERVICE_ACCOUNT, "a/../b@c.d")][..],
            GCP_SERVICE_ACCOUNT,
        ),
        (
            gcp(&[]),
            &[(GCP_SERVICE_ACCOUNT, EMAIL), (GCP_PROVIDER, "projects/1")][..],
            GCP_PROVIDER,
        ),
        (azure(), &[(AZURE_CLIENT_ID, CLIENT)][..], AZURE_TENANT_ID),
        (
            azure(),
            &[(AZURE_CLIENT_ID, "x"), (AZURE_TENANT_ID, CLIENT)][..],
            AZURE_CLIENT_ID,
        ),
        (
            azure(),
            &[(AZURE_CLIENT_ID, CLIENT), (AZURE_TENANT_ID, "a.b/../c")][..],
            AZURE_TENANT_ID,
        ),
    ] {
        let error = check(spec, pairs).unwrap_err();
        assert_eq!(error.code, missing, "{pairs:?}");
        let detail = &error.detail;
        assert!(detail.contains(annotation), "{detail}");
        assert!(detail.contains("argocd/argocd-project-prod"), "{detail}");
    }
    let gone = complete("argocd", "charts", &mut aws(), None).unwrap();
    assert_eq!(gone.code, Code::ServiceAccountMissing);
}

#[test]
fn only_known_annotations_are_kept() {
    let kept = annotations(&[("a", "b"), (ROLE_ARN, ROLE)]);
    assert_eq!(kept, annotations(&[(ROLE_ARN, ROLE)]));
    assert_ne!(kept, annotations(&[]));
}

proptest! {
    /// Whatever is accepted can be put into a path or a URL as it is.
    #[test]
    fn accepted_values_need_no_escape(text in r"[a-z0-9@./:%# \\-]{0,40}") {
        prop_assume!(text.contains(['/', '%', '#', ' ', '\\']) || text.contains(".."));
        prop_assert!(!is_email(&text) && !is_tenant(&text) && !is_uuid(&text));
    }

    #[test]
    fn a_provider_is_read_the_same_with_any_prefix(
        parts in proptest::array::uniform4("[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?"),
    ) {
        let [project, location, pool, name] = parts;
        let text = format!(
            "projects/{project}/locations/{location}/workloadIdentityPools/{pool}/providers/{name}"
        );
        for prefix in ["", "//iam.googleapis.com/", "https://iam.googleapis.com/"] {
            let read = provider(&format!("{prefix}{text}"));
            prop_assert_eq!(read.as_deref(), Some(text.as_str()));
        }
        prop_assert_eq!(provider(&format!("{text}/x")), None);
    }
}
