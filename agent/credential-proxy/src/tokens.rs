//! Registry tokens by binding and scope, until shortly before they expire.
//! Pure: the caller brings the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use secrecy::SecretString;

use crate::parse::target::Authority;

/// What the token specification says where an answer has no `expires_in`.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// No token is kept longer.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
/// More tokens than this are never kept: the oldest ends go.
const MOST: usize = 1024;

/// Whose token, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// The binding whose credential fetched it.
    pub binding: String,
    /// Its project and host then: a Secret may move, and its tokens stay behind.
    pub project: Option<String>,
    /// The host that gets the token.
    pub target: Authority,
    /// The repository; none for the registry itself.
    pub repository: Option<String>,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Tokens(HashMap<TokenKey, Token>);

#[derive(Debug)]
struct Token {
    token: SecretString,
    until: Instant,
}

impl Tokens {
    /// The token, while it may be used.
    pub fn find(&self, key: &TokenKey, now: Instant) -> Option<SecretString> {
        let found = self.0.get(key).filter(|it| now < it.until)?;
        Some(found.token.clone())
    }

    /// Keeps a token for nine tenths of its `life`, an hour at most.
    pub fn keep(&mut self, key: TokenKey, token: SecretString, life: Duration, now: Instant) {
        self.0.retain(|_, it| now < it.until);
        if self.0.len() >= MOST
            && let Some(first) = self.0.iter().min_by_key(|(_, it)| it.until)
        {
            let first = first.0.clone();
            self.0.remove(&first);
        }
        let until = now + life.min(LONGEST_LIFE) * 9 / 10;
        self.0.insert(key, Token { token, until });
    }

    /// Drops a token that the registry refused, unless it was replaced since.
    pub fn refused(&mut self, key: &TokenKey, token: &SecretString) {
        use secrecy::ExposeSecret;
        if let Some(kept) = self.0.get(key)
            && kept.token.expose_secret() == token.expose_secret()
        {
            self.0.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn key(binding: &str, repository: &str) -> TokenKey {
        TokenKey {
            binding: binding.into(),
            project: None,
            target: Authority::parse("quay.test").unwrap(),
            repository: Some(repository.into()),
        }
    }

    #[test]
    fn a_token_serves_its_binding_and_scope_until_shortly_before_its_end() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let life = Duration::from_secs(100);
        tokens.keep(key("a", "x"), "one".into(), life, now);
        let find = |tokens: &Tokens, key: &TokenKey, after| {
            let found = tokens.find(key, now + Duration::from_secs(after))?;
            Some(found.expose_secret().to_owned())
        };
        assert_eq!(find(&tokens, &key("a", "x"), 89).as_deref(), Some("one"));
        assert_eq!(find(&tokens, &key("a", "x"), 90), None);
        assert_eq!(find(&tokens, &key("b", "x"), 0), None);
        assert_eq!(find(&tokens, &key("a", "y"), 0), None);

        tokens.refused(&key("a", "x"), &"another".into());
        assert!(find(&tokens, &key("a", "x"), 0).is_some());
        tokens.refused(&key("a", "x"), &"one".into());
        assert!(find(&tokens, &key("a", "x"), 0).is_none());
    }

    #[test]
    fn the_cache_is_bounded_and_no_life_is_endless() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        for at in 0..2 * MOST {
            tokens.keep(key("a", &at.to_string()), "t".into(), Duration::MAX, now);
        }
        assert_eq!(tokens.0.len(), MOST);
        assert!(tokens.0.values().all(|it| it.until <= now + LONGEST_LIFE));
    }
}
