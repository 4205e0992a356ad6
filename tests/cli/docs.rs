//! The tables in `docs/` say what the code does, the examples are command lines, and the links lead somewhere.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use tpdocker::cli::flags::{FLAGS, NOT_YET, Origin};
use tpdocker::cli::{Surroundings, parse};
use tpdocker::error::{Code, Error};

/// The text between `<!-- begin NAME -->` and `<!-- end NAME -->`.
fn section<'a>(document: &'a str, name: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("<!-- begin {name} -->\n")).expect("the beginning");
    rest.split_once(&format!("<!-- end {name} -->")).expect("the end").0
}

/// Shows the table to be written, so that a failure can be cured by pasting.
pub fn assert_section(document: &str, name: &str, expected: &str) {
    assert!(section(document, name) == expected, "the section {name} should read:\n\n{expected}");
}

#[test]
fn the_exit_codes_are_those_of_the_code() {
    let mut table = String::from("| code | name | meaning |\n|---|---|---|\n");
    for code in Code::ALL {
        writeln!(table, "| {} | `{}` | {} |", u8::from(*code), code.name(), code.meaning()).expect("in memory");
    }
    assert_section(include_str!("../../docs/exit-codes.md"), "codes", &table);
}

#[test]
fn the_images_are_built_with_the_manifest_of_every_member() {
    let manifest = include_str!("../../Cargo.toml");
    let (_, members) = manifest.split_once("\nmembers = [").expect("the members");
    let (members, _) = members.split_once(']').expect("their end");
    let context = include_str!("../../.dockerignore");
    for member in members.split(',').map(|member| member.trim().trim_matches('"')).filter(|member| !member.is_empty()) {
        let kept = member.starts_with("sidecar") || context.contains(&format!("\n!{member}/Cargo.toml\n"));
        assert!(kept, "cargo would miss it in images/: add to .dockerignore: !{member}/Cargo.toml");
    }
}

#[test]
fn exit_codes_are_distinct_and_ascend() {
    let numbers: Vec<u8> = Code::ALL.iter().map(|code| u8::from(*code)).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

#[test]
fn the_flags_are_those_of_the_parser() {
    for (name, origin) in [("our flags", Origin::Tpdocker), ("docker flags", Origin::Docker)] {
        let mut table = String::from("| flag | meaning | acts on |\n|---|---|---|\n");
        for flag in FLAGS.iter().filter(|flag| flag.origin == origin) {
            let usage = flag.usage().replace('|', "\\|");
            let again = if flag.repeatable { "; may be repeated" } else { "" };
            writeln!(table, "| `{usage}` | {}{again} | {} |", flag.help, flag.acts).expect("in memory");
        }
        assert_section(include_str!("../../docs/cli.md"), name, &table);
    }
}

#[test]
fn the_flags_that_are_not_supported_yet_are_listed() {
    let names: Vec<String> = NOT_YET.iter().map(|(_, long, _)| format!("`--{long}`")).collect();
    assert_section(include_str!("../../docs/cli.md"), "not yet", &format!("{}\n", names.join(", ")));
}

/// `README.md` and everything in `docs/`, by path.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let in_docs = fs::read_dir(root.join("docs")).expect("docs").map(|entry| entry.expect("an entry").path());
    let is_text = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let paths: Vec<_> = in_docs.filter(is_text).chain([root.join("README.md")]).collect();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("a document"))).collect()
}

/// The words of a line of shell, as far as examples go: quotes, `$(pwd)`, and an end at a comment or a pipe.
fn words(line: &str) -> Vec<OsString> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for each in line.replace("$(pwd)", "/work").chars() {
        match each {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '#' | '|' if !quoted && word.is_none() => break,
            ' ' if !quoted => words.extend(word.take().map(OsString::from)),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word.map(OsString::from));
    words
}

#[test]
fn every_example_is_a_command_line_that_tpdocker_takes() {
    let around =
        Surroundings { env: &|_| None, read: &|_| Err(std::io::ErrorKind::NotFound.into()), cwd: "/work".into() };
    let mut examples = 0;
    for (path, text) in documents() {
        for line in text.lines().filter_map(|line| line.strip_prefix("    ")).filter(|it| it.starts_with("tpdocker ")) {
            examples += 1;
            if let Err(failure) = parse(words(line), &around) {
                panic!("{}: {line}: {}", path.display(), Error::from(failure.error).chain().join(": "));
            }
        }
    }
    assert!(examples >= 5, "only {examples} examples were found: are they still in indented blocks?");
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    for (path, text) in documents() {
        let directory = path.parent().expect("a document is in a directory");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !link.is_empty() && !link.contains("://") {
                assert!(directory.join(link).exists(), "{}: {link} does not exist", path.display());
            }
        }
    }
}
