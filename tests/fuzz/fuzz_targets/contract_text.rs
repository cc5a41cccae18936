//! Text of the contract: no panic, and what parses is read the same from its own text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::{allow_list::AllowList, clouds::{aws::{self, EcrHost}, azure, gcp}, exec_credential::ApiVersion, layout, registry::{RegistryHost, RepositoryReference}, selectors::SelectorTemplate};
use control_plane_core::annotations::PodOptions;

fuzz_target!(|text: &str| {
    if let Ok(host) = RegistryHost::parse(text) {
        // What is in a cloud's domain is one thing there, or nothing.
        let (registry, name) = (EcrHost::parse(&host), host.name());
        assert!(registry.is_none() || !(aws::is_sts(name) || aws::is_ecr_api(name)));
        assert!(registry.is_none_or(|it| aws::is_sts(&format!("sts.{}.amazonaws.com", it.region))));
        assert!(!(gcp::is_registry(name) && gcp::is_token_service(name)));
        assert!(azure::authority(name).is_none_or(azure::is_authority));
        assert_eq!(RegistryHost::parse(host.as_str()), Ok(host));
    }
    if let Ok(reference) = RepositoryReference::parse(text) {
        assert_eq!(RepositoryReference::parse(&reference.to_string()), Ok(reference));
    }
    if let Ok(list) = AllowList::parse(text) {
        assert_eq!(AllowList::parse(&list.to_string()), Ok(list));
    }
    if let Ok(template) = text.parse::<SelectorTemplate>() {
        assert_eq!(template.to_string().parse(), Ok(template));
    }
    if let Ok(version) = ApiVersion::parse(text) {
        assert_eq!(ApiVersion::parse(version.as_str()), Ok(version));
    }
    if let Ok(path) = layout::cluster_file(text) {
        assert_eq!(path.components().count(), 2);
    }
    PodOptions::parse(|_| Some(text));
});
