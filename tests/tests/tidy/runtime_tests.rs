//! Which tests need a runtime, and which are of the core's logic.
//!
//! ```text
//! test ─calls→ function ─calls→ … ─calls→ one that blocks on a runtime or builds one
//! ```
//!
//! Calls are followed by name through the whole tree, test helpers and product alike: `name(…)` to
//! functions of the same file, else of the same crate; `Type::name(…)` to that type's, anywhere;
//! `.name(…)` to methods of the crate's test helpers whose type the caller's file names. A test that a macro writes counts as often as
//! the macro writes it.
//! Not here: the types of values, traits, imports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::checks::{Finding, Tree};
use super::source::{Function, SourceFile, closing_brace, functions, last_word, words};

/// Core tests for ten tests that need a runtime, at least. Only ever raised.
const PER_TEN_RUNTIME_TESTS_MIN: usize = 50;
const RUN_BY_ONE: [&str; 3] = ["#[tokio::test", "#[actix::test", "#[actix_rt::test"];
const STARTS_ONE: [&str; 5] =
    ["block_on(", "Runtime::new(", "System::new(", "Builder::new_current_", "Builder::new_multi_"];

/// Tests of the whole tree, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestCounts {
    /// Unit tests in `runtime/core`.
    pub core: usize,
    /// Golden traces.
    pub traces: usize,
    /// Tests that need a runtime, by file.
    pub runtime: BTreeMap<String, usize>,
}

impl TestCounts {
    /// Tests that need a runtime.
    pub fn with_runtime(&self) -> usize {
        self.runtime.values().sum()
    }
}

/// A function, and where it is.
struct Definition<'a> {
    file: &'a SourceFile,
    /// Every word of the file's code.
    names: Rc<BTreeSet<&'a str>>,
    /// The type that it is a method of.
    owner: Option<&'a str>,
    function: Function,
}

impl Definition<'_> {
    fn body(&self) -> &str {
        &self.file.code[self.function.body.clone()]
    }

    /// Whether only tests use it.
    fn is_of_tests(&self) -> bool {
        let at = self.function.body.start;
        self.file.is_test() || self.file.product.as_bytes().get(at) != Some(&b'{')
    }
}

/// Counts the tests of `files`.
pub fn test_counts(files: &[SourceFile]) -> TestCounts {
    let rust: Vec<_> = files.iter().filter(|f| f.is_rust()).collect();
    let definitions: Vec<_> = rust.iter().flat_map(|file| definitions(file)).collect();
    let needy = needy(&definitions);
    let mut counts = TestCounts::default();
    for file in rust {
        let listed = listed_tests(&file.code);
        let written = written_tests(&file.code);
        if file.path.starts_with("runtime/core/") {
            counts.core += written.len();
        }
        counts.traces += listed.iter().filter(|(list, ..)| *list == "traces").count();
        let needs_one = |name: &str, from: usize| {
            let own = definitions.iter().enumerate();
            let mut own = own.filter(|(_, d)| d.file.path == file.path && d.function.name == name);
            own.find(|(_, d)| d.function.body.start > from)
                .is_some_and(|(at, _)| needy.contains(&at))
        };
        let run: usize = RUN_BY_ONE.iter().map(|mark| file.code.matches(mark).count()).sum();
        let written = written.iter().filter(|(from, name)| needs_one(name, *from)).count();
        let listed = listed.iter().filter(|(_, name, _)| needs_one(name, 0));
        let all = run + written + listed.map(|(.., times)| times).sum::<usize>();
        if all > 0 {
            counts.runtime.insert(file.path.clone(), all);
        }
    }
    counts
}

/// A finding with every count, if the core's tests are too few.
pub fn test_ratio(files: &[SourceFile]) -> Vec<Finding> {
    let counts = test_counts(files);
    let (without, with) = (counts.core + counts.traces, counts.with_runtime());
    if without * 10 >= PER_TEN_RUNTIME_TESTS_MIN * with {
        return Vec::new();
    }
    let TestCounts { core, traces, runtime } = counts;
    vec![Finding::new(
        "runtime/core",
        format!(
            "{core} unit tests and {traces} traces of the core for {with} tests that need a runtime; \
             {PER_TEN_RUNTIME_TESTS_MIN} to 10 at least: {runtime:?}"
        ),
    )]
}

fn definitions(file: &SourceFile) -> Vec<Definition<'_>> {
    let owners = owners(&file.code);
    let owner = |function: &Function| {
        let mut around = owners.iter().filter(|(range, _)| range.contains(&function.body.start));
        around.next_back().map(|(_, owner)| *owner)
    };
    let all = functions(&file.code).into_iter();
    let names = Rc::new(words(&file.code).map(|(_, word)| word).collect::<BTreeSet<_>>());
    let define = |function| {
        let (owner, names) = (owner(&function), names.clone());
        Definition { file, names, owner, function }
    };
    all.map(define).collect()
}

/// Bodies of `impl` blocks, with the name of their type.
fn owners(code: &str) -> Vec<(std::ops::Range<usize>, &str)> {
    let starts = words(code).filter(|(at, word)| {
        let line = || code[..*at].rfind('\n').map_or(0, |end| end + 1);
        *word == "impl" && code[line()..*at].trim().is_empty()
    });
    let blocks = starts.filter_map(|(at, _)| {
        let open = at + code[at..].find('{')?;
        let header = code[at + 4..open].split(" where ").next()?;
        let subject = header.rsplit(" for ").next()?.trim();
        // `<T: Bound> Type<T>`: what stands outside of angle brackets.
        let mut depth = 0;
        let outside = |(_, c): &(usize, char)| {
            depth += i32::from(*c == '<') - i32::from(*c == '>');
            depth == 0 && (c.is_alphanumeric() || *c == '_')
        };
        let first = subject.char_indices().find(outside)?.0;
        let name = words(&subject[first..]).next()?.1;
        Some((open..closing_brace(code.as_bytes(), open)?, name))
    });
    blocks.collect()
}

/// The definitions that need a runtime: positions in the list.
fn needy(definitions: &[Definition<'_>]) -> BTreeSet<usize> {
    let mut callers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, definition) in definitions.iter().enumerate() {
        by_name.entry(&definition.function.name).or_default().push(at);
    }
    for (at, definition) in definitions.iter().enumerate() {
        for callee in callees(definition, definitions, &by_name) {
            callers.entry(callee).or_default().push(at);
        }
    }
    let starts = |d: &Definition<'_>| STARTS_ONE.iter().any(|mark| d.body().contains(mark));
    let all = definitions.iter().enumerate();
    let mut queue: VecDeque<_> = all.filter(|(_, d)| starts(d)).map(|(at, _)| at).collect();
    let mut needy = BTreeSet::new();
    while let Some(at) = queue.pop_front() {
        if needy.insert(at) {
            queue.extend(callers.get(&at).into_iter().flatten());
        }
    }
    needy
}

/// What a function may call.
fn callees(
    caller: &Definition<'_>,
    definitions: &[Definition<'_>],
    by_name: &BTreeMap<&str, Vec<usize>>,
) -> BTreeSet<usize> {
    let body = caller.body();
    let mut found = BTreeSet::new();
    for (at, name) in words(body) {
        let rest = &body[at + name.len()..];
        let is_call = rest.starts_with('(') || rest.starts_with("::<");
        let Some(named) = by_name.get(name).filter(|_| is_call) else { continue };
        let called = match body[..at].strip_suffix("::").and_then(last_word) {
            None if body[..at].ends_with('.') => Called::OnSomething,
            Some("Self") => caller.owner.map_or(Called::OnSomething, Called::OfType),
            Some(kind) if !kind.starts_with(char::is_uppercase) => Called::OfModule(Some(kind)),
            Some(generic) if generic.len() == 1 => Called::OnSomething,
            Some(kind) => Called::OfType(kind),
            None => Called::OfModule(None),
        };
        found.extend(called.among(caller, definitions, named));
    }
    found
}

/// How a function is named where it is called.
#[derive(Clone, Copy)]
enum Called<'a> {
    /// `name(…)`, `module::name(…)`.
    OfModule(Option<&'a str>),
    /// `Type::name(…)`.
    OfType(&'a str),
    /// `value.name(…)`, or `T::name(…)` where `T` is generic.
    OnSomething,
}

impl Called<'_> {
    /// Those of `named` that may be meant: of the caller's file, else of its crate.
    fn among(
        self,
        caller: &Definition<'_>,
        definitions: &[Definition<'_>],
        named: &[usize],
    ) -> Vec<usize> {
        let is_meant = |callee: &Definition<'_>| match self {
            Self::OnSomething => {
                let is_named = |owner| caller.names.contains(owner);
                callee.is_of_tests() && callee.owner.is_some_and(is_named)
            }
            Self::OfType(kind) => callee.owner == Some(kind),
            Self::OfModule(None | Some("super" | "self" | "crate")) => callee.owner.is_none(),
            Self::OfModule(Some(module)) => {
                let path = callee.file.path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
                callee.owner.is_none() && path.ends_with(module)
            }
        };
        let meant = named.iter().copied().filter(|at| is_meant(&definitions[*at]));
        let meant: Vec<_> = meant.collect();
        let path = |at: &usize| definitions[*at].file.path.as_str();
        let tree = Tree::of(&caller.file.path);
        let is_near = |at: &usize| Tree::of(path(at)) == tree;
        let own: Vec<_> = meant.iter().copied().filter(|at| path(at) == caller.file.path).collect();
        match (own.is_empty(), self) {
            (false, _) => own,
            (true, Self::OfType(_)) => meant,
            (true, _) => meant.into_iter().filter(is_near).collect(),
        }
    }
}

/// Tests that stand in the file: where, and the name of the function behind the attribute.
fn written_tests(code: &str) -> Vec<(usize, &str)> {
    let macros: Vec<_> = macros(code).into_iter().map(|(_, body)| body).collect();
    let tests = code.match_indices("#[test]").map(|(at, _)| at);
    let tests = tests.filter(|at| !macros.iter().any(|body| body.contains(at)));
    let name = |at: usize| {
        let mut after = words(&code[at..]).skip_while(|(_, word)| *word != "fn");
        after.nth(1).map_or("", |(_, name)| name)
    };
    tests.map(|at| (at, name(at))).collect()
}

/// Tests that a macro of the file writes, one for each name in its list: the macro, the name, and how
/// many tests it becomes.
fn listed_tests(code: &str) -> Vec<(&str, &str, usize)> {
    let mut listed = Vec::new();
    for (name, body) in macros(code) {
        let times = code[body].matches("#[test]").count();
        let invoked = format!("\n{name}! {{");
        let Some(open) = code.find(&invoked).map(|at| at + invoked.len() - 1) else { continue };
        let close = closing_brace(code.as_bytes(), open).unwrap_or(open);
        if times > 0 {
            listed.extend(words(&code[open..close]).map(|(_, test)| (name, test, times)));
        }
    }
    listed
}

/// Names and bodies of the macros that a file defines.
fn macros(code: &str) -> Vec<(&str, std::ops::Range<usize>)> {
    let found = code.match_indices("macro_rules! ").filter_map(|(at, mark)| {
        let name = words(&code[at + mark.len()..]).next()?.1;
        let open = at + code[at..].find('{')?;
        Some((name, open..closing_brace(code.as_bytes(), open)?))
    });
    found.collect()
}
