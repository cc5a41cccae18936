//! Messages of SPIRE's Delegated Identity API and of the SPIFFE Workload API, by hand: only the fields that the
//! stand-in reads or writes, under the field numbers of delegatedidentity.proto and `spire/api/types`
//! (spiffe/spire-api-sdk) and of workload.proto (spiffe/go-spiffe). The keys in them are a test's.

/// Messages of `spire.api.types` that several calls share.
pub mod types {
    /// What an attestor found about a workload.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct Selector {
        /// The attestor's name, without a colon.
        #[prost(string, tag = "1")]
        pub kind: String,
        /// What it found.
        #[prost(string, tag = "2")]
        pub value: String,
    }

    /// A SPIFFE ID in its parts.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct SpiffeId {
        /// Without a scheme.
        #[prost(string, tag = "1")]
        pub trust_domain: String,
        /// With its leading slash.
        #[prost(string, tag = "2")]
        pub path: String,
    }

    /// A JWT-SVID.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct JwtSvid {
        /// The token.
        #[prost(string, tag = "1")]
        pub token: String,
        /// Whose it is.
        #[prost(message, optional, tag = "2")]
        pub id: Option<SpiffeId>,
        /// Seconds since the epoch.
        #[prost(int64, tag = "3")]
        pub expires_at: i64,
        /// Seconds since the epoch.
        #[prost(int64, tag = "4")]
        pub issued_at: i64,
    }

    /// An X.509-SVID.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct X509Svid {
        /// The leaf and what leads to an authority of the bundle, each DER.
        #[prost(bytes = "vec", repeated, tag = "1")]
        pub cert_chain: Vec<Vec<u8>>,
        /// Whose it is.
        #[prost(message, optional, tag = "2")]
        pub id: Option<SpiffeId>,
        /// Seconds since the epoch.
        #[prost(int64, tag = "3")]
        pub expires_at: i64,
    }
}

/// Messages of `spire.api.agent.delegatedidentity.v1`.
pub mod delegated {
    use std::collections::HashMap;

    use super::types::{JwtSvid, Selector, X509Svid};

    /// Asks for the JWT-SVIDs of a workload.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct JwtSvidsRequest {
        /// Required.
        #[prost(string, repeated, tag = "1")]
        pub audience: Vec<String>,
        /// Describe the workload.
        #[prost(message, repeated, tag = "2")]
        pub selectors: Vec<Selector>,
    }

    /// One for every entry that matches, in any order.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct JwtSvidsResponse {
        /// The SVIDs.
        #[prost(message, repeated, tag = "1")]
        pub svids: Vec<JwtSvid>,
    }

    /// Asks for the X.509-SVIDs of a workload, from now on.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct X509SvidsRequest {
        /// Describe the workload.
        #[prost(message, repeated, tag = "1")]
        pub selectors: Vec<Selector>,
    }

    /// One for every entry that matches, in any order; all of them again when one changes.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct X509SvidsResponse {
        /// The SVIDs.
        #[prost(message, repeated, tag = "1")]
        pub svids: Vec<X509SvidWithKey>,
    }

    /// An X.509-SVID and its private key.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct X509SvidWithKey {
        /// The SVID.
        #[prost(message, optional, tag = "1")]
        pub svid: Option<X509Svid>,
        /// PKCS #8, DER.
        #[prost(bytes = "vec", tag = "2")]
        pub key: Vec<u8>,
    }

    /// Asks for the authorities of X.509-SVIDs, from now on.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct X509BundlesRequest {}

    /// By trust domain (`spiffe://…`), DER certificates one after the other.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct X509BundlesResponse {
        /// The bundles.
        #[prost(map = "string, bytes", tag = "1")]
        pub ca_certificates: HashMap<String, Vec<u8>>,
    }

    /// Asks for the keys of JWT-SVIDs, from now on.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct JwtBundlesRequest {}

    /// By trust domain (`spiffe://…`), a JWKS document.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct JwtBundlesResponse {
        /// The bundles.
        #[prost(map = "string, bytes", tag = "1")]
        pub bundles: HashMap<String, Vec<u8>>,
    }
}

/// Messages of the SPIFFE Workload API.
pub mod workload {
    use std::collections::HashMap;

    /// Asks for the caller's JWT-SVIDs.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct JwtSvidRequest {
        /// Required.
        #[prost(string, repeated, tag = "1")]
        pub audience: Vec<String>,
        /// Only this identity, unless empty.
        #[prost(string, tag = "2")]
        pub spiffe_id: String,
    }

    /// The caller's JWT-SVIDs.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct JwtSvidResponse {
        /// The SVIDs.
        #[prost(message, repeated, tag = "1")]
        pub svids: Vec<JwtSvid>,
    }

    /// A JWT-SVID.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct JwtSvid {
        /// Whose it is.
        #[prost(string, tag = "1")]
        pub spiffe_id: String,
        /// The token.
        #[prost(string, tag = "2")]
        pub svid: String,
    }

    /// Asks for the keys of JWT-SVIDs, from now on.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct JwtBundlesRequest {}

    /// By trust domain (`spiffe://…`), a JWKS document.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct JwtBundlesResponse {
        /// The bundles.
        #[prost(map = "string, bytes", tag = "1")]
        pub bundles: HashMap<String, Vec<u8>>,
    }

    /// Asks for the caller's X.509-SVIDs, from now on.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct X509SvidRequest {}

    /// The caller's X.509-SVIDs; all of them again when one changes.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct X509SvidResponse {
        /// The SVIDs.
        #[prost(message, repeated, tag = "1")]
        pub svids: Vec<X509Svid>,
        /// Authorities of other trust domains (`spiffe://…`), DER one after the other.
        #[prost(map = "string, bytes", tag = "3")]
        pub federated_bundles: HashMap<String, Vec<u8>>,
    }

    /// An X.509-SVID.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct X509Svid {
        /// Whose it is.
        #[prost(string, tag = "1")]
        pub spiffe_id: String,
        /// The leaf first, DER certificates one after the other.
        #[prost(bytes = "vec", tag = "2")]
        pub x509_svid: Vec<u8>,
        /// PKCS #8, DER.
        #[prost(bytes = "vec", tag = "3")]
        pub x509_svid_key: Vec<u8>,
        /// Authorities of its trust domain, DER one after the other.
        #[prost(bytes = "vec", tag = "4")]
        pub bundle: Vec<u8>,
    }

    /// Asks for the authorities of X.509-SVIDs, from now on.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct X509BundlesRequest {}

    /// By trust domain (`spiffe://…`), DER certificates one after the other.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct X509BundlesResponse {
        /// The bundles.
        #[prost(map = "string, bytes", tag = "2")]
        pub bundles: HashMap<String, Vec<u8>>,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::{delegated, types, workload};

    /// Bytes as a protobuf encoder of the .proto files writes them: field number × 8 + wire type.
    #[test]
    fn the_field_numbers_are_those_of_the_proto_files() {
        let svid = types::JwtSvid {
            token: "t".into(),
            id: Some(types::SpiffeId {
                trust_domain: "d".into(),
                path: "/p".into(),
            }),
            expires_at: 1,
            issued_at: 2,
        };
        let bytes = b"\x0a\x01t\x12\x07\x0a\x01d\x12\x02/p\x18\x01\x20\x02";
        assert_eq!(svid.encode_to_vec(), bytes);
        let request = delegated::JwtSvidsRequest {
            audience: vec!["a".into()],
            selectors: vec![types::Selector {
                kind: "k".into(),
                value: "v".into(),
            }],
        };
        let bytes = b"\x0a\x01a\x12\x06\x0a\x01k\x12\x01v";
        assert_eq!(request.encode_to_vec(), bytes);
        let svid = delegated::X509SvidWithKey {
            svid: Some(types::X509Svid {
                cert_chain: vec![b"c".to_vec(), b"i".to_vec()],
                id: None,
                expires_at: 1,
            }),
            key: b"k".to_vec(),
        };
        let bytes = b"\x0a\x08\x0a\x01c\x0a\x01i\x18\x01\x12\x01k";
        assert_eq!(svid.encode_to_vec(), bytes);
        let svid = workload::X509Svid {
            spiffe_id: "s".into(),
            x509_svid: b"c".to_vec(),
            x509_svid_key: b"k".to_vec(),
            bundle: b"b".to_vec(),
        };
        let bytes = b"\x0a\x01s\x12\x01c\x1a\x01k\x22\x01b";
        assert_eq!(svid.encode_to_vec(), bytes);
        let bundles = workload::X509BundlesResponse {
            bundles: [("d".to_owned(), b"b".to_vec())].into(),
        };
        let bytes = b"\x12\x06\x0a\x01d\x12\x01b";
        assert_eq!(bundles.encode_to_vec(), bytes);
    }
}
