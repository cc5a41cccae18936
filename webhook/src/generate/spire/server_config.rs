//! The SPIRE server's configuration: HCL or JSON text flows in, settings by
//! their path flow out. Pure.
//!
//! This is no HCL implementation. It reads what configurations of SPIRE are
//! made of (blocks, assignments, lists, strings, comments, heredocs), in the
//! same way for both notations, and passes over what it does not know. JSON
//! and HCL put lists around blocks in different places, so lists leave no
//! trace in a path.

use std::{iter::Peekable, str::Chars};

use serde_json::Value;

/// As deep as a configuration may be; SPIRE's own is eight levels deep.
const DEEPEST: usize = 64;

/// Why a text is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Unreadable {
    line: usize,
    reason: &'static str,
}

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig(Vec<(Vec<String>, String)>);

impl ServerConfig {
    /// Reads HCL, JSON, or a ConfigMap (YAML or JSON) with either in its data.
    ///
    /// # Errors
    /// When brackets or quotes do not match, or a value is missing.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        match of_config_map(text) {
            Some(inner) => leaves(&inner),
            None => leaves(text),
        }
        .map(Self)
    }

    /// Whether nothing is set in a section.
    pub fn is_without(&self, section: &str) -> bool {
        !self
            .0
            .iter()
            .any(|(at, _)| at.first().is_some_and(|at| at == section))
    }

    /// The value at a path, if it is set; the last one counts.
    pub fn value(&self, path: &[&str]) -> Option<&str> {
        self.values(path).pop()
    }

    /// Every value at a path, such as the entries of a list.
    pub fn values(&self, path: &[&str]) -> Vec<&str> {
        let found = self.0.iter().filter(|(at, _)| at == path);
        found.map(|(_, value)| value.as_str()).collect()
    }
}

fn of_config_map(text: &str) -> Option<String> {
    let options = serde_saphyr::options! { with_snippet: false };
    let object: Value = serde_saphyr::from_str_with_options(text, options).ok()?;
    if object["kind"] != "ConfigMap" {
        return None;
    }
    object["data"]["server.conf"].as_str().map(str::to_owned)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// One of `{}[]=:,`.
    Mark(char),
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
}

impl Lexer<'_> {
    fn bump(&mut self) -> Option<char> {
        let c = self.rest.next();
        self.line += usize::from(c == Some('\n'));
        c
    }

    fn skip_while(&mut self, keep: impl Fn(char) -> bool) {
        while self.rest.peek().is_some_and(|&c| keep(c)) {
            self.bump();
        }
    }

    fn error(&self, reason: &'static str) -> Unreadable {
        Unreadable {
            line: self.line,
            reason,
        }
    }

    fn token(&mut self) -> Result<Option<Token>, Unreadable> {
        loop {
            self.skip_while(char::is_whitespace);
            let Some(&c) = self.rest.peek() else {
                return Ok(None);
            };
            match c {
                '#' => self.skip_while(|c| c != '\n'),
                '/' => self.comment()?,
                '"' => return self.string().map(|text| Some(Token::Word(text))),
                '<' => return self.heredoc().map(|text| Some(Token::Word(text))),
                '{' | '}' | '[' | ']' | '=' | ':' | ',' => {
                    self.bump();
                    return Ok(Some(Token::Mark(c)));
                }
                _ => return Ok(Some(Token::Word(self.bare()))),
            }
        }
    }

    /// After a slash, which begins nothing else in SPIRE's configuration.
    fn comment(&mut self) -> Result<(), Unreadable> {
        self.bump();
        match self.bump() {
            Some('/') => self.skip_while(|c| c != '\n'),
            Some('*') => loop {
                self.skip_while(|c| c != '*');
                match (self.bump(), self.rest.peek()) {
                    (None, _) => return Err(self.error("a comment has no end")),
                    (_, Some('/')) => {
                        self.bump();
                        return Ok(());
                    }
                    _ => {}
                }
            },
            _ => return Err(self.error("a slash outside of quotes")),
        }
        Ok(())
    }

    fn string(&mut self) -> Result<String, Unreadable> {
        let unended = self.error("a string has no end");
        self.bump();
        let mut text = String::new();
        loop {
            match self.bump() {
                Some('"') => return Ok(text),
                Some('\\') => match self.bump() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(c) => text.push(c),
                    None => return Err(unended),
                },
                Some('\n') | None => return Err(unended),
                Some(c) => text.push(c),
            }
        }
    }

    /// `<<END` to a line that is `END`.
    fn heredoc(&mut self) -> Result<String, Unreadable> {
        let unended = self.error("a heredoc has no end");
        self.skip_while(|c| matches!(c, '<' | '-'));
        let end = self.line_of_text();
        let mut text = String::new();
        while self.rest.peek().is_some() {
            let line = self.line_of_text();
            if line.trim() == end.trim() {
                return Ok(text);
            }
            text.push_str(&line);
            text.push('\n');
        }
        Err(unended)
    }

    fn line_of_text(&mut self) -> String {
        let mut line = String::new();
        while let Some(c) = self.bump().filter(|&c| c != '\n') {
            line.push(c);
        }
        line
    }

    fn bare(&mut self) -> String {
        let mut text = String::new();
        let ends = |c: char| c.is_whitespace() || "{}[]=:,\"#".contains(c);
        while let Some(c) = self.rest.next_if(|&c| !ends(c)) {
            text.push(c);
        }
        text
    }
}

type Leaves = Vec<(Vec<String>, String)>;

struct Parser<'a> {
    lexer: Lexer<'a>,
    next: Option<Token>,
    path: Vec<String>,
    found: Leaves,
}

fn leaves(text: &str) -> Result<Leaves, Unreadable> {
    let mut lexer = Lexer {
        rest: text.chars().peekable(),
        line: 1,
    };
    let next = lexer.token()?;
    let mut parser = Parser {
        lexer,
        next,
        path: Vec::new(),
        found: Vec::new(),
    };
    // JSON has braces around everything.
    let is_json = parser.accept('{')?;
    parser.members(0)?;
    if is_json && !parser.accept('}')? {
        return Err(parser.lexer.error("a brace has no end"));
    }
    match parser.next {
        None => Ok(parser.found),
        Some(_) => Err(parser.lexer.error("a bracket too many")),
    }
}

impl Parser<'_> {
    fn advance(&mut self) -> Result<Option<Token>, Unreadable> {
        let next = self.lexer.token()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn accept(&mut self, mark: char) -> Result<bool, Unreadable> {
        let is_there = self.next == Some(Token::Mark(mark));
        if is_there {
            self.advance()?;
        }
        Ok(is_there)
    }

    /// `key = value`, `"key": value` and `key "label" { members }`, until
    /// something else comes.
    fn members(&mut self, depth: usize) -> Result<(), Unreadable> {
        while let Some(Token::Word(_)) = self.next {
            let outer = self.path.len();
            while let Some(Token::Word(_)) = self.next {
                if let Some(Token::Word(key)) = self.advance()? {
                    self.path.push(key);
                }
            }
            if !self.accept('=')? {
                self.accept(':')?;
            }
            self.value(depth + 1)?;
            self.path.truncate(outer);
            self.accept(',')?;
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), Unreadable> {
        if depth > DEEPEST {
            return Err(self.lexer.error("brackets are too deep"));
        }
        if self.accept('{')? {
            self.members(depth)?;
            return match self.accept('}')? {
                true => Ok(()),
                false => Err(self.lexer.error("a brace has no end")),
            };
        }
        if self.accept('[')? {
            while !self.accept(']')? {
                self.value(depth + 1)?;
                self.accept(',')?;
            }
            return Ok(());
        }
        match self.advance()? {
            Some(Token::Word(value)) => {
                self.found.push((self.path.clone(), value));
                Ok(())
            }
            _ => Err(self.lexer.error("a value is missing")),
        }
    }
}

#[cfg(test)]
mod tests;
