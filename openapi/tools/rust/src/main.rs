//! Makes the Rust client out of the OpenAPI document: `rust-generator DOCUMENT FILE`.

use std::{env, error::Error, fs};

use progenitor_impl::{GenerationSettings, Generator, InterfaceStyle};
use serde_json::{Map, Value};

fn main() -> Result<(), Box<dyn Error>> {
    let [document, file] = &env::args().skip(1).collect::<Vec<_>>()[..] else {
        return Err("usage: rust-generator DOCUMENT FILE".into());
    };
    let mut document: Value = serde_json::from_str(&fs::read_to_string(document)?)?;
    for path in document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let Some(path) = path.as_object_mut() else { continue };
        path.retain(|_, operation| fits(operation));
        path.values_mut().for_each(one_success);
    }
    one_of_several(&mut document["components"]["schemas"]);
    let mut settings = GenerationSettings::default();
    settings.with_interface(InterfaceStyle::Builder);
    let tokens = Generator::new(&settings).generate_tokens(&serde_json::from_value(document)?)?;
    let code = format!("{}\n{}", ALLOWED, prettyplease::unparse(&syn::parse2(tokens)?));
    // Cargo builds anew what has been written anew.
    if fs::read_to_string(file).ok().as_ref() != Some(&code) {
        fs::write(file, code)?;
    }
    Ok(())
}

const ALLOWED: &str = "#![allow(clippy::all, rustdoc::all, unused, unused_comparisons)]";

/// The generator knows one type of body at an operation. Where there are several it gets the JSON; where there is none, the
/// operation is left out: imports, which are files.
fn fits(operation: &mut Value) -> bool {
    let Some(content) = operation.pointer_mut("/requestBody/content").and_then(Value::as_object_mut) else {
        return true;
    };
    content.retain(|kind, _| kind == "application/json");
    !content.is_empty()
}

/// The generator knows one type of success at an operation. Another one, which is figures that are still being counted, comes as
/// `Error::UnexpectedResponse`, as every status does that is not in the document.
fn one_success(operation: &mut Value) {
    let Some(answers) = operation["responses"].as_object_mut() else { return };
    let mut successes = 0;
    answers.retain(|status, _| {
        successes += usize::from(status.starts_with('2'));
        !status.starts_with('2') || successes == 1
    });
}

/// Of what may be several at once the generator makes one type with all that any has; ours are one of several.
fn one_of_several(schemas: &mut Value) {
    for schema in schemas.as_object_mut().into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        if let Some(kinds) = schema.remove("anyOf") {
            schema.insert("oneOf".into(), kinds);
        }
    }
}
