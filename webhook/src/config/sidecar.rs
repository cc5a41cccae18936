//! How the credential proxy runs: what is typed flows in, settings that no API
//! server refuses a pod for flow out.

use std::{collections::BTreeMap, fmt::Display};

use control_plane_core::{admission::pods::SidecarSettings, settings::is_dns_subdomain};

use super::{ServeArgs, Setting, SettingError, one};

const REQUESTS: &str = "proxy-requests";
const LIMITS: &str = "proxy-limits";
const PULL_POLICY: &str = "proxy-pull-policy";
const PULL_SECRETS: &str = "proxy-pull-secrets";

/// Reads the settings.
///
/// # Errors
/// The flag that cannot be used.
pub(super) fn settings(args: &ServeArgs) -> Result<SidecarSettings, SettingError> {
    let requests: Quantities = one(REQUESTS, &args.proxy_requests)?;
    let limits: Quantities = one(LIMITS, &args.proxy_limits)?;
    for (name, quantity) in &requests.0 {
        let limit = limits.0.get(name);
        if limit.is_some_and(|limit| limit.amount < quantity.amount) {
            let reason = format!("{name} is above --{LIMITS}");
            let text = &args.proxy_requests;
            return Err(SettingError::new::<Quantities>(REQUESTS, text, &reason));
        }
    }
    let mut pull_secrets = Vec::new();
    let names = args.proxy_pull_secrets.split(',').map(str::trim);
    for name in names.filter(|name| !name.is_empty()) {
        let ObjectName(name) = one(PULL_SECRETS, name)?;
        if !pull_secrets.contains(&name) {
            pull_secrets.push(name);
        }
    }
    Ok(SidecarSettings {
        requests: requests.into_texts(),
        limits: limits.into_texts(),
        pull_policy: one(PULL_POLICY, &args.proxy_pull_policy)?,
        pull_secrets,
    })
}

/// Amounts of a node's resources.
struct Quantities(BTreeMap<&'static str, Quantity>);

struct Quantity {
    text: String,
    /// In billionths, Kubernetes' smallest unit.
    amount: u128,
}

impl Quantities {
    fn into_texts(self) -> BTreeMap<String, String> {
        let pairs = self.0.into_iter();
        pairs
            .map(|(name, quantity)| (name.to_owned(), quantity.text))
            .collect()
    }
}

impl Setting for Quantities {
    const FIX: &'static str = "Use cpu=10m,memory=32Mi,ephemeral-storage=1Mi, or part of it";

    fn parse(text: &str) -> Result<Self, String> {
        let mut quantities = BTreeMap::new();
        for entry in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
            let (name, text) = entry
                .split_once('=')
                .ok_or_else(|| at(entry, "has no `=`"))?;
            let name = ["cpu", "memory", "ephemeral-storage"]
                .into_iter()
                .find(|known| *known == name)
                .ok_or_else(|| at(entry, "is another resource"))?;
            let amount = amount(text).ok_or_else(|| at(entry, "is no quantity"))?;
            let quantity = Quantity {
                text: text.to_owned(),
                amount,
            };
            if quantities.insert(name, quantity).is_some() {
                return Err(at(name, "is there twice"));
            }
        }
        Ok(Self(quantities))
    }
}

fn at(entry: impl Display, reason: &str) -> String {
    format!("`{entry}` {reason}")
}

/// Reads a quantity without a sign or an exponent, and rounds up as Kubernetes
/// does (apimachinery's `resource.Quantity`). `None` for anything else.
fn amount(text: &str) -> Option<u128> {
    const UNIT: u128 = 1_000_000_000;
    let end = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let unit = match suffix {
        "n" => 1,
        "u" => UNIT / 1_000_000,
        "m" => UNIT / 1_000,
        "" => UNIT,
        "k" => UNIT * 1_000,
        "M" => UNIT * 1_000_000,
        "G" => UNIT * 1_000_000_000,
        "T" => UNIT * 1_000_000_000_000,
        "Ki" => UNIT << 10,
        "Mi" => UNIT << 20,
        "Gi" => UNIT << 30,
        "Ti" => UNIT << 40,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| {
        let is_number = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| text.parse::<u128>().ok()).flatten()
    };
    let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
    Some(digits(whole)? * unit + (digits(part)? * unit).div_ceil(scale))
}

/// The name of a Secret.
struct ObjectName(String);

impl Setting for ObjectName {
    const FIX: &'static str = "Use names of Secrets in the namespaces of Argo CD";

    fn parse(text: &str) -> Result<Self, String> {
        match is_dns_subdomain(text) {
            true => Ok(Self(text.to_owned())),
            false => Err("it is no DNS subdomain".to_owned()),
        }
    }
}
