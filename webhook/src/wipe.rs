//! Secrets whose values are no longer needed flow in, and nothing of them is
//! left behind.

use k8s_openapi::api::core::v1::Secret;
use zeroize::Zeroize;

/// Overwrites the values of a Secret that is about to be dropped.
pub fn wipe(secret: &mut Secret) {
    for value in secret.data.iter_mut().flat_map(|data| data.values_mut()) {
        value.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn wiping_leaves_no_value() {
        let value = ByteString(b"a password".to_vec());
        let mut secret = Secret {
            data: Some([("password".to_owned(), value)].into()),
            ..Secret::default()
        };
        wipe(&mut secret);
        assert!(
            secret
                .data
                .unwrap()
                .values()
                .all(|value| value.0.is_empty())
        );
    }
}
