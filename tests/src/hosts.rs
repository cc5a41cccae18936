//! Hosts under the names that guides and pages give them, where a run plays their YAML: each cloud has a loopback
//! address of its own, on which port 443 is free.

use std::net::Ipv4Addr;

/// The registry of the guide to robot federation at Quay.
pub const QUAY: Host = ("quay.example.org", Ipv4Addr::new(127, 0, 0, 2));

/// The registry of the guide to Amazon ECR.
pub const ECR: &str = "123456789012.dkr.ecr.us-west-2.amazonaws.com";
/// Where all of AWS is.
pub const AWS_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// The registries of that guide, and the services of their regions.
pub const AWS: [&str; 12] = [
    ECR,
    "api.ecr.us-west-2.amazonaws.com",
    "sts.us-west-2.amazonaws.com",
    "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com",
    "api.ecr.us-gov-west-1.amazonaws.com",
    "sts.us-gov-west-1.amazonaws.com",
    "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
    "api.ecr.cn-north-1.amazonaws.com.cn",
    "sts.cn-north-1.amazonaws.com.cn",
    "123456789012.dkr.ecr.cn-northwest-1.amazonaws.com.cn",
    "api.ecr.cn-northwest-1.amazonaws.com.cn",
    "sts.cn-northwest-1.amazonaws.com.cn",
];

/// The registry of the page on Google Artifact Registry.
pub const GAR: &str = "europe-docker.pkg.dev";
/// Where all of Google Cloud is.
pub const GCP_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);
/// That registry, and the token services.
pub const GCP: [&str; 3] = [GAR, "sts.googleapis.com", "iamcredentials.googleapis.com"];

/// The registry of the page on Azure Container Registry.
pub const ACR: &str = "acme.azurecr.io";
/// The public cloud's authority of Microsoft Entra.
pub const ENTRA: &str = "login.microsoftonline.com";
/// Where all of Azure is.
pub const AZURE_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);

/// A name and the address that it has.
pub type Host = (&'static str, Ipv4Addr);

/// All of them.
pub const ALL: [Host; 1 + AWS.len() + GCP.len() + 2] = {
    let mut all = [QUAY; 1 + AWS.len() + GCP.len() + 2];
    put(&mut all, 1, &AWS, AWS_ADDRESS);
    put(&mut all, 1 + AWS.len(), &GCP, GCP_ADDRESS);
    put(
        &mut all,
        1 + AWS.len() + GCP.len(),
        &[ACR, ENTRA],
        AZURE_ADDRESS,
    );
    all
};

const fn put(all: &mut [Host], from: usize, names: &[&'static str], address: Ipv4Addr) {
    let mut at = 0;
    while at < names.len() {
        all[from + at] = (names[at], address);
        at += 1;
    }
}

/// What an administrator adds to the allow-list, since they are on loopback.
#[must_use]
pub fn allowed() -> String {
    ALL.map(|(name, _)| format!(",{name};private")).concat()
}
