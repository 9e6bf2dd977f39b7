//! The checks: each reads files and returns findings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::source::{Function, Lines, SourceFile, closing_brace, functions, words};

/// A rule that a line breaks.
#[derive(Debug)]
pub struct Finding {
    path: String,
    line: usize,
    rule: String,
}

impl Finding {
    /// A rule that a whole folder breaks.
    pub fn new(path: &str, rule: impl Into<String>) -> Self {
        Self { path: path.into(), line: 0, rule: rule.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

fn finding(file: &SourceFile, line: usize, rule: impl Into<String>) -> Finding {
    Finding { path: file.path.clone(), line, rule: rule.into() }
}

/// A crate's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    Core,
    Actors,
    Storage,
    Transport,
    Node,
    Server,
    Tests,
}

impl Tree {
    pub const ALL: [Self; 7] = [
        Self::Core,
        Self::Actors,
        Self::Storage,
        Self::Transport,
        Self::Node,
        Self::Server,
        Self::Tests,
    ];

    pub fn folder(self) -> &'static str {
        match self {
            Self::Core => "runtime/core/",
            Self::Actors => "actors/",
            Self::Storage => "storage/",
            Self::Transport => "transport/",
            Self::Node => "runtime/node/",
            Self::Server => "runtime/server/",
            Self::Tests => "tests/",
        }
    }

    /// Packages that it must not depend on; a trailing `*` stands for any ending.
    fn forbidden(self) -> &'static [&'static str] {
        match self {
            Self::Core => &["actix*", "tokio*", "heed*", "quinn*", "rand*", "polyraft*"],
            Self::Actors => &[
                "heed*",
                "quinn*",
                "polyraft",
                "polyraft-storage",
                "polyraft-transport",
                "polyraft-server",
            ],
            Self::Storage => &[
                "actix*",
                "quinn*",
                "raft",
                "polyraft",
                "polyraft-actors",
                "polyraft-transport",
                "polyraft-server",
            ],
            Self::Transport => &[
                "actix*",
                "heed*",
                "raft",
                "polyraft",
                "polyraft-actors",
                "polyraft-storage",
                "polyraft-server",
            ],
            Self::Node => &["axum*", "tonic*", "hyper*", "clap*", "anyhow", "polyraft-server"],
            Self::Server => &["raft", "heed*", "quinn*", "actix*", "polyraft-*"],
            Self::Tests => &[],
        }
    }

    /// The tree that a path is in.
    pub fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tree| path.starts_with(tree.folder()))
    }
}

/// Packages that the manifest's product code depends on, and where it says so.
fn dependency_names(manifest: &str) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    let mut in_dependencies = false;
    for (at, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            let (table, name) = match header.rfind("dependencies.") {
                Some(split) => header.split_at(split + "dependencies".len()),
                None => (header, ""),
            };
            let is_product = table == "dependencies" || table.ends_with(".dependencies");
            in_dependencies = is_product && name.is_empty();
            if is_product && !name.is_empty() {
                names.push((at + 1, name.trim_start_matches('.').to_owned()));
            }
        } else if in_dependencies && !line.starts_with('#') {
            let Some((key, value)) = line.split_once('=') else { continue };
            let renamed = value.split("package = \"").nth(1).and_then(|v| v.split('"').next());
            let key = key.trim().split('.').next().unwrap_or_default();
            names.push((at + 1, renamed.unwrap_or(key).to_owned()));
        }
    }
    names
}

pub fn dependencies(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let Some(tree) = Tree::of(&file.path) else { continue };
        if file.path != format!("{}Cargo.toml", tree.folder()) {
            continue;
        }
        for (line, name) in dependency_names(&file.text) {
            let is_forbidden = tree.forbidden().iter().any(|rule| match rule.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == *rule,
            });
            if is_forbidden {
                findings.push(finding(file, line, format!("must not depend on {name}")));
            }
        }
    }
    findings
}

/// Whether `line` names `wanted`, a path of words, not as a part of longer words.
fn names(line: &str, wanted: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(wanted).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + wanted.len()..].chars().next();
        !before.is_some_and(is_word) && (wanted.ends_with(':') || !after.is_some_and(is_word))
    })
}

pub fn core_names(files: &[SourceFile]) -> Vec<Finding> {
    const NEVER: [&str; 8] =
        ["actix", "tokio", "heed", "quinn", "Instant::now", "SystemTime", "thread_rng", "rand::"];
    let mut findings = Vec::new();
    for file in files.iter().filter(|f| f.is_rust() && f.path.starts_with("runtime/core/src/")) {
        for (at, line) in file.product.lines().enumerate() {
            for name in NEVER.iter().filter(|name| names(line, name)) {
                findings.push(finding(file, at + 1, format!("the core must not name {name}")));
            }
            let has_map = names(line, "HashMap") || names(line, "HashSet");
            let is_fixed = line.contains("BuildHasher") || line.contains("FixedState");
            if has_map && !is_fixed && !line.trim_start().starts_with("use ") {
                findings.push(finding(file, at + 1, "a map with random state in the core"));
            }
        }
    }
    findings
}

pub fn unbounded_sends(files: &[SourceFile]) -> Vec<Finding> {
    let elsewhere = files.iter().filter(|f| f.is_rust() && f.path != "actors/src/mailbox.rs");
    let mut findings = Vec::new();
    for file in elsewhere {
        for (at, line) in file.code.lines().enumerate() {
            if line.contains("do_send(") {
                findings.push(finding(file, at + 1, "do_send ignores the mailbox's capacity"));
            }
        }
    }
    findings
}

const FUNCTION_LINES_MAX: usize = 70;
const FUNCTION_LINES_P90_MAX: usize = 30;
const FILE_LINES_MAX: usize = 800;

/// Lengths of the product's functions in a tree.
pub fn function_lengths(files: &[SourceFile], tree: Tree) -> Vec<usize> {
    let product = files.iter().filter(|f| Tree::of(&f.path) == Some(tree));
    let product =
        product.filter(|f| !f.path.contains("/tests/") && !f.path.starts_with("tests/tests/"));
    product.flat_map(|f| functions(&f.product)).map(|f| f.lines).collect()
}

/// The length that nine of ten do not exceed; `None` of nothing.
pub fn percentile_90(lengths: &[usize]) -> Option<usize> {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * 9).div_ceil(10);
    sorted.get(rank.checked_sub(1)?).copied()
}

pub fn lengths(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|f| f.is_rust()) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            let rule = format!("a file of more than {FILE_LINES_MAX} lines");
            findings.push(finding(file, lines, rule));
        }
        for function in functions(&file.product) {
            if function.lines > FUNCTION_LINES_MAX {
                let rule = format!("{} has {} lines", function.name, function.lines);
                findings.push(finding(file, function.line, rule));
            }
        }
    }
    for tree in Tree::ALL {
        let p90 = percentile_90(&function_lengths(files, tree)).unwrap_or(0);
        if p90 > FUNCTION_LINES_P90_MAX {
            let rule = format!("one function in ten has {p90} lines or more");
            findings.push(Finding::new(tree.folder(), rule));
        }
    }
    findings
}

/// Where the modules that `code`, a view of `file`, declares may be.
fn declared_modules(file: &SourceFile, code: &str, is_root: bool) -> Vec<String> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let own = match name.strip_suffix(".rs") {
        Some(stem) if !is_root && stem != "mod" => format!("{folder}/{stem}"),
        _ => folder.to_owned(),
    };
    let lines: Vec<_> = file.text.lines().collect();
    let line_ends = Lines::of(code);
    let mut modules = Vec::new();
    let found: Vec<_> = words(code).collect();
    for pair in found.windows(2) {
        let [(at, "mod"), (name_at, name)] = *pair else { continue };
        if !code[name_at + name.len()..].trim_start().starts_with(';') {
            continue;
        }
        let line = line_ends.line_of(at);
        let above = lines[..line - 1].iter().rev().take_while(|l| l.trim().starts_with("#["));
        let path = above.filter_map(|l| l.split("#[path = \"").nth(1)?.split('"').next()).next();
        match path {
            Some(path) => modules.push(format!("{folder}/{path}")),
            None => modules.extend([format!("{own}/{name}.rs"), format!("{own}/{name}/mod.rs")]),
        }
    }
    modules
}

/// Whether cargo builds `path`, a path within its package, without a `mod`.
fn is_root(path: &str, manifest: &str) -> bool {
    let in_folder = |folder: &str| {
        path.strip_prefix(folder).is_some_and(|rest| {
            !rest.contains('/') || rest.ends_with("/main.rs") && rest.matches('/').count() == 1
        })
    };
    ["src/lib.rs", "src/main.rs", "build.rs"].contains(&path)
        || ["src/bin/", "tests/", "benches/", "examples/", "fuzz_targets/"]
            .iter()
            .any(|folder| in_folder(folder))
        || manifest.contains(&format!("path = \"{path}\""))
}

/// The files that cargo reaches through the modules declared in a `view` of each.
fn reachable(files: &[SourceFile], view: fn(&SourceFile) -> &str) -> BTreeSet<String> {
    let by_path: BTreeMap<_, _> = files.iter().map(|f| (f.path.as_str(), f)).collect();
    let manifests: Vec<_> = files.iter().filter(|f| f.name() == "Cargo.toml").collect();
    let package_of = |path: &str| {
        let folders = manifests.iter().map(|m| (m.path.trim_end_matches("Cargo.toml"), *m));
        folders.filter(|(folder, _)| path.starts_with(folder)).max_by_key(|(f, _)| f.len())
    };
    let roots = files.iter().filter(|f| f.is_rust()).filter(|f| {
        package_of(&f.path).is_some_and(|(folder, m)| is_root(&f.path[folder.len()..], &m.text))
    });
    let mut queue: Vec<_> = roots.map(|f| (f, true)).collect();
    let mut reached = BTreeSet::new();
    while let Some((file, root)) = queue.pop() {
        if reached.insert(file.path.clone()) {
            let modules = declared_modules(file, view(file), root).into_iter();
            queue.extend(modules.filter_map(|p| Some((*by_path.get(p.as_str())?, false))));
        }
    }
    reached
}

/// Blanks the product view of files that are declared under `#[cfg(test)]` alone.
pub fn tell_tests_apart(mut files: Vec<SourceFile>) -> Vec<SourceFile> {
    let all = reachable(&files, |file| &file.code);
    let product = reachable(&files, |file| &file.product);
    for file in &mut files {
        if all.contains(&file.path) && !product.contains(&file.path) {
            file.product.clear();
        }
    }
    files
}

pub fn dead_files(files: &[SourceFile]) -> Vec<Finding> {
    let alive = reachable(files, |file| &file.code);
    let dead = files.iter().filter(|f| f.is_rust() && !alive.contains(&f.path));
    dead.map(|f| finding(f, 1, "no module declares this file")).collect()
}

pub fn file_names(files: &[SourceFile]) -> Vec<Finding> {
    const EMPTY: [&str; 9] =
        ["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc", "shared"];
    let owns_nothing = |path: &str| {
        let words = path.trim_end_matches(".rs").split(['/', '_', '-']);
        words.into_iter().any(|word| EMPTY.contains(&word))
    };
    let bad = files.iter().filter(|f| f.is_rust() && owns_nothing(&f.path));
    bad.map(|f| finding(f, 1, "name the file for what it owns")).collect()
}

/// Lines of every file's text for which `rule` has something to say.
fn lines_with(files: &[SourceFile], rule: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        for (at, line) in file.text.lines().enumerate() {
            findings.extend(rule(line).map(|rule| finding(file, at + 1, rule)));
        }
    }
    findings
}

pub fn leftovers(files: &[SourceFile]) -> Vec<Finding> {
    const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    lines_with(files, |line| {
        let mark = MARKS.into_iter().find(|mark| names(line, mark))?;
        Some(format!("{mark}: do it, or write down why not"))
    })
}

pub fn unwraps(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|f| f.is_rust() && !f.is_test()) {
        for (at, line) in file.product.lines().enumerate() {
            if line.contains(".unwrap()") {
                findings.push(finding(file, at + 1, "expect(\"why it cannot fail\") instead"));
            }
        }
    }
    findings
}

pub fn machine_paths(files: &[SourceFile]) -> Vec<Finding> {
    const ROOTS: [&str; 4] = [
        concat!("/", "home/"),
        concat!("/", "root/"),
        concat!("/", "work/"),
        concat!("/", "Users/"),
    ];
    lines_with(files, |line| {
        let root = ROOTS.into_iter().find(|root| {
            line.match_indices(root).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || "._-/}*~)".contains(c))
            })
        })?;
        Some(format!("a path below {root} exists on some machine only"))
    })
}

pub fn tabs(files: &[SourceFile]) -> Vec<Finding> {
    lines_with(files, |line| line.contains('\t').then(|| "a tab".into()))
}

/// Tests of the core's logic, which need no runtime: those in `runtime/core` and the golden traces.
/// And the tests of the whole tree that need one: they, or a function of their file that they call,
/// block on one or are run by one.
pub fn test_counts(files: &[SourceFile]) -> (usize, usize) {
    let rust = || files.iter().filter(|f| f.is_rust());
    let core = rust().filter(|f| f.path.starts_with("runtime/core/"));
    let units: usize = core.map(|f| f.code.matches("#[test]").count()).sum();
    let traces: usize = rust().map(|f| listed_traces(&f.code)).sum();
    (units + traces, rust().map(|f| runtime_tests(&f.code)).sum())
}

/// Names in a `traces! { … }`, each a test.
fn listed_traces(code: &str) -> usize {
    const LIST: &str = "\ntraces! {";
    let Some(open) = code.find(LIST).map(|at| at + LIST.len() - 1) else { return 0 };
    let close = closing_brace(code.as_bytes(), open).unwrap_or(open);
    words(&code[open..close]).count()
}

fn runtime_tests(code: &str) -> usize {
    const ATTRIBUTES: [&str; 3] = ["#[tokio::test", "#[actix::test", "#[actix_rt::test"];
    let run: usize = ATTRIBUTES.iter().map(|attribute| code.matches(attribute).count()).sum();
    let all = functions(code);
    let body = |f: &Function| &code[f.body.clone()];
    let blocks = |f: &Function| body(f).contains("block_on(") || body(f).contains("Runtime::new");
    let blocking: Vec<_> = all.iter().filter(|f| blocks(f)).map(|f| f.name.as_str()).collect();
    let calls = |f: &Function| {
        let called: BTreeSet<_> = words(body(f)).map(|(_, word)| word).collect();
        blocking.iter().any(|name| called.contains(name))
    };
    let tests = code.match_indices("#[test]");
    let tests = tests.filter_map(|(at, _)| all.iter().find(|f| f.body.start > at));
    run + tests.filter(|f| blocks(f) || calls(f)).count()
}

pub fn test_ratio(files: &[SourceFile]) -> Vec<Finding> {
    const PER_RUNTIME_TEST_MIN: usize = 5;
    let (without, with) = test_counts(files);
    if without >= PER_RUNTIME_TEST_MIN * with {
        return Vec::new();
    }
    let rule = format!("{without} core tests for {with} that need a runtime; 5 to 1 at least");
    vec![Finding { path: "runtime/core".into(), line: 0, rule }]
}

/// Joins a link to the folder of the document that holds it.
fn resolve(document: &str, target: &str) -> String {
    let mut parts: Vec<_> = document.split('/').collect();
    parts.pop();
    if target.starts_with('/') {
        parts.clear();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

pub fn links(files: &[SourceFile], exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|f| f.path.ends_with(".md")) {
        let mut in_code = false;
        for (at, line) in file.text.lines().enumerate() {
            in_code ^= line.trim_start().starts_with("```");
            if in_code {
                continue;
            }
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let path = target.split('#').next().unwrap_or_default();
                let is_file = !path.is_empty() && !path.contains(':');
                if is_file && !exists(&resolve(&file.path, path)) {
                    findings.push(finding(file, at + 1, format!("{target} does not exist")));
                }
            }
        }
    }
    findings
}
