//! Who may go where: the bindings of the volume view and what a request
//! presents flow in, the binding to act for (or a blind tunnel) flows out. Pure.

use std::collections::BTreeMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use shared::errors::{Code, Named};
use shared::proxy_view::ProxyBinding;

use crate::parse::authorization::Presented;
use crate::parse::target::Authority;

/// All bindings of the pod, by name.
#[derive(Debug, Clone, Default)]
pub struct Bindings(BTreeMap<String, ProxyBinding>);

/// What becomes of a CONNECT.
#[derive(Debug, Clone, Copy)]
pub enum Route<'a> {
    /// The host is this binding's, and that one is of the presenting one's
    /// project: TLS ends here.
    Terminate(&'a ProxyBinding),
    /// Nobody bound the host: bytes pass as they are, on this binding's behalf.
    Tunnel(&'a ProxyBinding),
}

impl FromIterator<ProxyBinding> for Bindings {
    fn from_iter<I: IntoIterator<Item = ProxyBinding>>(bindings: I) -> Self {
        let named = |binding: ProxyBinding| (binding.name.clone(), binding);
        Self(bindings.into_iter().map(named).collect())
    }
}

impl Bindings {
    /// Every binding.
    pub fn iter(&self) -> impl Iterator<Item = &ProxyBinding> {
        self.0.values()
    }

    /// The binding of this name.
    pub fn find(&self, name: &str) -> Option<&ProxyBinding> {
        self.0.get(name)
    }

    /// Whether the key opens the binding that it is presented for.
    pub fn knows(&self, presented: &Presented) -> bool {
        self.presented(presented).is_ok()
    }

    /// Decides on a CONNECT to `target`. A blind tunnel, too, needs the key of
    /// some binding.
    ///
    /// A key opens every host of its binding's project: Argo CD builds the
    /// dependencies of a chart with the proxy of the chart's own repository.
    ///
    /// # Errors
    /// [`Code::ProxyBindingUnknown`], [`Code::ProxyKeyRejected`], and
    /// [`Code::ProxyHostMismatch`] where `target` is bound, but by others.
    pub fn authorize(&self, presented: &Presented, target: &Authority) -> Result<Route<'_>, Named> {
        let binding = self.presented(presented)?;
        let mut on_target = self
            .iter()
            .filter(|it| Authority::from(&it.target) == *target)
            .peekable();
        if on_target.peek().is_none() {
            return Ok(Route::Tunnel(binding));
        }
        on_target
            .filter(|it| it.project == binding.project)
            .max_by_key(|it| it.name == binding.name)
            .map(Route::Terminate)
            .ok_or_else(|| {
                let detail = format!("binding {}, host {target}", binding.name);
                Named::new(Code::ProxyHostMismatch, detail)
            })
    }

    /// Decides on a plain HTTP request to `target`: the binding on whose behalf
    /// it goes.
    ///
    /// # Errors
    /// [`Code::ProxyBindingUnknown`], [`Code::ProxyKeyRejected`], and
    /// [`Code::PlainHttpRefused`] where any port of the host is bound.
    pub fn authorize_plain(
        &self,
        presented: &Presented,
        target: &Authority,
    ) -> Result<&ProxyBinding, Named> {
        let binding = self.presented(presented)?;
        if self.iter().any(|it| it.target.name() == target.host) {
            let detail = format!("binding {}, host {target}", binding.name);
            return Err(Named::new(Code::PlainHttpRefused, detail));
        }
        Ok(binding)
    }

    fn presented(&self, presented: &Presented) -> Result<&ProxyBinding, Named> {
        let name = &presented.binding;
        let detail = || format!("binding {}", name.escape_debug());
        let binding = self
            .0
            .get(name)
            .ok_or_else(|| Named::new(Code::ProxyBindingUnknown, detail()))?;
        // Every key is compared, so that the time does not tell which one fitted.
        let fits = binding.keys.iter().fold(false, |fits, key| {
            verify_slices_are_equal(key.as_bytes(), presented.key.as_bytes()).is_ok() | fits
        });
        if !fits {
            return Err(Named::new(Code::ProxyKeyRejected, detail()));
        }
        Ok(binding)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use shared::allow_list::AllowList;
    use shared::binding::ProxyKind;
    use shared::proxy_view::KeyHash;
    use shared::registry::RegistryHost;

    use super::*;

    /// A binding whose key is `<name>-key`.
    pub(crate) fn binding(name: &str, project: &str, target: &str, path: &str) -> ProxyBinding {
        ProxyBinding {
            name: name.into(),
            project: Some(project.into()),
            keys: vec![KeyHash::of(format!("{name}-key").as_bytes())],
            target: RegistryHost::parse(target).unwrap(),
            path: path.into(),
            kind: ProxyKind::Oci,
            insecure: false,
            allowed_hosts: AllowList::default(),
            upstream_proxy: None,
            realm: None,
            credential: None,
        }
    }

    fn bindings() -> Bindings {
        let mut rotating = binding("rotating", "c", "git.test", "");
        rotating.keys.push(KeyHash::of(b"next"));
        [
            binding("a", "a", "quay.test", "a"),
            binding("a-more", "a", "quay.test", "a/more"),
            binding("a-code", "a", "code.test", "a"),
            binding("b", "b", "other.test:8443", "b"),
            rotating,
        ]
        .into_iter()
        .collect()
    }

    fn ask(name: &str, key: &str, target: &str) -> Result<Option<String>, Code> {
        let presented = Presented {
            binding: name.into(),
            key: KeyHash::of(key.as_bytes()),
        };
        let target = Authority::parse(target).unwrap();
        match bindings().authorize(&presented, &target) {
            Ok(Route::Terminate(binding)) => Ok(Some(binding.name.clone())),
            Ok(Route::Tunnel(_)) => Ok(None),
            Err(error) => Err(error.code),
        }
    }

    #[test]
    fn a_key_opens_the_hosts_of_its_project() {
        assert_eq!(ask("a", "a-key", "quay.test:443"), Ok(Some("a".into())));
        assert_eq!(ask("a", "a-key", "cdn.test:443"), Ok(None));
        assert_eq!(ask("a", "a-key", "quay.test:8443"), Ok(None));
        assert_eq!(
            ask("a", "b-key", "quay.test:443"),
            Err(Code::ProxyKeyRejected)
        );
        assert_eq!(
            ask("a", "b-key", "cdn.test:443"),
            Err(Code::ProxyKeyRejected)
        );
        assert_eq!(
            ask("z", "a-key", "cdn.test:443"),
            Err(Code::ProxyBindingUnknown)
        );
        assert_eq!(
            ask("a", "a-key", "other.test:8443"),
            Err(Code::ProxyHostMismatch)
        );
        // The dependencies of a chart: other hosts of the same project.
        assert_eq!(ask("a", "a-key", "code.test"), Ok(Some("a-code".into())));
        assert_eq!(ask("b", "b-key", "code.test"), Err(Code::ProxyHostMismatch));
        for key in ["rotating-key", "next"] {
            assert_eq!(
                ask("rotating", key, "git.test"),
                Ok(Some("rotating".into()))
            );
        }
    }

    #[test]
    fn plain_http_goes_to_hosts_that_nobody_bound() {
        let ask = |key: &str, target: &str| {
            let presented = Presented {
                binding: "a".into(),
                key: KeyHash::of(key.as_bytes()),
            };
            let target = Authority::parse(target).unwrap();
            let bindings = bindings();
            let found = bindings.authorize_plain(&presented, &target);
            found.map(|it| it.name.clone()).map_err(|error| error.code)
        };
        assert_eq!(ask("a-key", "cdn.test:80"), Ok("a".into()));
        assert_eq!(ask("b-key", "cdn.test:80"), Err(Code::ProxyKeyRejected));
        for bound in ["quay.test:80", "other.test:80", "git.test:443"] {
            assert_eq!(ask("a-key", bound), Err(Code::PlainHttpRefused), "{bound}");
        }
    }

    proptest! {
        #[test]
        fn no_other_key_opens_anything(name in "a|b|rotating|[a-z]{1,3}", key in "\\PC{0,20}", target in "quay[.]test|cdn[.]test") {
            prop_assume!(key != format!("{name}-key") && key != "next");
            prop_assert!(ask(&name, &key, &target).is_err());
        }
    }
}
