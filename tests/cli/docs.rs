//! The tables in `docs/` say what the code does.

use std::fmt::Write as _;

use tpdocker::cli::flags::{FLAGS, NOT_YET, Origin};
use tpdocker::error::Code;

/// The text between `<!-- begin NAME -->` and `<!-- end NAME -->`.
fn section<'a>(document: &'a str, name: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("<!-- begin {name} -->\n")).expect("the beginning");
    rest.split_once(&format!("<!-- end {name} -->")).expect("the end").0
}

/// Shows the table to be written, so that a failure can be cured by pasting.
fn assert_section(document: &str, name: &str, expected: &str) {
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
