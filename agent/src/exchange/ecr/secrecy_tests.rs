//! What the SDK would tell a log.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::exchange::http::{Upstream, tests::settings};
use crate::jwt::tests::token;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn tracing_everything_tells_no_identity_token() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    let ecr = Ecr {
        host: RegistryHost::parse("123456789012.dkr.ecr.us-west-2.amazonaws.com").unwrap(),
        is_public: false,
        role_arn: "arn:aws:iam::123456789012:role/a".into(),
        // The SDK has made its whole request when the guard refuses this.
        token_url: Some("https://localhost:9".into()),
    };
    let token = token(&json!({"sub": "a-subject-that-is-the-tokens"}));
    let upstream = Upstream::new(settings("localhost:9"), None).unwrap();
    let outlet = upstream.outlet("argocd", ExchangeKind::Ecr, &ecr.host);
    let identity = IdentityToken {
        token: token.clone().into(),
        expires_at: Timestamp::MAX,
    };
    let exchange = async {
        tracing::trace!("the log works");
        ecr.exchange(&outlet, &identity).await
    };
    let failure = exchange.with_subscriber(subscriber).await.unwrap_err();
    assert_eq!(
        failure.error.code,
        Code::AddressRefused,
        "{}",
        failure.error
    );
    let told = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(told.contains("the log works"));
    assert!(!told.contains(&token), "{told}");
}
