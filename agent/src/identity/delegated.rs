//! SPIRE's Delegated Identity API as a [`Wire`]: selectors of any project flow
//! in over the SPIRE agent's admin socket, what its entries issue flows out.
//!
//! The connection is made once and kept, since SPIRE tracks its caller by it; a
//! SPIRE agent that was restarted is found again at the next call.

use futures::StreamExt;
use secrecy::SecretString;
use shared::errors::{Code, Named};
use shared::selectors::SelectorTemplate;
use spiffe::transport::{self, Endpoint};
use spiffe::{JwtBundle, JwtBundleSet, TrustDomain, X509Bundle, X509BundleSet, X509Svid};
use spire_api::pb::spire::api::agent::delegatedidentity::v1 as pb;
use spire_api::pb::spire::api::types::Selector;
use tokio::sync::OnceCell;
use tonic::Streaming;
use tonic::transport::Channel;

use super::wire::{Ask, Updates, Wire, fault, place};
use crate::exchange::http::{causes, redact};

type Client = pb::delegated_identity_client::DelegatedIdentityClient<Channel>;

/// The admin socket of this node's SPIRE agent.
pub struct Delegated {
    endpoint: Endpoint,
    selectors: SelectorTemplate,
    client: OnceCell<Client>,
}

impl Delegated {
    /// Asks at the socket of this path, with these selectors. Nothing is opened
    /// before the first call.
    pub fn new(admin_socket: std::path::PathBuf, selectors: SelectorTemplate) -> Self {
        Self {
            endpoint: Endpoint::Unix(admin_socket),
            selectors,
            client: OnceCell::new(),
        }
    }

    async fn client(&self) -> Result<Client, Named> {
        self.client
            .get_or_try_init(|| async {
                let channel = transport::connect(&self.endpoint).await;
                channel
                    .map(Client::new)
                    .map_err(|error| Named::new(Code::SpireAgentAbsent, redact(&causes(&error))))
            })
            .await
            .cloned()
    }

    fn selectors(&self, ask: &Ask) -> Vec<Selector> {
        let selectors = self.selectors.render(&ask.registration).into_iter();
        let selectors = selectors.map(|selector| Selector {
            r#type: selector.kind,
            value: selector.value,
        });
        selectors.collect()
    }
}

impl Wire for Delegated {
    fn place(&self) -> String {
        place(&self.endpoint)
    }

    fn asked(&self, ask: &Ask) -> String {
        let selectors = self.selectors.render(&ask.registration);
        let selectors: Vec<_> = selectors.iter().map(ToString::to_string).collect();
        let selectors = selectors.join(",");
        format!(
            "SPIFFE ID {}, selectors {selectors}, {}",
            ask.subject,
            self.place()
        )
    }

    async fn tokens(&self, ask: &Ask) -> Result<Vec<SecretString>, Named> {
        let request = pb::FetchJwtsviDsRequest {
            audience: vec![ask.audience.clone()],
            selectors: self.selectors(ask),
            pid: 0,
        };
        let mut client = self.client().await?;
        let answer = client.fetch_jwtsvi_ds(request).await;
        let svids = answer.map_err(|status| fault(&status))?.into_inner().svids;
        Ok(svids
            .into_iter()
            .map(|svid| SecretString::from(svid.token))
            .collect())
    }

    async fn certificates(&self, ask: &Ask) -> Result<Updates<Vec<X509Svid>>, Named> {
        let request = pb::SubscribeToX509sviDsRequest {
            selectors: self.selectors(ask),
            pid: 0,
        };
        let mut client = self.client().await?;
        let answer = client.subscribe_to_x509svi_ds(request).await;
        let subject = ask.subject.clone();
        updates(answer, move |message| svids(&message, &subject))
    }

    async fn jwt_bundles(&self) -> Result<Updates<JwtBundleSet>, Named> {
        let mut client = self.client().await?;
        let request = pb::SubscribeToJwtBundlesRequest {};
        let answer = client.subscribe_to_jwt_bundles(request).await;
        let updates = updates(answer, |message| Ok(jwt_bundles(&message))).map_err(own)?;
        Ok(updates.map(|update| update.map_err(own)).boxed())
    }

    async fn x509_bundles(&self) -> Result<Updates<X509BundleSet>, Named> {
        let mut client = self.client().await?;
        let request = pb::SubscribeToX509BundlesRequest {};
        let answer = client.subscribe_to_x509_bundles(request).await;
        let updates = updates(answer, |message| Ok(x509_bundles(&message))).map_err(own)?;
        Ok(updates.map(|update| update.map_err(own)).boxed())
    }
}

/// Bundles are of no project: whoever is refused them is not registered itself.
fn own(fault: Named) -> Named {
    match fault.code {
        Code::IdentityNotRegistered => Named::new(Code::SpireAgentNotRegistered, fault.detail),
        _ => fault,
    }
}

fn updates<M: Send + 'static, T: Send + 'static>(
    answer: Result<tonic::Response<Streaming<M>>, tonic::Status>,
    read: impl Fn(M) -> Result<T, Named> + Send + 'static,
) -> Result<Updates<T>, Named> {
    let messages = answer.map_err(|status| fault(&status))?.into_inner();
    let updates = messages.map(move |message| match message {
        Ok(message) => read(message),
        Err(status) => Err(fault(&status)),
    });
    Ok(updates.boxed())
}

/// Reads the SVIDs of a message. One that cannot be read matters only if it is
/// the one of `subject`.
fn svids(
    message: &pb::SubscribeToX509sviDsResponse,
    subject: &str,
) -> Result<Vec<X509Svid>, Named> {
    let mut found = Vec::new();
    for entry in &message.x509_svids {
        let Some(svid) = &entry.x509_svid else {
            continue;
        };
        let id = svid.id.as_ref();
        let id = id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path));
        match X509Svid::parse_from_der(&svid.cert_chain.concat(), &entry.x509_svid_key) {
            Ok(svid) => found.push(svid),
            Err(error) if id.as_deref() == Some(subject) => {
                return Err(Named::new(Code::IdentityMismatch, causes(&error)));
            }
            Err(error) => tracing::warn!(id, %error, "SPIRE gave an X.509-SVID that is none"),
        }
    }
    Ok(found)
}

/// Reads the bundles of a message, without those that cannot be read.
fn jwt_bundles(message: &pb::SubscribeToJwtBundlesResponse) -> JwtBundleSet {
    let mut bundles = JwtBundleSet::new();
    for (domain, jwks) in &message.bundles {
        let bundle = TrustDomain::new(domain)
            .map_err(|error| error.to_string())
            .and_then(|it| {
                JwtBundle::from_jwt_authorities(it, jwks).map_err(|error| causes(&error))
            });
        match bundle {
            Ok(bundle) => bundles.add_bundle(bundle),
            Err(error) => tracing::warn!(domain, error, "SPIRE gave a JWT bundle that is none"),
        }
    }
    bundles
}

fn x509_bundles(message: &pb::SubscribeToX509BundlesResponse) -> X509BundleSet {
    let mut bundles = X509BundleSet::new();
    for (domain, roots) in &message.ca_certificates {
        let bundle = TrustDomain::new(domain)
            .map_err(|error| error.to_string())
            .and_then(|it| X509Bundle::parse_from_der(it, roots).map_err(|error| causes(&error)));
        match bundle {
            Ok(bundle) => bundles.add_bundle(bundle),
            Err(error) => tracing::warn!(domain, error, "SPIRE gave an X.509 bundle that is none"),
        }
    }
    bundles
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use spire_api::pb::spire::api::types;

    use super::*;
    use crate::identity::certificate::tests::{Authority, SUBJECT};

    /// An entry of SPIRE's answer, and one whose certificate cannot be read.
    fn entry(path: &str, readable: bool) -> pb::X509svidWithKey {
        let subject = format!("spiffe://td{path}");
        let svid = Authority::new().svid(&subject, SignedDuration::from_hours(1));
        let chain = svid.cert_chain().iter().map(|it| match readable {
            true => it.as_bytes().to_vec().into(),
            false => "nonsense".into(),
        });
        pb::X509svidWithKey {
            x509_svid: Some(types::X509svid {
                cert_chain: chain.collect(),
                id: Some(types::Spiffeid {
                    trust_domain: "td".into(),
                    path: path.into(),
                }),
                ..types::X509svid::default()
            }),
            x509_svid_key: svid.private_key().as_bytes().to_vec().into(),
        }
    }

    fn read(entries: Vec<pb::X509svidWithKey>) -> Result<Vec<String>, Code> {
        let message = pb::SubscribeToX509sviDsResponse {
            x509_svids: entries,
            federates_with: Vec::new(),
        };
        svids(&message, SUBJECT)
            .map(|all| all.iter().map(|it| it.spiffe_id().to_string()).collect())
            .map_err(|error| error.code)
    }

    #[test]
    fn an_svid_of_another_that_cannot_be_read_hides_nothing() {
        let found = read(vec![
            entry("/b", false),
            entry("/a", true),
            entry("/c", true),
        ]);
        assert_eq!(found, Ok(vec![SUBJECT.to_owned(), "spiffe://td/c".into()]));
        let broken = read(vec![entry("/b", true), entry("/a", false)]);
        assert_eq!(broken, Err(Code::IdentityMismatch));
        assert_eq!(read(Vec::new()), Ok(Vec::new()));
    }

    #[test]
    fn a_bundle_that_cannot_be_read_hides_no_other() {
        let jwks = || br#"{"keys":[]}"#.to_vec();
        let bundles = [
            ("spiffe://td", jwks()),
            ("other", jwks()),
            ("spiffe://bad", b"nonsense".to_vec()),
            ("no domain", jwks()),
        ];
        let bundles = bundles.map(|(domain, jwks)| (domain.to_owned(), jwks.into()));
        let found = jwt_bundles(&pb::SubscribeToJwtBundlesResponse {
            bundles: bundles.into(),
        });
        let domains: Vec<_> = found.iter().map(|(domain, _)| domain.to_string()).collect();
        assert_eq!(domains, ["other", "td"]);
    }
}
