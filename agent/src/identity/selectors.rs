//! The selectors that a registration entry is found by. PURE: the administrator's
//! template is parsed once, a project's [`Registration`] flows in, selectors
//! flow out.

use std::fmt;
use std::str::FromStr;

use super::Registration;

/// The default: what a pod of the project's service account would have.
pub const DEFAULT: &str = "k8s:ns:{namespace},k8s:sa:{service_account}";

/// Selectors with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<(String, Vec<Piece>)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Namespace,
    ServiceAccount,
    Project,
}

/// A selector as SPIRE has it: `type:value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// All before the first colon.
    pub kind: String,
    /// All behind it.
    pub value: String,
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

/// Why a template cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// There is no colon, or nothing on one side of it.
    #[error("`{0}` is not of the form type:value")]
    Form(String),
    /// A placeholder that is not known, or is in the type.
    #[error(
        "`{0}`: the placeholders are {{namespace}}, {{service_account}} and {{project}}, in the value"
    )]
    Placeholder(String),
}

/// The template needs the project, and there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("--spire-selectors has {{project}}, and the binding has no project")]
pub struct NoProject;

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        text.split(',')
            .map(|selector| {
                let selector = selector.trim();
                let form = || TemplateError::Form(selector.to_owned());
                let (kind, value) = selector.split_once(':').ok_or_else(form)?;
                if kind.is_empty() || value.is_empty() {
                    return Err(form());
                }
                let placeholder = || TemplateError::Placeholder(selector.to_owned());
                if kind.contains(['{', '}']) {
                    return Err(placeholder());
                }
                let value = pieces(value).ok_or_else(placeholder)?;
                Ok((kind.to_owned(), value))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// `None` when a brace has no partner or a placeholder is unknown.
fn pieces(mut value: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    while let Some(brace) = value.find(['{', '}']) {
        let (text, rest) = value.split_at(brace);
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        let (name, rest) = rest.strip_prefix('{')?.split_once('}')?;
        pieces.push(match name {
            "namespace" => Piece::Namespace,
            "service_account" => Piece::ServiceAccount,
            "project" => Piece::Project,
            _ => return None,
        });
        value = rest;
    }
    if !value.is_empty() {
        pieces.push(Piece::Text(value.to_owned()));
    }
    Some(pieces)
}

impl Template {
    /// The selectors of a project. A value is put in as it is: it was parsed
    /// before, and cannot become a selector of its own.
    ///
    /// # Errors
    /// [`NoProject`].
    pub fn selectors(&self, of: &Registration) -> Result<Vec<Selector>, NoProject> {
        let fill = |piece: &Piece| match piece {
            Piece::Text(text) => Ok(text.clone()),
            Piece::Namespace => Ok(of.namespace.clone()),
            Piece::ServiceAccount => Ok(of.service_account.clone()),
            Piece::Project => of.project.clone().ok_or(NoProject),
        };
        self.0
            .iter()
            .map(|(kind, value)| {
                Ok(Selector {
                    kind: kind.clone(),
                    value: value.iter().map(fill).collect::<Result<_, _>>()?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn render(template: &str, project: Option<&str>) -> String {
        let registration = Registration {
            namespace: "argocd".into(),
            service_account: "argocd-project-x".into(),
            project: project.map(Into::into),
        };
        match template.parse::<Template>() {
            Ok(template) => match template.selectors(&registration) {
                Ok(selectors) => selectors
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" "),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_template_becomes_selectors() {
        let check = |template, expected: &str| {
            assert_eq!(render(template, Some("a,b:c")), expected, "{template}");
        };
        check(DEFAULT, "k8s:ns:argocd k8s:sa:argocd-project-x");
        check(
            "argocd-project:{namespace}/{project}",
            "argocd-project:argocd/a,b:c",
        );
        check("a:b, c:d{project}e", "a:b c:da,b:ce");
        check("", "`` is not of the form type:value");
        check("a:b,", "`` is not of the form type:value");
        check("k8s", "`k8s` is not of the form type:value");
        check(":ns", "`:ns` is not of the form type:value");
        for bad in [
            "a:{nothing}",
            "a:{project",
            "a:project}",
            "{project}:a",
            "a:{{project}}",
        ] {
            assert!(
                render(bad, None).contains("the placeholders are {namespace}"),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_missing_project_is_named() {
        assert_eq!(
            render("a:{project}", None),
            "--spire-selectors has {project}, and the binding has no project"
        );
        assert_eq!(
            render(DEFAULT, None),
            "k8s:ns:argocd k8s:sa:argocd-project-x"
        );
    }

    proptest! {
        #[test]
        fn as_many_selectors_come_out_as_were_written(text in "[a{}:,projectns]{0,30}", project in "\\PC*") {
            if let Ok(template) = text.parse::<Template>() {
                let registration = Registration {
                    namespace: "n".into(), service_account: "s".into(), project: Some(project),
                };
                let selectors = template.selectors(&registration).unwrap();
                prop_assert_eq!(selectors.len(), text.split(',').count());
                prop_assert!(selectors.iter().all(|it| !it.kind.is_empty() && !it.kind.contains(':')));
            }
        }
    }
}
