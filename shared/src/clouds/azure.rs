//! Microsoft Azure: Container Registry and the authorities of Microsoft Entra,
//! in the public and in the sovereign clouds.

/// The authority of the public cloud.
pub const PUBLIC_AUTHORITY: &str = "login.microsoftonline.com";

/// Registries' endings, each with its cloud's authority.
const CLOUDS: [(&str, &str); 3] = [
    ("azurecr.io", PUBLIC_AUTHORITY),
    ("azurecr.cn", "login.chinacloudapi.cn"),
    ("azurecr.us", "login.microsoftonline.us"),
];

/// Whether `host` is an authority that tokens of Microsoft Entra come from.
pub fn is_authority(host: &str) -> bool {
    CLOUDS.iter().any(|(_, authority)| *authority == host)
}

/// The authority of the cloud that the registry `host` is in; `None` for a host
/// that is no registry of Azure.
pub fn authority(host: &str) -> Option<&'static str> {
    CLOUDS.iter().find_map(|(suffix, authority)| {
        let name = host.strip_suffix(suffix)?.strip_suffix('.')?;
        let is_name = |label: &str| !label.is_empty();
        // Dedicated data endpoints have more labels; all are below a suffix
        // that customers cannot register names under, but for the first label.
        name.split('.').all(is_name).then_some(*authority)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_cloud_is_told_by_its_ending() {
        for (host, expected) in [
            ("acme.azurecr.io", Some("login.microsoftonline.com")),
            ("acme.azurecr.cn", Some("login.chinacloudapi.cn")),
            ("acme.azurecr.us", Some("login.microsoftonline.us")),
            ("azurecr.io", None),
            (".azurecr.io", None),
            ("acmeazurecr.io", None),
            ("acme.azurecr.io.evil.test", None),
        ] {
            assert_eq!(authority(host), expected, "{host}");
            assert!(expected.is_none_or(is_authority));
        }
        assert!(!is_authority("login.evil.test"));
    }
}
