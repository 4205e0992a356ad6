//! The help of `tpdocker run`, made from the table of its flags.

use std::fmt::Write as _;

use super::flags::{Acts, FLAGS, Flag, Origin};

/// Longer usages push their help to the next line.
const COLUMN: usize = 36;

/// The whole text.
pub(super) fn run() -> String {
    let mut text = String::from(
        "Run a container as a pod of the cluster: in the place of a workload (--swap), beside one with its\n\
         environment and files (--like), or with nothing but the way out to what a pod reaches (neither).\n\n\
         Usage: tpdocker run [--swap|--like [KIND/]NAME[:CONTAINER]] [FLAGS] IMAGE [COMMAND] [ARG...]\n\n\
         The flags are those of `docker run`, with the same meaning and the same syntax. What follows the\n\
         image belongs to the app.\n",
    );
    section(&mut text, "The session", |flag| flag.origin == Origin::Tpdocker);
    section(&mut text, "The container", |flag| flag.origin == Origin::Docker && flag.acts == Acts::App);
    section(&mut text, "Its network, which belongs to the sidecar container", |flag| {
        flag.origin == Origin::Docker && flag.acts != Acts::App
    });
    text.push_str(
        "\nExample:\n  tpdocker run --swap servicename --rm -it -v $(pwd):/app -p 8080:8080 examplecom/servicename\n  \
         tpdocker run --like servicename --rm -it examplecom/servicename sh\n  \
         tpdocker run -n staging --rm curlimages/curl http://servicename/\n",
    );
    text
}

fn section(text: &mut String, title: &str, belongs: impl Fn(&Flag) -> bool) {
    let _infallible = writeln!(text, "\n{title}:");
    for flag in FLAGS.iter().filter(|flag| belongs(flag)) {
        let indent = if flag.short.is_some() { "  " } else { "      " };
        let usage = format!("{indent}{}", flag.usage());
        if usage.len() < COLUMN {
            let _infallible = writeln!(text, "{usage:COLUMN$}{}", flag.help);
        } else {
            let _infallible = writeln!(text, "{usage}\n{:COLUMN$}{}", "", flag.help);
        }
    }
}
