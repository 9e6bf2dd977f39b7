//! Goal: what the code style promises is checked, not hoped for.
//!
//! Method: read the repository's own files; every check is a function over files, shown to fail by
//! bad samples below. A finding names the file, the line and the rule.

#[path = "tidy/checks.rs"]
mod checks;
#[path = "tidy/runtime_tests.rs"]
mod runtime_tests;
#[path = "tidy/source.rs"]
mod source;

use std::path::Path;
use std::sync::LazyLock;

use checks::{Finding, Tree};
use source::SourceFile;

/// The repository, read once for all checks.
fn tree() -> &'static [SourceFile] {
    static TREE: LazyLock<Vec<SourceFile>> = LazyLock::new(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        checks::tell_tests_apart(source::repository(&root))
    });
    &TREE
}

/// Fails with every finding.
fn assert_clean(findings: &[Finding]) {
    let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} finding(s):\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn dependencies_point_one_way() {
    assert_clean(&checks::dependencies(tree()));
}

#[test]
fn the_core_names_no_clock_no_randomness_and_no_runtime() {
    assert_clean(&checks::core_names(tree()));
}

#[test]
fn sends_past_a_mailbox_are_in_one_place() {
    assert_clean(&checks::unbounded_sends(tree()));
}

#[test]
fn functions_and_files_are_short() {
    let files = tree();
    for tree in Tree::ALL {
        let lengths = checks::function_lengths(files, tree);
        if let Some(p90) = checks::percentile_90(&lengths) {
            println!("{:16} {:5} functions, p90 {p90} lines", tree.folder(), lengths.len());
        }
    }
    assert_clean(&checks::lengths(files));
}

#[test]
fn every_file_is_part_of_a_crate() {
    assert_clean(&checks::dead_files(tree()));
}

#[test]
fn files_are_named_for_what_they_own() {
    assert_clean(&checks::file_names(tree()));
}

#[test]
fn nothing_is_left_to_be_done_later() {
    assert_clean(&checks::leftovers(tree()));
}

#[test]
fn product_code_does_not_unwrap() {
    assert_clean(&checks::unwraps(tree()));
}

#[test]
fn no_file_names_a_place_on_some_machine() {
    assert_clean(&checks::machine_paths(tree()));
}

#[test]
fn files_are_indented_by_spaces() {
    assert_clean(&checks::tabs(tree()));
}

#[test]
fn most_logic_is_tested_without_a_runtime() {
    let (without, with) = checks::test_counts(tree());
    println!("{without} tests of the core, {with} tests that need a runtime");
    assert_clean(&checks::test_ratio(tree()));
}

#[test]
fn tests_whose_runtime_is_behind_calls_are_counted_too() {
    let files = tree();
    let counts = runtime_tests::test_counts(files);
    println!("{counts:#?}, {} that need a runtime", counts.with_runtime());
    assert_clean(&runtime_tests::test_ratio(files));
}

#[test]
fn links_between_documents_lead_somewhere() {
    assert_clean(&checks::links(tree(), &|path| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path).exists()
    }));
}

/// Negative controls: a check that finds nothing in a bad sample checks nothing.
mod bad_samples {
    use super::*;

    fn rust(path: &str, text: &str) -> Vec<SourceFile> {
        vec![SourceFile::new(path, text)]
    }

    /// Exactly one finding, at `place`.
    fn assert_one(findings: &[Finding], place: &str) {
        let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.len() == 1 && lines[0].starts_with(place), "{place} expected in {lines:?}");
    }

    #[test]
    fn a_forbidden_edge_is_found_however_it_is_written() {
        for text in [
            "[dependencies]\ntokio.workspace = true",
            "[dependencies]\ntokio = \"1\"",
            "[dependencies]\ntokio-stream = { version = \"0.1\" }",
            "[dependencies]\nt = { package = \"tokio\", version = \"1\" }",
            "[dependencies.tokio]\nversion = \"1\"",
            "[target.'cfg(unix)'.dependencies]\ntokio = \"1\"",
        ] {
            let files = rust("runtime/core/Cargo.toml", text);
            assert_eq!(checks::dependencies(&files).len(), 1, "{text}");
        }
        for (folder, name) in [
            ("actors", "polyraft-storage"),
            ("storage", "actix"),
            ("transport", "heed"),
            ("runtime/node", "tonic"),
            ("runtime/server", "raft"),
            ("runtime/server", "polyraft-core"),
        ] {
            let text = format!("[package]\nname = \"x\"\n[dependencies]\n{name}.workspace = true");
            let files = rust(&format!("{folder}/Cargo.toml"), &text);
            assert_one(&checks::dependencies(&files), &format!("{folder}/Cargo.toml:4"));
        }
    }

    #[test]
    fn allowed_and_development_edges_are_not_found() {
        let text = "[dependencies]\nraft.workspace = true\n[dev-dependencies]\ntokio = \"1\"";
        assert!(checks::dependencies(&rust("runtime/core/Cargo.toml", text)).is_empty());
    }

    #[test]
    fn clocks_and_random_maps_in_the_core_are_found() {
        for bad in [
            "fn f() { let t = Instant::now(); }",
            "fn f(t: std::time::SystemTime) {}",
            "use tokio::sync::mpsc;",
            "fn f() { rand::random::<u8>(); }",
            "struct S { m: HashMap<u8, u8> }",
            "fn f() { let s = HashSet::new(); }",
        ] {
            assert_one(&checks::core_names(&rust("runtime/core/src/x.rs", bad)), "runtime/core/");
        }
        for good in [
            "//! No tokio here.\nfn f() { panic!(\"quinn\"); }",
            "type Map<V> = HashMap<u8, V, BuildHasherDefault<Fixed>>;",
            "use std::collections::HashMap;",
            "fn operand() { operand::f(); }",
            "#[cfg(test)]\nmod tests { use std::time::SystemTime; }",
        ] {
            let findings = checks::core_names(&rust("runtime/core/src/x.rs", good));
            assert!(findings.is_empty(), "{good}: {findings:?}");
        }
        assert!(checks::core_names(&rust("actors/src/x.rs", "use tokio::sync;")).is_empty());
    }

    #[test]
    fn an_unbounded_send_is_found_outside_its_file() {
        let bad = "fn f(a: Addr<A>) {\n    a.do_send(M);\n}";
        assert_one(&checks::unbounded_sends(&rust("actors/src/x.rs", bad)), "actors/src/x.rs:2");
        assert!(checks::unbounded_sends(&rust("actors/src/mailbox.rs", bad)).is_empty());
    }

    #[test]
    fn a_long_function_and_a_long_file_are_found() {
        let long = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(70));
        assert_eq!(checks::lengths(&rust("storage/src/x.rs", &long)).len(), 2, "70 and p90");
        let fits = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(28));
        assert!(checks::lengths(&rust("storage/src/x.rs", &fits)).is_empty());
        let tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(checks::lengths(&rust("storage/src/x.rs", &tests)).is_empty());
        let file = "// x\n".repeat(801);
        assert_one(&checks::lengths(&rust("storage/src/x.rs", &file)), "storage/src/x.rs:801");
    }

    #[test]
    fn a_file_that_no_module_declares_is_found() {
        let mut files = vec![
            SourceFile::new("actors/Cargo.toml", "[package]\nname = \"a\""),
            SourceFile::new("actors/src/lib.rs", "mod a;\n#[path = \"odd/name.rs\"]\nmod c;"),
            SourceFile::new("actors/src/a.rs", "mod b;"),
            SourceFile::new("actors/src/a/b.rs", ""),
            SourceFile::new("actors/src/odd/name.rs", ""),
            SourceFile::new("actors/examples/e.rs", ""),
        ];
        assert!(checks::dead_files(&files).is_empty(), "{:?}", checks::dead_files(&files));
        files.push(SourceFile::new("actors/src/forgotten.rs", "// mod forgotten;"));
        assert_one(&checks::dead_files(&files), "actors/src/forgotten.rs");
    }

    #[test]
    fn a_file_under_cfg_test_is_no_product() {
        let files = checks::tell_tests_apart(vec![
            SourceFile::new("actors/Cargo.toml", "[package]\nname = \"a\""),
            SourceFile::new("actors/src/lib.rs", "mod a;\n#[cfg(test)]\nmod a_tests;"),
            SourceFile::new("actors/src/a.rs", "fn f() { g().unwrap(); }"),
            SourceFile::new("actors/src/a_tests.rs", "fn f() { g().unwrap(); }"),
        ]);
        assert_one(&checks::unwraps(&files), "actors/src/a.rs:1");
    }

    #[test]
    fn names_that_own_nothing_are_found() {
        for name in ["utils", "common", "helpers", "group_manager", "test_util"] {
            let files = rust(&format!("actors/src/{name}.rs"), "");
            assert_eq!(checks::file_names(&files).len(), 1, "{name}");
        }
        let folder = rust("actors/src/common/mod.rs", "");
        assert_eq!(checks::file_names(&folder).len(), 1);
        assert!(checks::file_names(&rust("actors/src/commons_pool.rs", "")).is_empty());
    }

    #[test]
    fn leftovers_unwraps_tabs_and_paths_are_found() {
        let later = format!("fn f() {{}} // {}: later", concat!("TO", "DO"));
        assert_one(&checks::leftovers(&rust("actors/src/x.rs", &later)), "actors/src/x.rs:1");
        let unwraps = "fn f() { g().unwrap(); }\n#[cfg(test)]\nmod t { fn f() { g().unwrap(); } }";
        assert_one(&checks::unwraps(&rust("actors/src/x.rs", unwraps)), "actors/src/x.rs:1");
        assert!(checks::unwraps(&rust("tests/tests/x.rs", unwraps)).is_empty());
        assert_one(&checks::tabs(&rust("README.md", "a\n\tb")), "README.md:2");
        let path = format!("see {}me/x/file", concat!("/", "ho"));
        assert_one(&checks::machine_paths(&rust("README.md", &path)), "README.md:1");
        let url = format!("see https://example.com{}me/x", concat!("/", "ho"));
        assert!(checks::machine_paths(&rust("README.md", &url)).is_empty());
    }

    #[test]
    fn too_many_tests_with_a_runtime_are_found() {
        let unit = |n: usize| "#[test]\nfn t() {}\n".repeat(n);
        let core = |n| SourceFile::new("runtime/core/src/x.rs", &unit(n));
        let traces = SourceFile::new("tests/tests/x.rs", "\ntraces! {\n    a,\n    b_c,\n}\n");
        let elsewhere = SourceFile::new("storage/src/x.rs", &unit(9));
        let shells = SourceFile::new(
            "tests/tests/y.rs",
            "#[tokio::test(start_paused = true)]\nasync fn a() {}\n\
             #[test]\nfn b() { Runtime::new().block_on(x()); }\n#[test]\nfn c() {}\n\
             fn run() { Runtime::new().block_on(x()); }\n#[test]\nfn d() { run(); }",
        );
        let files = |n| [core(n), traces.clone(), elsewhere.clone(), shells.clone()];
        assert_eq!(checks::test_counts(&files(13)), (15, 3));
        assert!(checks::test_ratio(&files(13)).is_empty());
        assert_eq!(checks::test_ratio(&files(12)).len(), 1);
    }

    #[test]
    fn too_many_tests_with_a_runtime_behind_calls_are_found() {
        let unit = |n: usize| "#[test]\nfn t() {}\n".repeat(n);
        let core = |n| SourceFile::new("runtime/core/src/x.rs", &unit(n));
        let traces = "macro_rules! traces {\n($n:ident) => { #[test] fn $n() { f() } } }\n\
             \ntraces! {\n    a,\n    b_c,\n}\n";
        let traces = SourceFile::new("tests/tests/x.rs", traces);
        let elsewhere = SourceFile::new("storage/src/x.rs", &unit(9));
        let shells = SourceFile::new(
            "tests/tests/y.rs",
            "#[tokio::test(start_paused = true)]\nasync fn a() {}\n\
             #[test]\nfn b() { Runtime::new().block_on(x()); }\n#[test]\nfn c() {}\n\
             fn run() { Runtime::new().block_on(x()); }\n#[test]\nfn d() { run(); }",
        );
        let files = |n| [core(n), traces.clone(), elsewhere.clone(), shells.clone()];
        let counts = runtime_tests::test_counts(&files(13));
        assert_eq!((counts.core, counts.traces, counts.with_runtime()), (13, 2, 3));
        assert!(runtime_tests::test_ratio(&files(13)).is_empty());
        assert_eq!(runtime_tests::test_ratio(&files(12)).len(), 1);
    }

    #[test]
    fn a_runtime_behind_any_number_of_calls_is_found() {
        let helpers = SourceFile::new(
            "tests/src/x.rs",
            "pub fn paused(f: F) { System::new().block_on(f) }\nfn simulate() { paused(1) }\n\
             pub struct Bed;\nimpl<T: Into<u8>> Bed {\n\
             fn new() -> Self { Self::with(1) }\nfn with() -> Self { super::simulate() }\n\
             fn feed(&self) { simulate() }\n}\n\
             impl Drop for Table {\nfn new() -> Self { Self }\n}",
        );
        let tests = SourceFile::new(
            "tests/src/y.rs",
            "#[cfg(test)]\nmod tests {\n#[test]\nfn a() { x::simulate() }\n\
             #[test]\nfn b() { let feed = Table::new(); }\n#[test]\nfn c() { Bed::new(); }\n\
             #[test]\nfn d(bed: &Bed) { bed.feed() }\n#[test]\nfn e() { paused::<u8>(2) }\n\
             #[test]\nfn g() { assert!(is_paused); unpaused() }\n}",
        );
        let suite = SourceFile::new(
            "tests/tests/z.rs",
            "macro_rules! suite { ($t:ident) => { #[test] fn $t() {} #[test] fn $t() {} } }\n\
             fn one() { paused(1) }\nfn other() {}\n\nsuite! {\n    one,\n    other,\n}\n",
        );
        let counts = runtime_tests::test_counts(&[helpers, tests, suite]);
        let expected = [("tests/src/y.rs".into(), 4), ("tests/tests/z.rs".into(), 2)];
        assert_eq!(counts.runtime, expected.into());
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        let text =
            "[a](there.md#part) [b](https://x.y/z) [c](#here)\n[d](gone.md)\n```\n[e](f)\n```";
        let findings = checks::links(&rust("docs/x.md", text), &|p| p == "docs/there.md");
        assert_one(&findings, "docs/x.md:2");
        let up = rust("docs/a/x.md", "[a](../y.md) [b](/y.md)");
        assert!(checks::links(&up, &|p| p == "docs/y.md" || p == "y.md").is_empty());
    }
}
