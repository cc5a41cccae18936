//! Where the proxy key is kept.

use aws_lc_rs::rand;
use control_plane_core::proxy_key::{CURRENT, LENGTH, PREVIOUS, ProxyKeyError, ProxyKeys, SECRET};
use zeroize::Zeroizing;

use crate::key_secret::{Data, StoredKey};

impl StoredKey for ProxyKeys {
    type Error = ProxyKeyError;
    type Kind = ();

    const SECRET: &'static str = SECRET;
    const ENTRY: &'static str = CURRENT;
    const NAME: &'static str = "proxy key";
    const FORM: &'static str = "32 random bytes";

    fn read(data: &Data) -> Result<Option<Self>, ProxyKeyError> {
        let entry = |name| data.get(name).map(|value| value.0.as_slice());
        let previous = entry(PREVIOUS).filter(|bytes| !bytes.is_empty());
        entry(CURRENT)
            .map(|current| Self::new(current, previous))
            .transpose()
    }

    fn make((): ()) -> Result<(Self, Zeroizing<Vec<u8>>), ProxyKeyError> {
        let mut bytes = Zeroizing::new(vec![0; LENGTH]);
        rand::fill(&mut bytes).map_err(|_unspecified| ProxyKeyError::Random)?;
        Ok((Self::new(&bytes, None)?, bytes))
    }

    fn id(&self) -> String {
        let previous = if self.has_previous() {
            " and previous"
        } else {
            ""
        };
        format!("current{previous}")
    }
}
