//! What keeps the control plane's structure: its core has no way to do IO, and
//! no folder of either crate has modules that import each other in a circle.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Crates with which a decision could reach the network, a clock of the
/// runtime or the cluster.
const IO: [&str; 12] = [
    "axum",
    "axum-server",
    "h2",
    "hyper",
    "hyper-util",
    "kube",
    "kube-client",
    "notify",
    "reqwest",
    "rustls",
    "tokio",
    "tonic",
];

#[test]
fn the_core_has_no_io_crate_however_far_away() {
    let reached = dependencies("control-plane-core");
    assert!(reached.contains("serde_json"), "{reached:?}");
    let io: Vec<_> = IO.iter().filter(|name| reached.contains(**name)).collect();
    assert!(io.is_empty(), "control-plane-core depends on {io:?}");
    // The look itself sees what it is to see.
    assert!(dependencies("webhook").contains("kube-client"));
}

#[test]
fn the_core_reads_no_clock_and_draws_no_random_bytes() {
    let forbidden = [
        "Timestamp::now",
        "Instant::now",
        "SystemTime::now",
        "rand::fill",
        "std::env",
        "std::fs",
        "std::net::Tcp",
        "tracing::",
    ];
    for (path, text) in sources(&root("webhook/core/src")) {
        let code = code(&text);
        for word in forbidden {
            assert!(!code.contains(word), "{} has {word}", path.display());
        }
    }
}

#[test]
fn no_folder_has_a_circle_of_imports() {
    for folder in ["webhook/core/src", "webhook/src", "shared/src"] {
        let circles = circles(&modules(&root(folder)));
        assert!(circles.is_empty(), "{folder}: {circles:#?}");
    }
}

#[test]
fn a_circle_is_seen_at_every_level() {
    let check = |files: &[(&str, &str)]| {
        let modules = files.iter().map(|(path, text)| {
            let path: Vec<_> = path.split("::").map(str::to_owned).collect();
            (path, (*text).to_owned())
        });
        circles(&modules.collect())
    };
    let none: Vec<Vec<String>> = Vec::new();
    assert_eq!(
        check(&[("a", "use crate::b::X;"), ("b", "struct X;")]),
        none
    );
    assert_eq!(
        check(&[
            ("a", "use crate::b::X;"),
            ("b", "use crate::{c::Y, d};"),
            ("c", "fn f() { crate::a::g() }"),
            ("d", ""),
        ]),
        [["a", "b", "c"]]
    );
    // Two children of one module, by `super` and by a nested list.
    assert_eq!(
        check(&[
            ("m", "mod a; mod b;"),
            ("m::a", "use super::{b::{X, Y}, Z};"),
            ("m::b", "use crate::{m::{a::W}};"),
        ]),
        [["m::a", "m::b"]]
    );
    // A module and its own children are one idea.
    assert_eq!(
        check(&[("m", "mod a; use self::a::X;"), ("m::a", "use super::Y;")]),
        none
    );
    // Tests and comments tie nothing.
    let tests = "#[cfg(test)]\nmod tests { use crate::a::X; }\n// use crate::a::X;";
    assert_eq!(check(&[("a", "use crate::b::Y;"), ("b", tests)]), none);
}

/// Module path → source text.
type Modules = BTreeMap<Vec<String>, String>;

/// The circles among the modules of one folder, for every folder. What a
/// module's children import counts as the module's.
fn circles(modules: &Modules) -> Vec<Vec<String>> {
    let mut arrows: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (from, text) in modules {
        for path in imports(from, &code(text)) {
            // The longest prefix that is a module.
            let Some(to) = (1..=path.len())
                .rev()
                .map(|length| path[..length].to_vec())
                .find(|prefix| modules.contains_key(prefix))
            else {
                continue;
            };
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if common < from.len() && common < to.len() {
                let sibling = |path: &[String]| path[..=common].to_vec();
                arrows
                    .entry(sibling(from))
                    .or_default()
                    .insert(sibling(&to));
            }
        }
    }
    let reach = |start: &Vec<String>| {
        let mut seen = BTreeSet::new();
        let mut left: Vec<_> = arrows.get(start).into_iter().flatten().collect();
        while let Some(next) = left.pop() {
            if seen.insert(next.clone()) {
                left.extend(arrows.get(next).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = arrows.keys().map(|name| (name, reach(name))).collect();
    let in_circle = |a: &Vec<String>, b: &Vec<String>| {
        reached.get(a).is_some_and(|seen| seen.contains(b))
            && reached.get(b).is_some_and(|seen| seen.contains(a))
    };
    let mut found: Vec<Vec<String>> = Vec::new();
    for name in arrows.keys().filter(|name| in_circle(name, name)) {
        let all = arrows.keys().filter(|other| in_circle(name, other));
        let circle: Vec<_> = all.map(|path| path.join("::")).collect();
        if !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

/// The absolute module paths that a text names with `crate`, `super` or `self`.
fn imports(module: &[String], code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| is_word(c) || c == ':' || c == '$') {
                continue;
            }
            let base = match start {
                "crate::" => Vec::new(),
                "super::" => module[..module.len().saturating_sub(1)].to_vec(),
                _ => module.to_vec(),
            };
            tree(&code[at + start.len()..], base, &mut found);
        }
    }
    found
}

/// Adds the paths of one use tree, or of a path in an expression. Returns what
/// is behind it.
fn tree<'t>(text: &'t str, mut base: Vec<String>, found: &mut Vec<Vec<String>>) -> &'t str {
    let mut rest = text.trim_start();
    loop {
        if let Some(list) = rest.strip_prefix('{') {
            rest = list.trim_start();
            while !rest.is_empty() && !rest.starts_with('}') {
                rest = tree(rest, base.clone(), found).trim_start();
                rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
                if rest.starts_with(';') {
                    return rest;
                }
            }
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let word = &rest[..end];
        rest = &rest[end..];
        if word == "super" {
            base.pop();
        } else if !matches!(word, "" | "self") {
            base.push(word.to_owned());
        }
        match rest.strip_prefix("::") {
            Some(next) => rest = next,
            None => {
                found.push(base);
                // An alias ends at the next comma or brace.
                let end = rest.find([',', '}', ';', '{']).unwrap_or(rest.len());
                let alias = rest[..end].trim_start().starts_with("as ");
                return if alias {
                    &rest[end..]
                } else {
                    rest.trim_start_matches('*')
                };
            }
        }
    }
}

/// The text without comments, strings, and items that only tests have.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("//") {
            continue;
        }
        if trimmed.starts_with("#[cfg(test)]") {
            let mut depth = 0;
            for line in lines.by_ref() {
                depth += line.matches('{').count();
                depth = depth.saturating_sub(line.matches('}').count());
                let is_attribute = line.trim_start().starts_with("#[");
                if depth == 0 && !is_attribute {
                    break;
                }
            }
            continue;
        }
        code.push_str(line.split(" // ").next().unwrap_or(line));
        code.push('\n');
    }
    code
}

/// The modules of a crate, by the paths of their files.
fn modules(source: &Path) -> Modules {
    let files = sources(source).into_iter().map(|(path, text)| {
        let relative = path.strip_prefix(source).unwrap().with_extension("");
        let mut module: Vec<_> = relative
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .collect();
        let last = module.last().map(String::as_str);
        if last == Some("mod") || (module.len() == 1 && matches!(last, Some("lib" | "main"))) {
            module.pop();
        }
        (module, text)
    });
    files.filter(|(module, _)| !module.is_empty()).collect()
}

/// The files below a folder, but for those that only tests have.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_test = ["tests", "testing", "fake", "properties", "snapshots"].contains(&&*stem);
        if path.is_dir() && !is_test {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") && !is_test {
            files.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
    files.sort();
    files
}

fn root(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder)
}

/// The names of everything that `package` depends on, near or far, with the
/// features of a build of the workspace, development dependencies left out.
fn dependencies(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges=normal", "--prefix=none"])
        .args(["--format={p}", "--package", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let names = lines.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}
