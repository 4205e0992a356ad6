//! The environment: a row a variable, and one for those that are too many for that.

use std::collections::BTreeMap;
use std::env;
use std::os::unix::ffi::OsStrExt;

use super::files::digest;
use crate::context::Context;

/// A value longer than this is said by its digest.
const SHOWN: usize = 120;

pub fn run(context: &Context) {
    let (mut bulk, mut bulk_bytes) = (0, Vec::new());
    let variables: BTreeMap<_, _> = env::vars_os().collect();
    for (name, value) in &variables {
        let name = name.to_string_lossy();
        if name.starts_with(&context.targets.bulk_variables) {
            bulk += 1;
            bulk_bytes.extend_from_slice(name.as_bytes());
            bulk_bytes.push(b'=');
            bulk_bytes.extend_from_slice(value.as_bytes());
            bulk_bytes.push(0);
            continue;
        }
        let says = if value.len() > SHOWN {
            format!("{} bytes, {}", value.len(), digest(value.as_bytes()))
        } else {
            // Placeholders first: they stand for whole words, and an escape ends in a letter.
            context.normal(&value.to_string_lossy()).as_bytes().escape_ascii().to_string()
        };
        context.says(&format!("environment/{name}"), &says);
    }
    context.says(
        &format!("environment/{}*", context.targets.bulk_variables),
        &format!("{bulk} variables, {}", digest(&bulk_bytes)),
    );
}
