//! The selectors that registration entries in SPIRE have and that agents ask
//! SPIRE with: a template such as `k8s:ns:{namespace},k8s:sa:{service_account}`
//! and who is registered flow in, selectors flow out.
//!
//! Both sides go through here, because SPIRE gives an identity only where each
//! selector of its entry is among those of the question, byte for byte.

use std::{fmt, str::FromStr};

/// What the guides register identities with.
pub const DEFAULT: &str = "k8s:ns:{namespace},k8s:sa:{service_account}";

/// Who is registered: what the placeholders stand for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registration {
    /// Namespace of the binding.
    pub namespace: String,
    /// The service account that stands for the project.
    pub service_account: String,
    /// The project, where there is one; `{project}` is empty otherwise.
    pub project: Option<String>,
}

/// A selector, `type:value`; the value may have more colons.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// Such as `k8s`; a type that no attestor of SPIRE knows can be had by
    /// delegates only.
    pub kind: String,
    /// Such as `ns:argocd`, never empty.
    pub value: String,
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

/// Selectors with placeholders; never empty, without duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorTemplate(Vec<Template>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    kind: String,
    value: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Namespace,
    ServiceAccount,
    Project,
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("selector `{}` {reason}", .selector.escape_debug())]
pub struct TemplateError {
    selector: String,
    reason: &'static str,
}

impl SelectorTemplate {
    /// The selectors of one registration, in the template's order.
    pub fn render(&self, registration: &Registration) -> Vec<Selector> {
        let render = |template: &Template| Selector {
            kind: template.kind.clone(),
            value: template.value.iter().map(|p| p.of(registration)).collect(),
        };
        self.0.iter().map(render).collect()
    }
}

impl Default for SelectorTemplate {
    fn default() -> Self {
        let of = |name: &str, part| Template {
            kind: "k8s".to_owned(),
            value: vec![Part::Text(name.to_owned()), part],
        };
        Self(vec![
            of("ns:", Part::Namespace),
            of("sa:", Part::ServiceAccount),
        ])
    }
}

impl FromStr for SelectorTemplate {
    type Err = TemplateError;

    /// Reads `type:value,type:value`, with `{namespace}`, `{service_account}`
    /// and `{project}` in the values.
    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut templates = Vec::new();
        for selector in text.split(',').map(str::trim) {
            let refuse = |reason| TemplateError {
                selector: selector.chars().take(256).collect(),
                reason,
            };
            let template = Template::parse(selector).map_err(refuse)?;
            if templates.contains(&template) {
                return Err(refuse("is there twice"));
            }
            templates.push(template);
        }
        Ok(Self(templates))
    }
}

impl Template {
    fn parse(selector: &str) -> Result<Self, &'static str> {
        if !selector.bytes().all(|c| c.is_ascii_graphic()) {
            return Err("has a blank or a character beyond ASCII");
        }
        let (kind, value) = match selector.split_once(':') {
            Some((kind, value)) if !kind.is_empty() && !value.is_empty() => (kind, value),
            _ => return Err("is not type:value"),
        };
        if kind.contains(['{', '}']) {
            return Err("has a placeholder in its type");
        }
        let value = parts(value)?;
        // SPIRE refuses a selector without a value.
        if value.iter().all(|part| *part == Part::Project) {
            return Err("has no value where there is no project; use {namespace}/{project}");
        }
        Ok(Self {
            kind: kind.to_owned(),
            value,
        })
    }
}

fn parts(mut value: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = Vec::new();
    while !value.is_empty() {
        let (text, rest) = value.split_at(value.find(['{', '}']).unwrap_or(value.len()));
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        if rest.is_empty() {
            break;
        }
        let placeholder = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let (part, rest) = match placeholder {
            Some(("namespace", rest)) => (Part::Namespace, rest),
            Some(("service_account", rest)) => (Part::ServiceAccount, rest),
            Some(("project", rest)) => (Part::Project, rest),
            _ => {
                return Err(
                    "has a placeholder that is not {namespace}, {service_account} or {project}",
                );
            }
        };
        parts.push(part);
        value = rest;
    }
    Ok(parts)
}

impl Part {
    fn of<'a>(&'a self, registration: &'a Registration) -> &'a str {
        match self {
            Self::Text(text) => text,
            Self::Namespace => &registration.namespace,
            Self::ServiceAccount => &registration.service_account,
            Self::Project => registration.project.as_deref().unwrap_or_default(),
        }
    }
}

impl fmt::Display for SelectorTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Template { kind, value }) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{kind}:")?;
            for part in value {
                f.write_str(match part {
                    Part::Text(text) => text,
                    Part::Namespace => "{namespace}",
                    Part::ServiceAccount => "{service_account}",
                    Part::Project => "{project}",
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn registration(project: Option<&str>) -> Registration {
        Registration {
            namespace: "argocd".into(),
            service_account: "argocd-project-a".into(),
            project: project.map(str::to_owned),
        }
    }

    fn rendered(template: &str, project: Option<&str>) -> Vec<String> {
        let template: SelectorTemplate = template.parse().unwrap();
        let selectors = template.render(&registration(project));
        selectors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn placeholders_stand_for_the_registration() {
        assert_eq!(
            rendered(DEFAULT, None),
            ["k8s:ns:argocd", "k8s:sa:argocd-project-a"]
        );
        let custom = "argocd-project:{namespace}/{project}, k8s:ns:{namespace}";
        assert_eq!(
            rendered(custom, Some("a")),
            ["argocd-project:argocd/a", "k8s:ns:argocd"]
        );
        assert_eq!(
            rendered(custom, None),
            ["argocd-project:argocd/", "k8s:ns:argocd"]
        );
        assert_eq!(DEFAULT.parse(), Ok(SelectorTemplate::default()));
    }

    #[test]
    fn what_is_no_template_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "is not type:value"),
            ("k8s", "is not type:value"),
            (":a", "is not type:value"),
            ("k8s:", "is not type:value"),
            ("k8s:ns:a,", "is not type:value"),
            ("{project}:a", "placeholder in its type"),
            ("k8s:{name}", "placeholder that is not"),
            ("k8s:{namespace", "placeholder that is not"),
            ("k8s:a}", "placeholder that is not"),
            ("k8s:{{namespace}}", "placeholder that is not"),
            ("x:{project}{project}", "no value where there is no project"),
            ("k8s:ns:a b", "has a blank"),
            ("k8s:ns:a,k8s:ns:a", "is there twice"),
        ] {
            let error = text.parse::<SelectorTemplate>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_round_trips_and_renders_usable_selectors(
            text in "([a-z{}:,/ -]|\\{namespace\\}|\\{service_account\\}|\\{project\\}|[a-z]:[a-z]){0,12}|\\PC*"
        ) {
            if let Ok(template) = text.parse::<SelectorTemplate>() {
                prop_assert_eq!(template.to_string().parse(), Ok(template.clone()));
                for selector in template.render(&registration(None)) {
                    prop_assert!(!selector.kind.is_empty() && !selector.value.is_empty());
                    prop_assert!(!selector.kind.contains(':'));
                    let left_over = selector.to_string().contains(['{', '}', ',', ' ']);
                    prop_assert!(!left_over, "{selector}");
                }
            }
        }
    }
}
