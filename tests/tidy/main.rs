//! The rules of ARCHITECTURE.md and CONTRIBUTING.md that a machine can check.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which of our crates a crate may use: the table of ARCHITECTURE.md.
const MAY_USE: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("store", &[]),
    ("task", &[]),
    ("server", &["api", "store"]),
    ("client", &["api"]),
    ("controllers", &["api", "client"]),
    ("scheduler", &["api", "client"]),
    ("network", &["api", "client"]),
    ("agent", &["api", "client", "network", "task"]),
    ("shim-wasm", &["task"]),
    ("shim-oci", &["task"]),
];
/// Libraries that only one crate may link.
const ONLY_IN: &[(&str, &[&str])] =
    &[("wasmtime", &["shim-wasm"]), ("rusqlite", &["store"]), ("axum", &["server", "agent"])];
/// Crates whose sources may contain `unsafe`.
const UNSAFE_IN: &[&str] = &["shim-wasm", "shim-oci"];
/// Crates without IO, async and clock.
const PURE: &[&str] = &["api"];
const LONGEST_FILE: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn directory(name: &str) -> PathBuf {
    let top = root().join(name);
    if top.exists() { top } else { root().join("orchestrator").join(name) }
}

/// Names of all dependencies in a manifest, those for tests included.
fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(directory(name).join("Cargo.toml")).unwrap();
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_owned();
        } else if section.ends_with("dependencies")
            && let Some((key, _)) = line.split_once(['=', '.'])
        {
            found.insert(key.trim().to_owned());
        }
    }
    found
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && !["target", ".git", "prebuilt"].contains(&name.as_str()) {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for top in ["orchestrator", "shim-wasm", "shim-oci", "sdk", "tests"] {
        sources(&root().join(top), &mut found);
    }
    assert!(found.len() > 50, "the sources are where this test looks");
    found
}

fn show(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let mut broken = Vec::new();
    for (name, allowed) in MAY_USE {
        for dependency in dependencies(name) {
            if let Some(ours) = dependency.strip_prefix("catamaran-")
                && !allowed.contains(&ours)
            {
                broken.push(format!("{name} uses {ours}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn some_libraries_are_linked_in_one_place_only() {
    let mut broken = Vec::new();
    for (name, _) in MAY_USE {
        let used = dependencies(name);
        for (library, allowed) in ONLY_IN {
            if used.iter().any(|u| u == library) && !allowed.contains(name) {
                broken.push(format!("{name} links {library}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn pure_crates_have_no_io_no_async_and_no_clock() {
    let banned = [
        "tokio",
        "async ",
        "std::fs",
        "TcpStream",
        "UdpSocket",
        "SystemTime::now",
        "Instant::now",
        "Timestamp::now",
    ];
    let mut broken = Vec::new();
    for name in PURE {
        let mut files = Vec::new();
        sources(&directory(name).join("src"), &mut files);
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = without_tests(&text);
            for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
                for word in banned.iter().filter(|word| line.contains(**word)) {
                    broken.push(format!("{}: {word}", show(&file)));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:?}");
}

/// The text before an inline test module.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[test]
fn every_file_says_what_it_is_for() {
    let files = all_sources();
    let silent: Vec<_> = files
        .iter()
        .filter(|f| !std::fs::read_to_string(f).unwrap().starts_with("//!"))
        .map(|f| show(f))
        .collect();
    assert!(silent.is_empty(), "no `//!` at the head of {silent:?}");
}

#[test]
fn files_stay_short() {
    let mut long = BTreeMap::new();
    for file in all_sources() {
        let name = show(&file);
        if name.contains("/tests")
            || name.ends_with("tests.rs")
            || name.starts_with("tests/")
            || name.contains("/generate/")
        {
            continue;
        }
        let lines = without_tests(&std::fs::read_to_string(&file).unwrap()).lines().count();
        if lines > LONGEST_FILE {
            long.insert(name, lines);
        }
    }
    assert!(long.is_empty(), "over {LONGEST_FILE} lines without tests: {long:?}");
}

#[test]
fn unsafe_code_stands_in_the_shims_only_and_says_why() {
    let mut broken = Vec::new();
    for file in all_sources() {
        let name = show(&file);
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let opens =
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|w| code.contains(w));
            let c_function = name.starts_with("orchestrator/store/tests/") && code.contains("unsafe extern");
            if !opens || c_function || name.starts_with("tests/tidy") {
                continue;
            }
            let crate_allows = UNSAFE_IN.iter().any(|allowed| name.starts_with(allowed));
            let before = &lines[number.saturating_sub(8)..=number];
            if !crate_allows && !name.starts_with("orchestrator/store/tests/") {
                broken.push(format!("{name}:{}: unsafe outside the shims", number + 1));
            } else if !before.iter().any(|l| l.contains("SAFETY:") || l.contains("# Safety")) {
                broken.push(format!("{name}:{}: no SAFETY reason", number + 1));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn no_test_is_switched_off_and_nothing_is_left_undone() {
    let marks =
        ["#[ignore", concat!("TO", "DO"), concat!("FIX", "ME"), "unimplemented!(", concat!("to", "do!(")];
    let mut found = Vec::new();
    for file in all_sources().into_iter().filter(|file| !show(file).starts_with("tests/tidy")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            found.extend(
                marks
                    .iter()
                    .filter(|m| line.contains(**m))
                    .map(|m| format!("{}:{}: {m}", show(&file), number + 1)),
            );
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_sample_has_a_readme_a_manifest_and_sources() {
    let samples = std::fs::read_dir(root().join("samples")).unwrap().flatten();
    let folders: Vec<_> = samples.map(|e| e.path()).filter(|p| p.is_dir() && !p.ends_with("build")).collect();
    assert!(!folders.is_empty());
    for folder in folders {
        for part in ["README.md", "manifest.yaml", "src"] {
            assert!(folder.join(part).exists(), "{} has no {part}", show(&folder));
        }
    }
}

#[test]
fn the_way_of_a_pod_names_files_that_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = text.split("## Follow a pod").nth(1).expect("ARCHITECTURE.md has 'Follow a pod'");
    let section = section.split("\n## ").next().unwrap();
    let paths = section.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs"));
    let mut count = 0;
    for path in paths {
        count += 1;
        assert!(
            root().join(path).exists() || root().join("orchestrator").join(path).exists(),
            "{path} is named but not there"
        );
    }
    assert!(count >= 12, "the way of a pod names its files");
}
