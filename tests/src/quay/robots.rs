//! Robot accounts: who may federate, what they may pull and push. Pure.

use super::tokens::Access;

/// A robot account of the registry.
#[derive(Clone, Debug)]
pub struct Robot {
    /// Full name, `namespace+shortname`.
    pub name: String,
    /// The one identity that may ask for this robot's token; `None` is a robot without federated login.
    pub federation: Option<Federation>,
    /// What it may pull: a prefix when it ends in `/` (`prod/`), else one repository (`prod/charts/demo`).
    pub pull: Vec<String>,
    /// What it may push, in the same form. Pushing does not imply pulling.
    pub push: Vec<String>,
    /// A fixed password, as robots without federation have. Tests give one to publishers only.
    pub password: Option<String>,
}

/// An issuer and a subject that a robot trusts.
#[derive(Clone, Debug)]
pub struct Federation {
    /// The `iss` of the identity token; its keys are found below `<issuer>/.well-known/`.
    pub issuer: String,
    /// The exact `sub` of the identity token.
    pub subject: String,
}

impl Robot {
    /// A robot that pulls below `pull` and logs in by federation only.
    pub fn federated(
        name: impl Into<String>,
        issuer: impl Into<String>,
        subject: impl Into<String>,
        pull: &[&str],
    ) -> Self {
        Self {
            name: name.into(),
            federation: Some(Federation {
                issuer: issuer.into(),
                subject: subject.into(),
            }),
            pull: owned(pull),
            push: Vec::new(),
            password: None,
        }
    }

    /// A robot with a fixed password that pulls and pushes below `below`: the tests' publisher.
    pub fn publisher(name: impl Into<String>, password: impl Into<String>, below: &[&str]) -> Self {
        Self {
            name: name.into(),
            federation: None,
            pull: owned(below),
            push: owned(below),
            password: Some(password.into()),
        }
    }

    /// Whether it may pull this repository, or file.
    pub(crate) fn may_read(&self, repository: &str) -> bool {
        covers(&self.pull, repository)
    }

    /// The part of the requested scopes that this robot holds; the rest is dropped silently, as Quay does.
    pub(super) fn grant(&self, requested: &[Access]) -> Vec<Access> {
        requested
            .iter()
            .filter_map(|access| {
                let mut access = access.clone();
                access.actions.retain(|action| match action.as_str() {
                    "pull" => covers(&self.pull, &access.name),
                    "push" => covers(&self.push, &access.name),
                    _ => false,
                });
                (!access.actions.is_empty()).then_some(access)
            })
            .collect()
    }
}

/// The repositories that a token request asks for. `scopes` are the raw query values: each may hold
/// several scopes separated by spaces; what is no `repository:<name>:<actions>` is ignored.
pub(crate) fn parse_scopes<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Vec<Access> {
    scopes
        .into_iter()
        .flat_map(str::split_whitespace)
        .filter_map(|scope| {
            let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
            Some(Access {
                kind: "repository",
                name: name.to_owned(),
                actions: actions.split(',').map(str::to_owned).collect(),
            })
        })
        .collect()
}

/// Whether one of the rules of [`Robot::pull`] covers the repository.
pub(crate) fn covers(rules: &[String], repository: &str) -> bool {
    rules.iter().any(|rule| {
        if rule.ends_with('/') {
            repository.starts_with(rule.as_str())
        } else {
            repository == rule
        }
    })
}

fn owned(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(scope: &str) -> Vec<String> {
        let robot = Robot {
            push: vec!["prod/charts/demo".into()],
            ..Robot::federated("prod+argocd", "https://issuer", "spiffe://td/x", &["prod/"])
        };
        robot
            .grant(&parse_scopes([scope]))
            .into_iter()
            .map(|access| format!("{}:{}", access.name, access.actions.join(",")))
            .collect()
    }

    #[test]
    fn denied_scopes_are_dropped_silently() {
        assert_eq!(
            granted("repository:prod/charts/demo:pull,push"),
            ["prod/charts/demo:pull,push"]
        );
        assert_eq!(
            granted("repository:prod/charts/other:pull,push"),
            ["prod/charts/other:pull"]
        );
        assert_eq!(
            granted("repository:staging/x:pull repository:prod/y:pull"),
            ["prod/y:pull"]
        );
        assert!(granted("repository:production/x:pull").is_empty());
        assert!(granted("registry:catalog:*").is_empty());
    }
}
