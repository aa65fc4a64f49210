//! Holds the dependencies to `deny.toml`: bans, licences and sources, as cargo-deny does, but without the
//! network and without building cargo-deny first.

#![expect(clippy::unwrap_used, reason = "a surprise here fails the test, as it should")]

use std::{path::Path, process::Command};

use serde_json::Value as Json;
use spdx::{Expression, ParseMode};
use toml::Table;

#[test]
fn no_dependency_is_banned() {
    let rules = rules();
    let banned: Vec<&str> =
        rules["bans"]["deny"].as_array().unwrap().iter().map(|ban| ban["crate"].as_str().unwrap()).collect();

    let found: Vec<String> =
        packages().iter().map(name).filter(|name| banned.contains(&name.as_str())).collect();

    assert_eq!(found, [""; 0], "banned in deny.toml, where the reasons are");
}

#[test]
fn every_licence_is_allowed() {
    let rules = rules();
    let allowed = strings(&rules["licenses"]["allow"]);
    let fits = |licence: &str| {
        let expression = Expression::parse_mode(licence, ParseMode::LAX).unwrap();
        expression.evaluate(|wanted| allowed.contains(&wanted.to_string().as_str()))
    };

    let found: Vec<String> = packages()
        .iter()
        .filter(|package| !is_ours(package))
        .filter(|package| !package["license"].as_str().is_some_and(fits))
        .map(|package| format!("{}: {}", name(package), package["license"]))
        .collect();

    assert_eq!(found, [""; 0], "not allowed in deny.toml");
}

#[test]
fn every_source_is_known() {
    let rules = rules();
    let known = strings(&rules["sources"]["allow-registry"]);

    let found: Vec<String> = packages()
        .iter()
        .filter(|package| !is_ours(package))
        .map(|package| package["source"].as_str().unwrap().to_owned())
        .filter(|source| !source.strip_prefix("registry+").is_some_and(|registry| known.contains(&registry)))
        .collect();

    assert_eq!(found, [""; 0], "neither in a known registry nor part of this workspace");
}

#[test]
fn every_dependency_says_its_version() {
    let packages = packages();
    let ours = packages.iter().filter(|package| is_ours(package));

    let found: Vec<String> = ours
        .flat_map(|package| package["dependencies"].as_array().unwrap())
        .filter(|dependency| dependency["path"].is_null() && dependency["req"] == "*")
        .map(name)
        .collect();

    assert_eq!(found, [""; 0], "any version would do for these");
}

/// It is in the program, for newcomers, and may not get into the way of anything else.
#[test]
fn the_fake_stripe_is_known_to_dev_alone() {
    let known_to: Vec<String> = packages()
        .iter()
        .filter(|package| {
            let mut dependencies = package["dependencies"].as_array().unwrap().iter();
            dependencies.any(|one| one["name"] == "tenantry-fake-stripe" && one["kind"].is_null())
        })
        .map(name)
        .collect();
    assert_eq!(known_to, ["tenantry"]);

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut naming = vec![];
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read_to_string(&path).unwrap().contains("tenantry_fake_stripe") {
                naming.push(path.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    naming.sort();
    assert_eq!(naming, [Path::new("commands/dev/billing.rs"), Path::new("dev/stripe.rs")]);
}

fn rules() -> Table {
    include_str!("../deny.toml").parse().unwrap()
}

fn strings(list: &toml::Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect()
}

/// All packages that a build on any platform may use.
fn packages() -> Vec<Json> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--all-features",
            "--locked",
            "--offline",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Json = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Part of this workspace.
fn is_ours(package: &Json) -> bool {
    package["source"].is_null()
}

fn name(package: &Json) -> String {
    package["name"].as_str().unwrap().to_owned()
}
