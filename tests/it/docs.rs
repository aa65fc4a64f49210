//! What documents say of the tests and the code is there, and what they list is whole.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A row of docs/asvs.md: number, level, requirement, state, how.
fn requirements() -> Vec<[String; 5]> {
    let document = fs::read_to_string(root().join("docs/asvs.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
    };
    let rows = document.lines().filter(|line| {
        line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    rows.map(|line| cells(line).try_into().unwrap_or_else(|_| panic!("five cells: {line}"))).collect()
}

#[test]
fn every_requirement_of_the_asvs_is_met_open_or_not_applicable() {
    let rows = requirements();
    let numbers: BTreeSet<_> = rows.iter().map(|row| &row[0]).collect();
    assert_eq!(numbers.len(), rows.len(), "each once");
    let of_level = |level: &str| rows.iter().filter(|row| row[1] == level).count();
    assert_eq!((of_level("1"), of_level("2")), (70, 183), "those of version 5.0.0");
    for [number, _, what, state, how] in &rows {
        assert!(["**met**", "**n/a**", "**open**"].contains(&state.as_str()), "{number} is {state}");
        assert!(!what.is_empty() && !how.is_empty(), "{number} says how");
    }
    let of_state = |state: &str| rows.iter().filter(|row| row[3] == state).count();
    let counts =
        ["**met**", "**n/a**", "**open**"].map(|state| format!("{} {state}", of_state(state))).join(", ");
    let document = fs::read_to_string(root().join("docs/asvs.md")).unwrap();
    assert!(document.contains(&counts), "the document counts {counts}");
}

#[test]
fn the_readme_shows_the_last_run_of_the_load_suite() {
    let shown = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, shown) = shown.split_once("<!-- suite -->\n```\n").unwrap();
    let (shown, _) = shown.split_once("```\n<!-- /suite -->").unwrap();
    let measured = fs::read_to_string(root().join("loadtests/suite.txt")).unwrap();
    assert_eq!(shown, measured, "`make load` writes both");
    assert!(measured.contains(", commit ") && measured.contains(" cores of "), "of what, where and when");
}

#[test]
fn every_action_of_the_audit_trail_is_documented() {
    let nouns = ["session", "user", "invitation", "tenant", "job", "api_key", "import"];
    let actions = |text: &str, quotes: &[char]| -> BTreeSet<String> {
        let is_action = |word: &&str| {
            let known = |(noun, verb): (&str, &str)| {
                nouns.contains(&noun)
                    && verb.ends_with("ed")
                    && verb.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())
                    || (noun, verb) == ("session", "begun")
            };
            word.split_once('.').is_some_and(known)
        };
        text.split(quotes).filter(is_action).map(str::to_owned).collect()
    };
    let mut made = BTreeSet::new();
    for path in files(&["crates", "src", "workers", "migrations"]) {
        made.append(&mut actions(&fs::read_to_string(path).unwrap(), &['"', '\'']));
    }
    let document = fs::read_to_string(root().join("docs/api-design.md")).unwrap();
    let section = document.split("\n## ").find(|section| section.starts_with("Audit\n")).unwrap();
    let documented = actions(section, &['`']);
    assert!(made.len() > 30, "{made:?}");
    assert_eq!(documented, made);
}

#[test]
fn every_metric_is_documented() {
    let told = metrics();
    let document = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let documented = |name: &&String| {
        [format!("`{name}`"), format!("`{name}{{")].iter().any(|text| document.contains(text))
    };
    let missing: Vec<_> = told.iter().filter(|name| !documented(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Those that the program tells.
pub(crate) fn metrics() -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    for path in files(&["crates", "src", "workers"]) {
        let text = fs::read_to_string(path).unwrap();
        for kind in ["counter!(", "gauge!(", "histogram!("] {
            let names = text.split(kind).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
            told.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    assert!(told.len() > 20, "{told:?}");
    told
}

#[test]
fn every_test_and_file_that_the_asvs_list_names_exists() {
    let tests = tests();
    let mut named = 0;
    for [number, .., how] in requirements() {
        let references: Vec<_> = how.split('`').skip(1).step_by(2).collect();
        let missing: Vec<_> = references.iter().filter(|name| !exists(name, &tests)).collect();
        assert!(missing.is_empty(), "{number} names {missing:?}");
        named += references.iter().filter(|name| name.contains("::")).count();
    }
    assert!(named > 50, "tests were looked for");
}

#[test]
fn every_fault_is_documented_and_every_test_that_shows_one_exists() {
    let document = fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let rows: Vec<Vec<_>> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|row| row.split(" | ").collect())
        .collect();
    let (tests, program) = (tests(), fs::read_to_string(root().join("tests/faults/faults/mod.rs")).unwrap());
    let faults = program.split("Self::ALL").next().unwrap();
    let faults = faults.split("=> \"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let missing: Vec<_> = faults
        .filter(|fault| *fault != "upgrade" && !rows.iter().any(|row| row[0] == format!("`{fault}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");

    let shown: Vec<_> = rows.iter().filter(|row| row.len() == 3 && !row[0].contains('`')).skip(2).collect();
    assert!(shown.len() > 10, "{rows:?}");
    for row in shown {
        let named: Vec<_> = row[2].split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        let missing: Vec<_> = named.iter().filter(|name| !exists(name, &tests)).collect();
        assert!(!named.is_empty() && missing.is_empty(), "{}: {missing:?}", row[0]);
    }
}

/// A test is there with its file; so is a path. Other words are no references.
fn exists(name: &str, tests: &BTreeSet<String>) -> bool {
    match name.rsplit("::").collect::<Vec<_>>()[..] {
        [_] if name.contains('/') && !name.contains(['*', ' ', '=']) && !name.starts_with('/') => {
            name.contains("application/") || root().join(name).exists()
        }
        [_] => true,
        [test, file, ..] => tests.contains(&format!("{file}::{test}")),
        [] => true,
    }
}

/// Every test function, as `file::name`.
fn tests() -> BTreeSet<String> {
    files(&["src", "tests", "crates", "workers"]).iter().flat_map(|path| tests_of(path)).collect()
}

/// The files of Rust and SQL below these folders.
fn files(folders: &[&str]) -> Vec<PathBuf> {
    let mut folders: Vec<_> = folders.iter().map(|name| root().join(name)).collect();
    let mut files = vec![];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "sql") {
                files.push(path);
            }
        }
    }
    files
}

fn tests_of(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    // A module that is a folder has its name.
    let module = if path.ends_with("mod.rs") { path.parent().unwrap() } else { path };
    let module = module.file_stem().unwrap().to_str().unwrap().to_owned();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let is_test = |line: &str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    let name = |line: &&str| -> Option<String> {
        let (_, rest) = line.split_once("fn ")?;
        Some(rest.split('(').next()?.to_owned())
    };
    let tests = lines.iter().enumerate().filter(|(_, line)| is_test(line));
    let functions = tests.filter_map(|(at, _)| lines[at + 1..].iter().take(4).find_map(name));
    functions.map(|function| format!("{module}::{function}")).collect()
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
